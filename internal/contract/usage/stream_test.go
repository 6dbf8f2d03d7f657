package usage_test

import (
	"sync"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

func jetStream(t *testing.T) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect(testenv.NATS(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func TestEnsureStreamFromManyServicesAtOnce(t *testing.T) {
	t.Parallel()
	js := jetStream(t)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if _, err := usage.EnsureStream(t.Context(), js); err != nil {
				t.Errorf("ensure stream: want no error, got %v", err)
			}
		})
	}
	wg.Wait()
	for _, subject := range []string{usage.Subject("openai"), "leaky.saga.v1.completed", usage.SubjectDead} {
		for range 2 { // the second is a duplicate
			if _, err := js.Publish(t.Context(), subject, nil, jetstream.WithMsgID(subject)); err != nil {
				t.Errorf("publish %s: want no error, got %v", subject, err)
			}
		}
	}
	for subject, name := range map[string]string{usage.Subject("openai"): usage.Stream, "leaky.saga.v1.completed": usage.Stream,
		usage.SubjectDead: usage.StreamDead} {
		stream, err := js.Stream(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if got := testenv.Messages(t, stream, subject); got != 1 {
			t.Errorf("messages of %s in %s: want 1, got %d", subject, name, got)
		}
	}
}

func TestEnsureStreamKeepsTheOperatorsSettings(t *testing.T) {
	t.Parallel()
	js := jetStream(t)
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: usage.Stream, Subjects: []string{"leaky.usage.v1.*"},
		MaxMsgs: 12345}); err != nil {
		t.Fatal(err)
	}
	stream, err := usage.EnsureStream(t.Context(), js)
	if err != nil {
		t.Fatal(err)
	}
	config := stream.CachedInfo().Config
	if config.MaxMsgs != 12345 || len(config.Subjects) != 5 {
		t.Errorf("stream: want 12345 messages at most and 5 subjects, got %d and %v", config.MaxMsgs, config.Subjects)
	}
}
