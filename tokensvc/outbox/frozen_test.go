package outbox_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/balance"
	"github.com/leaky-tokens/leaky-tokens/internal/pgconn"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/outbox"
)

// frozen is a relay that stands still at a query in what it does, with the connections that tokensvc has, which
// Postgres lets stand for so long. What it gives ends the standstill and answers what that did.
func (w *world) frozen(do func(*outbox.Relay, context.Context) (int, error), query string, standstill time.Duration) (thaw func() (int, error)) {
	w.tb.Helper()
	pool, err := pgconn.Open(w.tb.Context(), pgconn.Config{URL: w.db.Config().ConnString(), Standstill: standstill})
	if err != nil {
		w.tb.Fatal(err)
	}
	pool.Close()
	var once sync.Once
	stands, goOn := make(chan struct{}), make(chan struct{})
	pool = testenv.Queries{Before: func(name string) {
		if name == query {
			once.Do(func() { close(stands); <-goOn })
		}
	}}.Watched(w.tb, pool)
	relay, _ := w.relay(func(c *outbox.Config) { c.DB = pool })
	type result struct {
		n   int
		err error
	}
	done := make(chan result, 1)
	thaw = sync.OnceValues(func() (int, error) {
		close(goOn)
		r := <-done
		return r.n, r.err
	})
	go func() {
		n, err := do(relay, context.WithoutCancel(w.tb.Context()))
		done <- result{n, err}
	}()
	w.tb.Cleanup(func() { _, _ = thaw() })
	<-stands
	return thaw
}

// TestAFrozenRelayHoldsUpNoOther: one stands still with its claim, between the confirmation of its events
// and their mark. Postgres takes the claim from it, and another goes on. What was confirmed is sent
// again under its ids.
func TestAFrozenRelayHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.add(numbered("a", 1), numbered("b", 1))
	thaw := w.frozen((*outbox.Relay).Round, "MarkPublished", 100*time.Millisecond)
	w.add(numbered("a", 2), numbered("b", 2))

	other, _ := w.relay(nil)
	testenv.Eventually(t, "another publishes what the frozen one had claimed", func() bool {
		if _, err := other.Round(t.Context()); err != nil {
			t.Error(err)
		}
		return w.count("published_at IS NULL") == 0
	})
	if n, err := thaw(); n != 0 || err == nil {
		t.Errorf("want the claim of the frozen relay ended, got %d, %v", n, err)
	}
	if got := len(w.stored()); got != 4 {
		t.Errorf("want each event once in the stream, got %d", got)
	}
}

// TestALookWaitsForWhatIsConfirmedAndNotMarked: a replica stands still in between when the stream comes back
// older. Another must not fill the place of that event before it is known where it was, or nobody would miss
// it later.
func TestALookWaitsForWhatIsConfirmedAndNotMarked(t *testing.T) {
	t.Parallel()
	for name, do := range map[string]func(*outbox.Relay, context.Context) (int, error){
		"in a round": (*outbox.Relay).Round, "with a parked balance": (*outbox.Relay).RetryParked,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			relay, _ := w.relay(nil)
			event := outbox.Event{ID: uuid.New(), AggregateType: "TokenPool", AggregateID: "a", Type: "TOKEN_BALANCE_CHANGED",
				Subject: balance.Subject("openai")}
			putBack := w.nats.Copy()
			w.add(event)
			if name == "with a parked balance" {
				if _, err := w.db.Exec(t.Context(), `UPDATE token_outbox SET parked_at = now()`); err != nil {
					t.Fatal(err)
				}
			}
			thaw := w.frozen(do, "MarkPublished", time.Minute)
			putBack()
			w.add(numbered("x", 1), numbered("y", 1)) // which would come into its place

			ctx, stop := context.WithCancel(t.Context())
			var running sync.WaitGroup
			t.Cleanup(func() { stop(); running.Wait() })
			running.Go(func() { _ = relay.Run(ctx) })
			testenv.Eventually(t, "the relay waits for the other, or has gone on", func() bool {
				var waits bool
				err := w.db.QueryRow(t.Context(), `SELECT exists(SELECT FROM pg_stat_activity WHERE datname = current_database()
					AND wait_event_type = 'Lock')`).Scan(&waits)
				return err == nil && (waits || w.count("published_at IS NULL") == 1)
			})
			if n, err := thaw(); n != 1 || err != nil {
				t.Errorf("want the other's event marked, got %d, %v", n, err)
			}
			testenv.Eventually(t, "the event is in the stream again", func() bool {
				_, _ = do(relay, t.Context()) // parked ones are tried every half minute
				return w.js.Conn().IsConnected() && slices.ContainsFunc(w.stored(), func(msg *jetstream.RawStreamMsg) bool {
					return msg.Header.Get(jetstream.MsgIDHeader) == event.ID.String()
				})
			})
		})
	}
}
