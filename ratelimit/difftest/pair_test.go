package difftest_test

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/leaky-tokens/leaky-tokens/bench/limits/peer"
	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/ratelimit"
)

// built makes upstream's binary once for all tests of the process.
var built = sync.OnceValues(func() (string, error) { // a build of many seconds
	dir, err := os.MkdirTemp("", "upstream")
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	return peer.Build(ctx, dir)
})

func TestMain(m *testing.M) {
	code := m.Run()
	if bin, err := built(); err == nil {
		os.RemoveAll(filepath.Dir(bin))
	}
	os.Exit(code)
}

// pair is upstream's server and ours with the same limits, over one Redis and at one
// virtual time.
type pair struct {
	set            *limits.Set
	upstream, ours rls.RateLimitServiceClient
	at             atomic.Int64 // seconds of Unix time
}

type noEvents struct{}

func (noEvents) Publish(context.Context, usage.Event) error { return nil }

func newPair(t *testing.T, text string) *pair {
	t.Helper()
	bin, err := built()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "limits.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	sets, err := limits.LoadDomains([]string{file})
	if err != nil {
		t.Fatal(err)
	}
	p := &pair{set: sets[0]}
	p.at.Store(1_800_000_000)
	client, prefix := testenv.Redis(t)
	process, err := peer.Start(peer.Config{Bin: bin, Redis: client.Options().Addr, Limits: file, Prefix: prefix + "up:",
		Env: []string{"REDIS_POOL_SIZE=4", "LIMIT_RESPONSE_HEADERS_ENABLED=true"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(process.Stop)
	p.upstream = dial(t, process.Addr)
	p.ours = dial(t, p.serve(t, "redis://"+client.Options().Addr, prefix))
	return p
}

// serve runs our service and returns its address.
func (p *pair) serve(t *testing.T, redis, prefix string) string {
	t.Helper()
	own, err := limits.Load("")
	if err != nil {
		t.Fatal(err)
	}
	service, err := ratelimit.New(ratelimit.Config{Policy: ratelimit.Policy{Limits: own, Domains: []*limits.Set{p.set},
		Tiers: config.Tiers{Default: "USER"}},
		RedisURL: redis, Prefix: prefix, Publisher: noEvents{}, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(),
		Timeout: 10 * time.Second,
		Longest: time.Minute, Holds: config.Holds{Margin: time.Minute, SettledKept: time.Minute}, Now: func() int64 { return p.at.Load() * 1e6 }})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- service.Listen(ctx, ln) }()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
		service.Close()
	})
	return ln.Addr().String()
}

func dial(t *testing.T, addr string) rls.RateLimitServiceClient {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return rls.NewRateLimitServiceClient(conn)
}

// ask asks both.
func (p *pair) ask(t *testing.T, r *rls.RateLimitRequest) (upstream, ours *rls.RateLimitResponse) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	upstream, err := p.upstream.ShouldRateLimit(metadata.AppendToOutgoingContext(ctx, "at", strconv.FormatInt(p.at.Load(), 10)), r)
	if err != nil {
		t.Fatalf("upstream: %v", err)
	}
	ours, err = p.ours.ShouldRateLimit(ctx, r)
	if err != nil {
		t.Fatalf("ours: %v", err)
	}
	return upstream, ours
}

// answer is what a client sees of a decision.
type answer struct {
	refused   bool
	remaining string // of the tightest limit; empty: none matched
}

func answerOf(r *rls.RateLimitResponse) answer {
	a := answer{refused: r.GetOverallCode() == rls.RateLimitResponse_OVER_LIMIT}
	for _, h := range r.GetResponseHeadersToAdd() {
		if name := h.GetKey(); name == "RateLimit-Remaining" || name == "x-ratelimit-remaining" {
			a.remaining = h.GetValue()
		}
	}
	return a
}
