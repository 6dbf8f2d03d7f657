// Package revocations keeps what ended before its time and tells every extauthz. A
// revocation is recorded in the transaction of the change that caused it and announced
// by NATS once that is committed; what an announcement missed, the list has.
package revocations

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"

	"github.com/leaky-tokens/leaky-tokens/identity/identitydb"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/revocation"
	"github.com/leaky-tokens/leaky-tokens/internal/retry"
)

// KeyLife is how long the revocation of an API key is kept: longer than any extauthz
// trusts a key it looked up (auth.key_ttl is at most 2 minutes).
const KeyLife = revocation.ListedFor

// queryTime bounds a statement.
const queryTime = 5 * time.Second

// Record stores revocations within tx. Announce them after the commit.
func Record(ctx context.Context, tx identitydb.DBTX, all ...revocation.Revocation) error {
	// In one order, so that two transactions with the same rows wait for each other and not in a circle.
	ordered := slices.SortedFunc(slices.Values(all), func(a, b revocation.Revocation) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.ID, b.ID))
	})
	for _, r := range ordered {
		err := identitydb.New(tx).AddRevocation(ctx, identitydb.AddRevocationParams{Kind: string(r.Kind), ID: r.ID, Generation: r.Generation,
			Until: r.Until})
		if err != nil {
			return fmt.Errorf("record revocation: %w", err)
		}
	}
	return nil
}

// List are the revocations that still count.
func List(ctx context.Context, pool *pgxpool.Pool) (revocation.List, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTime)
	defer cancel()
	rows, err := identitydb.New(pool).LiveRevocations(ctx)
	if err != nil {
		return revocation.List{}, fmt.Errorf("list revocations: %w", err)
	}
	list := revocation.List{Revocations: make([]revocation.Revocation, len(rows))}
	for i, row := range rows {
		list.Revocations[i] = revocation.Revocation{Kind: revocation.Kind(row.Kind), ID: row.ID, Generation: row.Generation,
			Until: row.Until.UTC()}
	}
	return list, nil
}

// Announcer tells every extauthz by plain NATS, without waiting for anybody. What could
// not be sent is tried again for a while; the list has it meanwhile.
type Announcer struct {
	said  *retry.Troubles
	queue chan announcement
}

type announcement struct {
	message []byte
	until   time.Time
}

// patience is how long an announcement is tried: by then every extauthz has fetched the list.
const patience = 3 * time.Minute

// NewAnnouncer starts nothing.
func NewAnnouncer(log *slog.Logger) *Announcer {
	return &Announcer{said: retry.NewTroubles(log), queue: make(chan announcement, 4096)}
}

// Announce never blocks: it is called on a request's way.
func (a *Announcer) Announce(all ...revocation.Revocation) {
	for _, r := range all {
		select {
		case a.queue <- announcement{message: revocation.Encode(r), until: time.Now().Add(patience)}:
		default:
			a.said.Warn(context.Background(), "revocation not announced: too many wait; the list has it", nil, slog.String("kind", string(r.Kind)))
		}
	}
}

// Run sends what is announced, and a heartbeat each second, over conn until ctx ends, and what was announced
// before that once on the way out. So ctx is to end after whatever announces.
func (a *Announcer) Run(ctx context.Context, conn *nats.Conn) error {
	beat := time.NewTicker(revocation.HeartbeatEvery)
	defer beat.Stop()
	for {
		select {
		case <-ctx.Done():
			a.flush(conn)
			return nil
		case <-beat.C:
			_ = conn.Publish(revocation.SubjectHeartbeat, nil) // the next one follows
		case next := <-a.queue:
			a.send(ctx, conn, next)
		}
	}
}

// flush sends what is still queued, once, on the way out.
func (a *Announcer) flush(conn *nats.Conn) {
	for {
		select {
		case next := <-a.queue:
			_ = conn.Publish(revocation.Subject, next.message)
			continue
		default:
		}
		_ = conn.FlushTimeout(time.Second)
		return
	}
}

func (a *Announcer) send(ctx context.Context, conn *nats.Conn, next announcement) {
	trying, cancel := context.WithDeadline(ctx, next.until)
	defer cancel()
	const waiting = "revocations wait for NATS; the list has them"
	err := retry.Policy{First: 20 * time.Millisecond, Most: time.Second}.Do(trying, func(context.Context) error {
		if err := conn.Publish(revocation.Subject, next.message); err != nil {
			return err
		}
		return conn.FlushTimeout(time.Second)
	}, func(_ int, err error) {
		if ctx.Err() == nil {
			a.said.Warn(ctx, waiting, err, retry.Waiting(func() int64 { return 1 + int64(len(a.queue)) }))
		}
	})
	switch {
	case err == nil:
		a.said.Over(ctx, waiting, "revocations are announced again")
	case ctx.Err() != nil:
		_ = conn.Publish(revocation.Subject, next.message) // once more, or for the first time; flush follows
	default:
		a.said.Warn(ctx, "revocation not announced: NATS did not come back in time; the list has it", err)
	}
}
