package purchases

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/membership"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/outbox"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/payment"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/saga"
)

const pricePerMillion = 2_000_000 // two units a token: every token's price is seen

// workerConfig is what a worker process is told in LEAKY_TEST_WORKER.
type workerConfig struct {
	Postgres, NATS, Payment, Socket string
	Stripe                          bool
	Kill                            string // boundary at which it kills itself; empty: none
	Times                           int    // how often it passes the boundary before
}

// TestWorkerProcess is no test: it is one replica of the token service, as far as purchases
// go, when a fault schedule starts this binary again.
func TestWorkerProcess(t *testing.T) {
	text := os.Getenv("LEAKY_TEST_WORKER")
	if text == "" {
		t.Skip("runs only as a process of the fault test")
	}
	var cfg workerConfig
	if err := json.Unmarshal([]byte(text), &cfg); err != nil {
		t.Fatal(err)
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // ends with the test, however that ends
		os.Exit(0)
	}()
	if err := cfg.run(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func (c workerConfig) run(ctx context.Context) error {
	pool, err := pgxpool.New(ctx, c.Postgres)
	if err != nil {
		return err
	}
	nc, err := nats.Connect(c.NATS, nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond),
		nats.ReconnectBufSize(-1))
	if err != nil {
		return err
	}
	level := slog.LevelError
	if os.Getenv("LEAKY_TEST_DEBUG") != "" {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})).With("pid", os.Getpid())
	service, err := c.service(pool, log)
	if err != nil {
		return err
	}
	relay, err := outbox.New(outbox.Config{DB: pool, NATS: nc, PollEvery: 100 * time.Millisecond, Log: log, Metrics: prometheus.NewRegistry()})
	if err != nil {
		return err
	}
	_ = os.Remove(c.Socket)
	ln, err := net.Listen("unix", c.Socket)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return service.Run(ctx) })
	g.Go(func() error { return relay.Run(ctx) })
	g.Go(func() error { return httpapi.Serve(ctx, ln, routes(service, log)) })
	return g.Wait()
}

func (c workerConfig) service(pool *pgxpool.Pool, log *slog.Logger) (*saga.Service, error) {
	var pay saga.Payments
	var err error
	reach := payment.Config{URL: c.Payment, Timeout: 200 * time.Millisecond}
	if c.Stripe {
		pay, err = payment.NewStripe(reach)
	} else {
		pay, err = payment.NewPlain(reach)
	}
	if err != nil {
		return nil, err
	}
	return saga.New(saga.Config{Pool: pool, Payments: pay, Members: nobody{}, Providers: providers, Enabled: func() bool { return true },
		Price:    func(string) int64 { return pricePerMillion },
		QuotaMax: func(string) int64 { return 0 }, Currency: "usd", Attempts: 200, Workers: 4, Boundary: c.killer(), Log: log,
		Metrics: prometheus.NewRegistry(),
		Timing: saga.Timing{Step: 450 * time.Millisecond, Lease: 900 * time.Millisecond, Poll: 50 * time.Millisecond,
			Backoff:    5 * time.Millisecond,
			BackoffMax: 60 * time.Millisecond, Recover: 200 * time.Millisecond, Stale: 4 * time.Second}})
}

// killer ends the process as kill -9 does, the moment it passes the boundary.
func (c workerConfig) killer() func(string) {
	var mu sync.Mutex
	left := c.Times
	return func(at string) {
		if at != c.Kill {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if left--; left < 0 {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // not one instruction more
		}
	}
}

func providers() []string { return []string{"openai", "gemini", "qwen"} }

type nobody struct{}

func (nobody) Ask(context.Context, string, string) (membership.Answer, error) {
	return membership.Answer{}, nil
}

// routes takes the caller from a header, as the check of the signed identity would.
func routes(service *saga.Service, log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	for pattern, h := range service.Routes() {
		handler := httpapi.Handle(log, h)
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			role := cmp.Or(r.Header.Get("X-Test-Role"), principal.RoleUser)
			who := principal.Principal{UserID: r.Header.Get("X-Test-User"), Roles: []string{role}}
			handler.ServeHTTP(w, r.WithContext(principal.With(r.Context(), who)))
		})
	}
	return mux
}

// number reads a number from the environment.
func number(name string, missing uint64) uint64 {
	if n, err := strconv.ParseUint(strings.TrimSpace(os.Getenv(name)), 10, 64); err == nil {
		return n
	}
	return missing
}

// boundaries are all places where a crash parts what was done from what is known, in the
// order of a purchase. A schedule kills at one of them.
func boundaries() []string {
	all := []string{"purchase before", "purchase committed", "claimed"}
	for _, action := range []saga.Action{saga.Authorize, saga.Allocate, saga.Capture, saga.Void} {
		for _, at := range []string{"before", "answered", "uncommitted", "committed"} {
			if action == saga.Allocate && at == "answered" {
				continue // nobody is asked
			}
			all = append(all, fmt.Sprintf("%s %s", action, at))
		}
	}
	return all
}
