package usage_test

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// TestFetchDropsNothing fetches with waits that are over before a process could read what
// the server sends: whatever is delivered must come out, since it would come again only
// after AckWait.
func TestFetchDropsNothing(t *testing.T) {
	t.Parallel()
	js := jetStream(t)
	stream, err := usage.EnsureStream(t.Context(), js)
	if err != nil {
		t.Fatal(err)
	}
	const events = 6000
	for n := range events {
		future, err := js.PublishAsync(usage.Subject("openai"), make([]byte, 600))
		if err != nil {
			t.Fatal(err)
		}
		if n%500 == 499 {
			<-future.Ok()
		}
	}
	<-js.PublishAsyncComplete()
	consumer, err := stream.CreateConsumer(t.Context(), jetstream.ConsumerConfig{Durable: "d", AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: time.Hour, MaxAckPending: 2 * events})
	if err != nil {
		t.Fatal(err)
	}
	got := 0
	for got < events {
		messages, err := usage.Fetch(t.Context(), consumer, 2000, time.Minute, time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		if len(messages) == 0 {
			break
		}
		got += len(messages)
	}
	if got != events {
		t.Errorf("want %d messages, got %d: the rest is delivered and lost", events, got)
	}
	if messages, err := usage.Fetch(t.Context(), consumer, 10, 10*time.Millisecond, time.Millisecond); len(messages) != 0 || err != nil {
		t.Errorf("without messages: want none and no error, got %d, %v", len(messages), err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if messages, err := usage.Fetch(ended, consumer, 10, time.Hour, time.Hour); len(messages) != 0 || err != nil {
		t.Errorf("after the end of the context: want none and no error, got %d, %v", len(messages), err)
	}
}

// TestFetchTakesWhatComesAfterAStop: a request that stands when ctx ends is waited for,
// since what is delivered to it would be nobody's until AckWait.
func TestFetchTakesWhatComesAfterAStop(t *testing.T) {
	t.Parallel()
	js := jetStream(t)
	stream, err := usage.EnsureStream(t.Context(), js)
	if err != nil {
		t.Fatal(err)
	}
	consumer, err := stream.CreateConsumer(t.Context(), jetstream.ConsumerConfig{Durable: "d", AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	got := make(chan int, 1)
	go func() {
		messages, err := usage.Fetch(ctx, consumer, 10, time.Minute, time.Millisecond)
		if err != nil {
			t.Errorf("want no error, got %v", err)
		}
		got <- len(messages)
	}()
	testenv.Eventually(t, "a waiting request", func() bool {
		info, err := consumer.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return info.NumWaiting > 0
	})
	stop()
	if _, err := js.Publish(t.Context(), usage.Subject("openai"), nil); err != nil {
		t.Fatal(err)
	}
	if n := <-got; n != 1 {
		t.Errorf("want the message, got %d", n)
	}
}
