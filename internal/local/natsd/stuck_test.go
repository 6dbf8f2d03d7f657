package natsd_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/local/natsd"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// TestAServerThatDoesNotStoreEnds, and stores again with all it had when it is started with room: the
// bound of its files was taken from what was free when it started.
func TestAServerThatDoesNotStoreEnds(t *testing.T) {
	t.Parallel()
	c := natsd.Config{Listen: "127.0.0.1:0", Dir: t.TempDir(), Sync: time.Minute, MaxStore: 4 << 20, Look: time.Hour, Log: quiet()} // it fills before the second look
	server, err := natsd.New(c)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Run(context.WithoutCancel(t.Context())) }()
	<-server.Ready()
	js := connect(t, server.URL())
	// One of the usual bound would drop what is oldest, and never be full.
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: usage.Stream, Subjects: []string{"leaky.usage.v2.*", usage.SubjectProbe},
		Storage: jetstream.FileStorage}); err != nil {
		t.Fatal(err)
	}
	stored := 0
	testenv.Eventually(t, "a probe is stored", func() bool { return usage.Probe(t.Context(), js) == nil })
	var refused *usage.RefusesToStore
	testenv.Eventually(t, "the bound is reached", func() bool {
		for range 100 {
			if _, err := js.Publish(t.Context(), usage.Subject("qwen"), make([]byte, 16<<10)); err == nil {
				stored++
			}
		}
		return errors.As(usage.Probe(t.Context(), js), &refused)
	})
	if refused.Reason() != "no_space" {
		t.Errorf("want no_space, got %s: %v", refused.Reason(), refused)
	}
	select {
	case err := <-ended:
		if !errors.Is(err, natsd.ErrStuck) {
			t.Errorf("want %v, got %v", natsd.ErrStuck, err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the server goes on without storing")
	}
	c.MaxStore = 0
	url, stop := run(t, c)
	defer stop()
	js = connect(t, url)
	if err := usage.Probe(t.Context(), js); err != nil {
		t.Errorf("started anew: want it to store, got %v", err)
	}
	stream, err := js.Stream(t.Context(), usage.Stream)
	if err != nil {
		t.Fatal(err)
	}
	if got := stream.CachedInfo().State.Msgs; got < uint64(stored) { // a probe may have stayed that could not be taken out
		t.Errorf("want the %d messages that were acknowledged, got %d", stored, got)
	}
}
