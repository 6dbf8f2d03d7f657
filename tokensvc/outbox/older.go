package outbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/tokensdb"
)

// never is before the first connection.
const never = math.MaxUint64

// lookBatch is how many published events are looked for in the stream at once.
const lookBatch = 500

// known is which of its connections to NATS a relay has looked at the stream over.
type known struct {
	mu   sync.Mutex
	link uint64
}

// errMoved says that NATS has been connected to again, and may be an older one.
var errMoved = errors.New("the connection to NATS is another than the one that the stream was looked at over")

// moved reports whether there is another connection than that of a look.
func (r *Relay) moved(link uint64) bool { return r.cfg.NATS.Stats().Reconnects != link }

// lookAtStream looks at the begin and over each new connection, before anything is published over it,
// whether the stream has what it confirmed: a server that comes back from an older copy has another
// connection, and lost the end of its stream. What is lost is published again. It answers which
// connection that is, and nothing may be published over another one.
//
// Rounds of other replicas may have had events confirmed by the server as it was, and not have marked
// them yet: the look would not find those, and later ones that this relay publishes in their places would
// end every look that comes after. So it waits for the rounds, which Postgres ends if they stand still.
func (r *Relay) lookAtStream(ctx context.Context) (link uint64, err error) {
	r.known.mu.Lock()
	defer r.known.mu.Unlock()
	link = r.cfg.NATS.Stats().Reconnects
	if r.known.link == link {
		return link, nil
	}
	asking, cancel := context.WithTimeout(ctx, ackWait)
	defer cancel()
	stream, err := usage.EnsureStream(asking, r.js)
	if err != nil {
		return 0, err
	}
	err = pgx.BeginFunc(ctx, r.cfg.DB, func(tx pgx.Tx) error {
		q := tokensdb.New(tx)
		if err := q.LockSlots(ctx); err != nil {
			return err
		}
		if err := q.LockParked(ctx); err != nil {
			return err
		}
		lost, since, err := r.lost(ctx, q, stream)
		if err != nil || len(lost) == 0 {
			return err
		}
		r.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "the stream came back older: what it lost of the outbox is published again",
			slog.Int("events", len(lost)), slog.Time("since", since), slog.Duration("kept_for", r.cfg.Keep))
		return q.PublishAgain(ctx, tokensdb.PublishAgainParams{Channel: channel, Ids: lost})
	})
	if err != nil {
		return 0, fmt.Errorf("look for published events: %w", err)
	}
	r.known.link = link
	return link, nil
}

// lost are the published events that the stream has no longer, and when the first of them was
// published. A copy lacks the end of a stream, so the search goes from there to the first one that is
// where it was confirmed. Others may stand in the places of lost ones by now.
func (r *Relay) lost(ctx context.Context, q *tokensdb.Queries, stream jetstream.Stream) (lost []uuid.UUID, since time.Time, err error) {
	before := int64(math.MaxInt64)
	for {
		rows, err := q.LastPublished(ctx, tokensdb.LastPublishedParams{Before: before, Most: lookBatch})
		if err != nil || len(rows) == 0 {
			return lost, since, err
		}
		for _, row := range rows {
			there, err := stands(ctx, stream, row)
			if err != nil || there {
				return lost, since, err
			}
			lost, since, before = append(lost, row.ID), row.PublishedAt, row.StreamSeq
		}
	}
}

// stands reports whether an event is in its place, or was dropped there for its age.
func stands(ctx context.Context, stream jetstream.Stream, row tokensdb.LastPublishedRow) (bool, error) {
	seq := uint64(row.StreamSeq)
	if seq < stream.CachedInfo().State.FirstSeq {
		return true, nil
	}
	asking, cancel := context.WithTimeout(ctx, ackWait)
	defer cancel()
	msg, err := stream.GetMsg(asking, seq)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return msg.Header.Get(jetstream.MsgIDHeader) == row.ID.String(), nil
}
