package analytics

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// following is a consumer that keeps its position in the store.
func following(t *testing.T, js jetstream.JetStream, store *Store) (c *Consumer, stop func()) {
	t.Helper()
	c, err := NewConsumer(ConsumerConfig{JetStream: js, Store: store, Positions: store.Positions(Durable),
		Metrics: NewMetrics(prometheus.NewRegistry()), Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	return c, run(t, c.Run)
}

// TestAnOlderClickHouseIsFilledAgain: calls and purchases that were inserted and acknowledged after a
// copy of the engine's data was made are there again when the copy is put back, each once, whether
// the service lives on or starts on it. (Of one that lives on and has nothing to insert meanwhile, the
// position says it, if the copy is from before that was noted last.)
func TestAnOlderClickHouseIsFilledAgain(t *testing.T) {
	t.Parallel()
	now := time.Now()
	engine := testenv.ClickHouseServer(t)
	store, js := openStore(t, engine.URL()), jetStream(t, testenv.NATS(t))
	var events []usage.Event
	bought := 0
	more := func(n int) {
		t.Helper()
		for range n {
			e := event(fmt.Sprintf("r%d", len(events)), alice, "openai", now, int64(len(events)))
			events = append(events, e)
			publish(t, js, e)
		}
		bought++
		saga := fmt.Sprintf("33333333-3333-4333-8333-%012d", bought)
		if _, err := js.Publish(t.Context(), "leaky.saga.v1.completed", []byte(purchaseText(saga, saga, alice, "null", "COMPLETED", 5, now, 0))); err != nil {
			t.Fatal(err)
		}
	}
	complete := func() {
		t.Helper()
		f := everything(now)
		testenv.Eventually(t, "everything is stored", func() bool {
			got, err := store.Totals(t.Context(), f, topUsersMost)
			p, perr := store.Purchases(t.Context(), f, 10)
			return err == nil && perr == nil && got.Events == int64(len(events)) && p.Count == int64(bought)
		})
		sameTotals(t, store, events, f)
	}
	var calls *Consumer
	start := func() (stop func()) {
		var stopCalls func()
		calls, stopCalls = following(t, js, store)
		p, err := NewPurchaseConsumer(js, store, NewMetrics(prometheus.NewRegistry()), ConsumerConfig{Log: quiet()})
		if err != nil {
			t.Fatal(err)
		}
		purchases := run(t, p.Run)
		return func() { stopCalls(); purchases() }
	}
	more(20)
	stop := start()
	complete()
	putBack := engine.Copy()
	more(20)
	complete()
	engine.Kill() // under a service that lives on, and has something to insert meanwhile
	failed := counted(calls.metrics.insertFailures)
	more(1)
	testenv.Eventually(t, "an insert fails", func() bool { return counted(calls.metrics.insertFailures) > failed })
	putBack()
	complete()
	more(5)
	complete()

	putBack = engine.Copy()
	more(20)
	complete()
	stop()
	putBack()
	start()
	complete()
}

// TestTheLastNoteStandsWhateverTheClockSays: a note of when the engine's clock was an hour ahead.
func TestTheLastNoteStandsWhateverTheClockSays(t *testing.T) {
	t.Parallel()
	store := openStore(t, testenv.ClickHouse(t))
	p := store.Positions(Durable)
	for _, at := range []usage.Position{{Stream: "one", Sequence: 7}, {Stream: "one", Sequence: 9}, {Stream: "one", Sequence: 8}} {
		if err := store.conn.Exec(t.Context(), `INSERT INTO consumer_positions (consumer, stream, sequence, noted_at)
			SELECT consumer, stream, sequence, noted_at + toIntervalHour(1) FROM consumer_positions`); err != nil {
			t.Fatal(err)
		}
		if err := p.Note(t.Context(), at); err != nil {
			t.Fatal(err)
		}
		if got, err := p.Position(t.Context()); err != nil || got != at {
			t.Errorf("want %+v, got %+v, %v", at, got, err)
		}
	}
	if got, err := store.Positions("another").Position(t.Context()); err != nil || got != (usage.Position{}) {
		t.Errorf("want no position of another consumer, got %+v, %v", got, err)
	}
}
