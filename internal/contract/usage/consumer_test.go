package usage_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// shelf is a handler that counts what it stored.
type shelf struct {
	mu     sync.Mutex
	away   int            // so many calls fail
	stored map[string]int // by the message's text
	calls  int
}

func (s *shelf) Store(ctx context.Context, batch []usage.Delivery) (map[int]error, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	if ctx.Done() != nil {
		return nil, errors.New("the context of a batch must not end with the consumer")
	}
	if s.away > 0 {
		s.away--
		return nil, errors.New("the store is away")
	}
	refused := map[int]error{}
	for i, d := range batch {
		if string(d.Data) == "poison" {
			refused[i] = errors.New("not\nan event")
			continue
		}
		s.stored[string(d.Data)]++
	}
	return refused, nil
}

func consumerOf(t *testing.T, js jetstream.JetStream, h usage.Handler, deadLetters func()) *usage.Consumer {
	t.Helper()
	c, err := usage.NewConsumer(usage.ConsumerConfig{JetStream: js, Durable: "shelf", Description: "put on the shelf", Linger: 5 * time.Millisecond,
		Outstanding: 2, Handler: h, DeadLettered: deadLetters, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestConsumerStoresOnceBuriesAndAcknowledges(t *testing.T) {
	t.Parallel()
	js := jetStream(t)
	if _, err := usage.EnsureStream(t.Context(), js); err != nil {
		t.Fatal(err)
	}
	const events, poison = 300, 3
	for n := range events {
		text := fmt.Sprint("event ", n)
		if n%100 == 0 {
			text = "poison"
		}
		if _, err := js.Publish(t.Context(), usage.Subject("openai"), []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	s := &shelf{away: 2, stored: map[string]int{}}
	var deadLetters atomic.Int32
	c := consumerOf(t, js, s, func() { deadLetters.Add(1) })
	if _, err := c.Lag(t.Context()); !errors.Is(err, usage.ErrDetached) {
		t.Errorf("lag before it runs: want %v, got %v", usage.ErrDetached, err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	testenv.Eventually(t, "the stream is worked off", func() bool {
		lag, err := c.Lag(t.Context())
		return err == nil && lag == 0
	})
	stop()
	if err := <-done; err != nil {
		t.Errorf("want a clean stop, got %v", err)
	}
	if len(s.stored) != events-poison {
		t.Errorf("want %d events stored, got %d", events-poison, len(s.stored))
	}
	for text, times := range s.stored {
		if times != 1 {
			t.Errorf("%s: want it stored once, got %d", text, times)
		}
	}
	dead, err := js.Stream(t.Context(), usage.StreamDead)
	if err != nil {
		t.Fatal(err)
	}
	if n := dead.CachedInfo().State.Msgs; n != poison || deadLetters.Load() != poison {
		t.Errorf("want %d dead letters, got %d, counted %d", poison, n, deadLetters.Load())
	}
	letter, err := dead.GetLastMsgForSubject(t.Context(), usage.SubjectDead)
	if err != nil {
		t.Fatal(err)
	}
	if got := letter.Header.Get(usage.HeaderDeadReason); got != "not?an event" || string(letter.Data) != "poison" {
		t.Errorf("want the message with its reason on one line, got %q of %q", got, letter.Data)
	}
}

// TestConsumerHandsOnWhatItCannotStore: stopped while the store is away, it gives the batch
// back at once, not when the time to acknowledge is over.
func TestConsumerHandsOnWhatItCannotStore(t *testing.T) {
	t.Parallel()
	js := jetStream(t)
	if _, err := usage.EnsureStream(t.Context(), js); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), usage.Subject("openai"), []byte("event")); err != nil {
		t.Fatal(err)
	}
	away := &shelf{away: 1 << 30}
	first := consumerOf(t, js, away, func() {})
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- first.Run(ctx) }()
	testenv.Eventually(t, "the handler is asked", func() bool {
		away.mu.Lock()
		defer away.mu.Unlock()
		return away.calls > 0
	})
	stop()
	if err := <-done; err != nil {
		t.Errorf("want a clean stop, got %v", err)
	}
	consumer, err := first.Attach(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	messages, err := usage.Fetch(t.Context(), consumer, 10, time.Minute, time.Millisecond)
	if err != nil || len(messages) != 1 {
		t.Errorf("want the message again at once, got %d, %v", len(messages), err)
	}
}

func TestConsumerNeedsItsWholeConfiguration(t *testing.T) {
	t.Parallel()
	if _, err := usage.NewConsumer(usage.ConsumerConfig{}); err == nil {
		t.Error("want an error without configuration, got none")
	}
}
