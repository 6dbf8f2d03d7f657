package natsd_test

import (
	"context"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/notice"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/local/natsd"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// run starts a server and gives what stops it and checks how it ended.
func run(tb testing.TB, c natsd.Config) (url string, stop func()) {
	tb.Helper()
	server, err := natsd.New(c)
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	select {
	case <-server.Ready():
	case err := <-ended:
		cancel()
		tb.Fatalf("run: want a ready server, got %v", err)
	}
	return server.URL(), func() {
		tb.Helper()
		cancel()
		if err := <-ended; err != nil {
			tb.Errorf("stop: want no error, got %v", err)
		}
	}
}

func connect(tb testing.TB, url string) jetstream.JetStream {
	tb.Helper()
	nc, err := nats.Connect(url)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		tb.Fatal(err)
	}
	return js
}

func TestAcknowledgedMessagesSurviveARestart(t *testing.T) {
	t.Parallel()
	for name, sync := range map[string]time.Duration{"synced always": 0, "synced now and then": time.Minute} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := natsd.Config{Listen: "127.0.0.1:0", Dir: t.TempDir(), Sync: sync, Log: quiet()}
			url, stop := run(t, c)
			js := connect(t, url)
			if _, err := usage.EnsureStream(t.Context(), js); err != nil {
				t.Fatal(err)
			}
			for range 10 {
				if _, err := js.Publish(t.Context(), usage.Subject("qwen"), []byte("event")); err != nil {
					t.Fatal(err)
				}
			}
			stop()
			url, stop = run(t, c)
			defer stop()
			stream, err := usage.EnsureStream(t.Context(), connect(t, url))
			if err != nil {
				t.Fatal(err)
			}
			if got := testenv.Messages(t, stream, usage.SubjectsUsage); got != 10 {
				t.Errorf("messages after the restart: want 10, got %d", got)
			}
		})
	}
}

func TestBusyPortEndsRun(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	server, err := natsd.New(natsd.Config{Listen: ln.Addr().String(), Dir: t.TempDir(), Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Run(t.Context()); err == nil || !strings.Contains(err.Error(), ln.Addr().String()) {
		t.Errorf("run on a busy port: want an error with %s, got %v", ln.Addr(), err)
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]natsd.Config{
		"no port":       {Listen: "127.0.0.1", Dir: "x"},
		"port too high": {Listen: "127.0.0.1:70000", Dir: "x"},
		"no folder":     {Listen: "127.0.0.1:0"},
		"negative sync": {Listen: "127.0.0.1:0", Dir: "x", Sync: -1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := natsd.New(c); err == nil {
				t.Error("want an error, got none")
			}
		})
	}
}

// What syncing before every acknowledgement costs: 64 publishers that wait, and one that
// keeps 256 unacknowledged messages in flight, as the meter does.
func BenchmarkPublish(b *testing.B) {
	for name, sync := range map[string]time.Duration{"always": 0, "1s": time.Second, "2m": 2 * time.Minute} {
		b.Run("sync="+name+"/waiting=64", func(b *testing.B) {
			js := benchStream(b, sync)
			b.SetParallelism(32)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := js.Publish(b.Context(), usage.Subject("openai"), make([]byte, 600)); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
		b.Run("sync="+name+"/inflight=256", func(b *testing.B) {
			js := benchStream(b, sync)
			acks := make([]jetstream.PubAckFuture, 0, 256)
			for i := 0; b.Loop(); i++ {
				ack, err := js.PublishAsync(usage.Subject("openai"), make([]byte, 600))
				if err != nil {
					b.Fatal(err)
				}
				if acks = append(acks, ack); len(acks) == cap(acks) {
					for _, a := range acks {
						select {
						case <-a.Ok():
						case err := <-a.Err():
							b.Fatal(err)
						}
					}
					acks = acks[:0]
				}
			}
		})
	}
}

func benchStream(b *testing.B, sync time.Duration) jetstream.JetStream {
	b.Helper()
	url, stop := run(b, natsd.Config{Listen: "127.0.0.1:0", Dir: b.TempDir(), Sync: sync, Log: quiet()})
	b.Cleanup(stop)
	js := connect(b, url)
	if _, err := usage.EnsureStream(b.Context(), js); err != nil {
		b.Fatal(err)
	}
	return js
}

// TestASmallDiskHasEveryStream: what streams may take at most is reserved at once, so a server with
// less room gets smaller ones, and some is left.
func TestASmallDiskHasEveryStream(t *testing.T) {
	t.Parallel()
	for _, most := range []int64{128 << 20, 200_000_000, 5 << 30} {
		url, stop := run(t, natsd.Config{Listen: "127.0.0.1:0", Dir: t.TempDir(), Sync: time.Minute, MaxStore: most, Log: quiet()})
		js := connect(t, url)
		events, err := usage.EnsureStream(t.Context(), js)
		if err != nil {
			t.Fatalf("%d bytes: %v", most, err)
		}
		if bound := events.CachedInfo().Config.MaxBytes; bound < most/4 || bound > most/2 {
			t.Errorf("%d bytes: want a quarter to a half for events, got %d", most, bound)
		}
		if _, err := notice.EnsureStream(t.Context(), js); err != nil {
			t.Errorf("%d bytes: %v", most, err)
		}
		if _, err := js.Publish(t.Context(), usage.Subject("qwen"), []byte("event")); err != nil {
			t.Errorf("%d bytes: %v", most, err)
		}
		if _, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "more"}); err != nil {
			t.Errorf("%d bytes: %v", most, err)
		}
		stop()
	}
}
