package outbox_test

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/outbox"
)

// TestAnOlderStreamIsFilledAgain: what was published after a copy of NATS' data was made is published
// again when the copy is put back, once, whoever has taken the places in the stream meanwhile, under a
// relay that lives on as for one that starts then.
func TestAnOlderStreamIsFilledAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	relay, _ := w.relay(nil)
	var ids []string
	more := func(n int) {
		t.Helper()
		for range n {
			id := uuid.New()
			ids = append(ids, id.String())
			w.add(outbox.Event{ID: id, AggregateType: "Test", AggregateID: "a", Type: "T", Subject: "leaky.saga.v1.T", Data: len(ids)})
		}
	}
	published := func(relay *outbox.Relay) {
		t.Helper()
		testenv.Eventually(t, "everything is published", func() bool {
			_, err := relay.Round(t.Context())
			return err == nil && w.count("published_at IS NULL") == 0
		})
	}
	whole := func() {
		t.Helper()
		var times map[string]int
		testenv.Eventually(t, "everything is in the stream", func() bool {
			_, err := relay.Round(t.Context())
			times = map[string]int{}
			for _, msg := range w.stored() {
				times[msg.Header.Get(jetstream.MsgIDHeader)]++
			}
			return err == nil && !slices.ContainsFunc(ids, func(id string) bool { return times[id] == 0 })
		})
		for i, id := range ids {
			if times[id] != 1 {
				t.Errorf("event %d of %d: want it once in the stream, got it %d times", i, len(ids), times[id])
			}
		}
	}
	others := func(n int) { // the meter's
		t.Helper()
		for range n {
			testenv.Eventually(t, "another event is stored", func() bool {
				_, err := w.js.Publish(t.Context(), usage.Subject("openai"), []byte("{}"))
				return err == nil
			})
		}
	}
	more(5)
	published(relay)
	putBack := w.nats.Copy()
	more(5)
	published(relay)
	putBack()
	others(8)
	whole()

	putBack = w.nats.Copy()
	more(5)
	published(relay)
	putBack()
	others(2)
	relay, _ = w.relay(nil)
	whole()
}

// TestAnOlderStreamIsFilledInOrder: what comes up while NATS is away, to come back older, is published
// after what the stream lost of the same thing.
func TestAnOlderStreamIsFilledInOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	relay, _ := w.relay(nil)
	var running sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	defer func() { stop(); running.Wait() }()
	running.Go(func() { _ = relay.Run(ctx) })
	var want []string
	step := func() {
		id := uuid.New()
		want = append(want, id.String())
		w.add(outbox.Event{ID: id, AggregateType: "Test", AggregateID: "purchase", Type: "STEP", Subject: "leaky.saga.v1.STEP", Data: len(want)})
	}
	published := func() bool { return w.count("published_at IS NULL") == 0 }
	putBack := w.nats.Copy()
	step()
	step()
	testenv.Eventually(t, "the first steps are published", published)
	w.nats.Stop()
	step()
	putBack()
	testenv.Eventually(t, "all steps are published", func() bool { return published() && w.js.Conn().IsConnected() })
	var got []string
	for _, msg := range w.stored() {
		got = append(got, msg.Header.Get(jetstream.MsgIDHeader))
	}
	if !slices.Equal(got, want) {
		t.Errorf("want each step once and in order, %v, got %v", want, got)
	}
}

// TestARelayKeepsNoMessagesInItsConnection: those would go over the next one before the look.
func TestARelayKeepsNoMessagesInItsConnection(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	nc, err := nats.Connect(w.nats.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	if _, err := outbox.New(outbox.Config{DB: w.db, NATS: nc, Metrics: prometheus.NewRegistry(), Log: slog.New(slog.DiscardHandler)}); err == nil {
		t.Error("want a connection that keeps messages refused, got no error")
	}
}
