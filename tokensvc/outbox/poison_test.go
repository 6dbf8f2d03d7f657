package outbox_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/balance"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/outbox"
)

// limit changes the stream as its operator, or its disk, would.
func (w *world) limit(change func(*jetstream.StreamConfig)) {
	w.tb.Helper()
	stream, err := w.js.Stream(w.tb.Context(), usage.Stream)
	if err != nil {
		w.tb.Fatal(err)
	}
	cfg := stream.CachedInfo().Config
	change(&cfg)
	if _, err := w.js.UpdateStream(w.tb.Context(), cfg); err != nil {
		w.tb.Fatal(err)
	}
}

// TestOutageIsHeldAgainstNoEvent: JetStream is there and says no, for reasons that are not the
// events'. However long it lasts nothing is parked, and afterwards all is there in order.
func TestOutageIsHeldAgainstNoEvent(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ begin, end func(*jetstream.StreamConfig) }{
		"stream holds no more messages": {
			func(c *jetstream.StreamConfig) { c.Discard, c.MaxMsgs = jetstream.DiscardNew, 4 },
			func(c *jetstream.StreamConfig) { c.MaxMsgs = -1 }},
		"stream holds no more bytes": {
			func(c *jetstream.StreamConfig) { c.Discard, c.MaxBytes = jetstream.DiscardNew, 2000 },
			func(c *jetstream.StreamConfig) { c.MaxBytes = -1 }},
		"no message is acknowledged": {
			func(c *jetstream.StreamConfig) { c.NoAck = true }, func(c *jetstream.StreamConfig) { c.NoAck = false }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.limit(tc.begin)
			const aggregates, each = 4, 6
			for n := range each {
				w.add(numbered("a0", n), numbered("a1", n), numbered("a2", n), numbered("a3", n))
			}
			relay, _ := w.relay(func(c *outbox.Config) { c.Attempts = 1 }) // one refusal would do
			for outages := 0; outages < 2; {
				if _, err := relay.Round(t.Context()); err != nil {
					outages++
				}
			}
			if n := w.count("attempts > 0 OR parked_at IS NOT NULL"); n != 0 {
				t.Errorf("want nothing held against an event, got %d rows", n)
			}
			w.limit(tc.end)
			for w.count("published_at IS NULL") > 0 {
				if _, err := relay.Round(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			w.checkOrder(aggregates, each)
		})
	}
}

// parkedShown is what /metrics has of so many parked events.
func parkedShown(n int) string {
	return fmt.Sprintf("# HELP token_outbox_parked_events Events refused too many times; a person must look. Those of balances are tried on.\n"+
		"# TYPE token_outbox_parked_events gauge\ntoken_outbox_parked_events %d\n", n)
}

// TestParkedBalanceIsTriedOn: a balance that JetStream refuses is parked and shown like
// anything else, but tried for ever; other events wait for a person.
func TestParkedBalanceIsTriedOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.limit(func(c *jetstream.StreamConfig) { c.MaxMsgSize = 400 })
	padding := strings.Repeat("x", 1000)
	w.add(outbox.Event{AggregateType: "TokenPool", AggregateID: "user:a/openai", Type: "TOKEN_BALANCE_CHANGED",
		Subject: balance.Subject("openai"), Data: map[string]string{"account": padding}},
		outbox.Event{AggregateType: "Test", AggregateID: "a", Type: "COUNTED", Subject: "leaky.saga.v1.COUNTED", Data: padding},
		outbox.Event{AggregateType: "TokenPool", AggregateID: "user:a/openai", Type: "TOKEN_BALANCE_CHANGED",
			Subject: balance.Subject("openai"), Data: map[string]string{"account": "a"}})
	relay, series := w.relay(func(c *outbox.Config) { c.Attempts = 2 })
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = relay.Run(ctx) })
	testenv.Eventually(t, "both are parked, and the next balance is through", func() bool {
		return w.count("parked_at IS NOT NULL") == 2 && w.count("published_at IS NOT NULL") == 1
	})
	stop()
	running.Wait()
	due := func() {
		if _, err := w.db.Exec(t.Context(), `UPDATE token_outbox SET next_at = now()`); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		due()
		if n, err := relay.RetryParked(t.Context()); n != 0 || err != nil {
			t.Fatalf("still refused: want 0, got %d, %v", n, err)
		}
	}
	if n := w.count("parked_at IS NOT NULL AND published_at IS NULL AND attempts = 5 AND subject LIKE 'leaky.balance.%'"); n != 1 {
		t.Errorf("want the balance still shown as parked, with its tries counted, got %d", n)
	}
	w.limit(func(c *jetstream.StreamConfig) { c.MaxMsgSize = -1 })
	due()
	ctx, stop = context.WithCancel(t.Context()) // who runs tries again, without being told to
	running.Go(func() { _ = relay.Run(ctx) })
	testenv.Eventually(t, "the balance is through", func() bool {
		return w.count("parked_at IS NOT NULL AND published_at IS NOT NULL AND subject LIKE 'leaky.balance.%'") == 1
	})
	stop()
	running.Wait()
	shown := func(n int) error {
		return testutil.GatherAndCompare(series, strings.NewReader(parkedShown(n)), "token_outbox_parked_events")
	}
	if err := shown(2); err != nil && shown(1) != nil { // before or after the balance went through
		t.Error(err)
	}
	if n := w.count("parked_at IS NOT NULL AND published_at IS NULL AND subject LIKE 'leaky.saga.%'"); n != 1 {
		t.Errorf("want the other event parked still, got %d", n)
	}
}
