package outbox_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/leaky-tokens/leaky-tokens/internal/pgconn"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/outbox"
)

// stopAt holds up the first query of a name before it is sent, until thaw is closed.
type stopAt struct {
	query        string
	once         *sync.Once
	stands, thaw chan struct{}
}

func newStopAt(query string) stopAt {
	return stopAt{query, new(sync.Once), make(chan struct{}), make(chan struct{})}
}

// TraceQueryStart implements pgx.QueryTracer.
func (s stopAt) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	if strings.HasPrefix(data.SQL, "-- name: "+s.query+" ") {
		s.once.Do(func() { close(s.stands); <-s.thaw })
	}
	return ctx
}

// TraceQueryEnd implements pgx.QueryTracer.
func (stopAt) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// frozen is a relay that stands still in a round at a query, with the connections that tokensvc has, which
// Postgres lets stand for so long. What it gives ends the standstill and answers what the round did.
func (w *world) frozen(query string, standstill time.Duration) (thaw func() (int, error)) {
	w.tb.Helper()
	pool, err := pgconn.Open(w.tb.Context(), pgconn.Config{URL: w.db.Config().ConnString(), Standstill: standstill})
	if err != nil {
		w.tb.Fatal(err)
	}
	config, stop := pool.Config(), newStopAt(query)
	pool.Close()
	config.ConnConfig.Tracer = stop
	if pool, err = pgxpool.NewWithConfig(w.tb.Context(), config); err != nil {
		w.tb.Fatal(err)
	}
	w.tb.Cleanup(pool.Close)
	relay, _ := w.relay(func(c *outbox.Config) { c.DB = pool })
	type result struct {
		n   int
		err error
	}
	done := make(chan result, 1)
	thaw = sync.OnceValues(func() (int, error) {
		close(stop.thaw)
		r := <-done
		return r.n, r.err
	})
	go func() {
		n, err := relay.Round(context.WithoutCancel(w.tb.Context()))
		done <- result{n, err}
	}()
	w.tb.Cleanup(func() { _, _ = thaw() })
	<-stop.stands
	return thaw
}

// TestAFrozenRelayHoldsUpNoOther: one stands still with its claim, between the confirmation of its events
// and their mark. Postgres takes the claim from it, and another goes on. What was confirmed is sent
// again under its ids.
func TestAFrozenRelayHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.add(numbered("a", 1), numbered("b", 1))
	thaw := w.frozen("MarkPublished", 100*time.Millisecond)
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
