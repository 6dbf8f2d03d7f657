package identity

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/leaky-tokens/leaky-tokens/internal/usage"
)

// revocations tells every extauthz what to forget, by plain NATS. The database is
// the truth and their caches end by themselves, so this is best effort: what could
// not be sent is tried again until the caches have ended anyway.
type revocations struct {
	url   string // empty: nobody is told
	log   *slog.Logger
	queue chan revocation
}

type revocation struct {
	subject string
	payload string
	until   time.Time // no cache holds it any longer after that
}

// longestCache is longer than any extauthz trusts a looked-up credential.
const longestCache = 3 * time.Minute

func newRevocations(url string, log *slog.Logger) *revocations {
	return &revocations{url: url, log: log, queue: make(chan revocation, 1024)}
}

func (r *revocations) key(hash string) { r.add(usage.SubjectRevokedKey, hash) }

func (r *revocations) user(id string) { r.add(usage.SubjectRevokedUser, id) }

// add never blocks: it is called on a request's way.
func (r *revocations) add(subject, payload string) {
	select {
	case r.queue <- revocation{subject: subject, payload: payload, until: time.Now().Add(longestCache)}:
	default:
		r.log.Warn("revocation not announced: too many wait; caches end by themselves", slog.String("subject", subject))
	}
}

// run sends what is queued until ctx ends.
func (r *revocations) run(ctx context.Context) error {
	if r.url == "" {
		r.log.Warn("no NATS address: revocations take effect when caches end")
		<-ctx.Done()
		return nil
	}
	conn, err := nats.Connect(r.url, nats.Name("identity"), nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1),
		nats.ReconnectWait(250*time.Millisecond), nats.ReconnectJitter(50*time.Millisecond, 50*time.Millisecond), nats.ReconnectBufSize(-1))
	if err != nil {
		return fmt.Errorf("connect nats: %w", err)
	}
	defer conn.Close()
	for {
		select {
		case <-ctx.Done():
			r.flush(conn)
			return nil
		case next := <-r.queue:
			r.send(ctx, conn, next)
		}
	}
}

// flush sends what is still queued, once, on the way out.
func (r *revocations) flush(conn *nats.Conn) {
	for {
		select {
		case next := <-r.queue:
			_ = conn.Publish(next.subject, []byte(next.payload))
			continue
		default:
		}
		_ = conn.FlushTimeout(time.Second)
		return
	}
}

func (r *revocations) send(ctx context.Context, conn *nats.Conn, next revocation) {
	for pause := 20 * time.Millisecond; time.Now().Before(next.until); pause = min(2*pause, time.Second) {
		err := conn.Publish(next.subject, []byte(next.payload))
		if err == nil {
			err = conn.FlushTimeout(time.Second)
		}
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
	r.log.Warn("revocation not announced: NATS did not come back in time", slog.String("subject", next.subject))
}
