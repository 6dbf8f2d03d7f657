package usage_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// notebook is a store that keeps its position.
type notebook struct {
	mu     sync.Mutex
	stored map[uint64]int // how often, by place in the stream
	at     usage.Position
}

func (n *notebook) Store(_ context.Context, batch []usage.Delivery) (map[int]error, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, d := range batch {
		n.stored[d.Sequence]++
	}
	return nil, nil
}

func (n *notebook) Position(context.Context) (usage.Position, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.at, nil
}

func (n *notebook) Note(_ context.Context, at usage.Position) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if at.Server != n.at.Server {
		return errors.New("another server")
	}
	n.at = at
	return nil
}

// times is how often it was given events.
func (n *notebook) times() (all int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, times := range n.stored {
		all += times
	}
	return all
}

// lacks are the places from one to another that it has not.
func (n *notebook) lacks(from, to uint64) (lacking []uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for seq := from; seq <= to; seq++ {
		if n.stored[seq] == 0 {
			lacking = append(lacking, seq)
		}
	}
	return lacking
}

// replica makes one of the consumers that share the notebook.
func (n *notebook) replica(t *testing.T, js jetstream.JetStream) *usage.Consumer {
	t.Helper()
	c, err := usage.NewConsumer(usage.ConsumerConfig{JetStream: js, Durable: "notebook", Description: "write down", Linger: time.Millisecond,
		Outstanding: 2, Handler: n, Positions: n, DeadLettered: func() {}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func attach(t *testing.T, c *usage.Consumer) jetstream.Consumer {
	t.Helper()
	consumer, err := c.Attach(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return consumer
}

func publish(t *testing.T, js jetstream.JetStream, events int) {
	t.Helper()
	for range events {
		if _, err := js.Publish(t.Context(), usage.Subject("openai"), []byte("event")); err != nil {
			t.Fatal(err)
		}
	}
}

// take fetches so many events.
func take(t *testing.T, consumer jetstream.Consumer, events int) (taken []jetstream.Msg) {
	t.Helper()
	testenv.Eventually(t, "events are delivered", func() bool {
		found, err := consumer.Fetch(events-len(taken), jetstream.FetchMaxWait(time.Second))
		if err != nil {
			t.Fatal(err)
		}
		for msg := range found.Messages() {
			taken = append(taken, msg)
		}
		return len(taken) == events
	})
	return taken
}

// TestWhatIsAcknowledgedAboveAnOpenBatchIsReadAgain: a replica holds a batch open, and another one has
// stored and acknowledged what came after it, when the store comes back older. NATS never gives that
// again, and what it counts as acknowledged in one piece ends below the open batch.
func TestWhatIsAcknowledgedAboveAnOpenBatchIsReadAgain(t *testing.T) {
	t.Parallel()
	js := jetStream(t)
	n := &notebook{stored: map[uint64]int{}, at: usage.Position{Server: "first"}}
	slow, quick := n.replica(t, js), n.replica(t, js)
	consumer := attach(t, slow)
	if err := slow.Look(t.Context()); err != nil {
		t.Fatal(err)
	}
	publish(t, js, 200)
	slow.Process(t.Context(), take(t, consumer, 100))
	open := take(t, consumer, 50)
	working := func() { // the slow one is still at it
		for _, msg := range open {
			if err := msg.InProgress(); err != nil {
				t.Fatal(err)
			}
		}
	}
	again := attach(t, quick)
	working()
	quick.Process(t.Context(), take(t, again, 50))
	if lacking := n.lacks(151, 200); len(lacking) > 0 {
		t.Fatalf("want 151 to 200 stored, it lacks %v", lacking)
	}

	n.stored = map[uint64]int{} // by a copy that is from before most of that
	for seq := range uint64(80) {
		n.stored[seq+1] = 1
	}
	n.at.Sequence, n.at.Server = 80, "second"
	working()
	if err := quick.Look(t.Context()); err != nil {
		t.Fatal(err)
	}
	if lacking := append(n.lacks(1, 100), n.lacks(151, 200)...); len(lacking) > 0 {
		t.Errorf("want what was acknowledged stored again, it lacks %v", lacking)
	}
	if n.at.Sequence != 100 || n.at.Noted != "second" {
		t.Errorf("want 100 noted, since the store need not have the open batch, got %+v", n.at)
	}
	slow.Process(t.Context(), open)
	if err := quick.Look(t.Context()); err != nil || n.at.Sequence != 200 || len(n.lacks(1, 200)) > 0 {
		t.Errorf("want all stored and noted, got %+v without %v: %v", n.at, n.lacks(1, 200), err)
	}
}

// TestReplicasAgreeOnAStreamThatWasMadeAnew: one of them finds that NATS was emptied and makes stream and
// consumer again, which the other one's requests then find by their names. It has to notice, or each
// takes the other's note for one of another stream, and reads everything again at each look.
func TestReplicasAgreeOnAStreamThatWasMadeAnew(t *testing.T) {
	t.Parallel()
	js := jetStream(t)
	n := &notebook{stored: map[uint64]int{}}
	replicas := []*usage.Consumer{n.replica(t, js), n.replica(t, js)}
	for _, c := range replicas {
		attach(t, c)
		if err := c.Look(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := js.DeleteStream(t.Context(), usage.Stream); err != nil {
		t.Fatal(err)
	}
	consumer := attach(t, replicas[0])
	publish(t, js, 20)
	replicas[0].Process(t.Context(), take(t, consumer, 20))
	if err := replicas[1].Look(t.Context()); !errors.Is(err, usage.ErrMadeAnew) {
		t.Errorf("attached to the stream that is gone: want %v, got %v", usage.ErrMadeAnew, err)
	} else {
		attach(t, replicas[1]) // as Run does
	}
	for _, c := range replicas {
		if err := c.Look(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	settled := n.times()
	for range 3 {
		for _, c := range replicas {
			if err := c.Look(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if again := n.times() - settled; again > 0 {
		t.Errorf("want nothing read again by later looks, got %d events", again)
	}
}
