package outbox_test

import (
	"slices"
	"testing"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"

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
