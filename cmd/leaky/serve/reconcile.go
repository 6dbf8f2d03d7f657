package serve

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/grpc"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/ledgerbook"
	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/prices"
	"github.com/leaky-tokens/leaky-tokens/internal/reconcile"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// Books are the connections that reconciliation reads.
type Books struct {
	NATS    *nats.Conn
	Store   reconcile.EventStore
	Limiter *grpc.ClientConn
	Prices  *prices.Table
	Most    int // calls of one comparison
}

// Sources joins them with the stubs of the configuration, which know what they served.
func (b Books) Sources(cfg *config.Config) (reconcile.Sources, error) {
	js, err := jetstream.New(b.NATS)
	if err != nil {
		return reconcile.Sources{}, fmt.Errorf("open jetstream: %w", err)
	}
	return reconcile.Sources{Stream: js, Store: b.Store, Ledger: ledgerbook.NewClient(b.NATS), Limiter: limitpb.NewLimiterClient(b.Limiter),
		Prices: b.Prices, Most: b.Most, Stubs: stubsOf(cfg)}, nil
}

// stubTimeout bounds one page of what a stub served.
const stubTimeout = 30 * time.Second

// stubsOf are the providers whose address is a stub of this configuration; others keep no count that
// we can ask for.
func stubsOf(cfg *config.Config) map[string]reconcile.Stub {
	urls := map[string]bool{}
	for _, part := range topology.Having(func(p topology.Part) bool { return p.Provider != "" }) {
		urls["http://"+cfg.Services.Named(part.Name).HTTP] = true
	}
	stubs := map[string]reconcile.Stub{}
	for _, name := range slices.Sorted(maps.Keys(cfg.Providers)) {
		if url := cfg.Providers[name].URL; urls[url] {
			stubs[name] = reconcile.Stub{URL: url, HTTP: &http.Client{Timeout: stubTimeout}}
		}
	}
	return stubs
}

// scheduledCalls is how many calls a scheduled comparison takes at once: some 30 MB.
const scheduledCalls = 20_000

// reconciliation is the scheduled comparison of one process of analytics.
type reconciliation struct {
	job   *reconcile.Job // nil: another process does it, or nobody
	close func()
}

// openReconciliation makes it. The first replica does it alone.
func openReconciliation(s service, nc *nats.Conn, store reconcile.EventStore) (r reconciliation, err error) {
	r.close = func() {}
	if s.cfg.Analytics.ReconcileEvery == 0 || s.index > 0 {
		return r, nil
	}
	books := Books{NATS: nc, Store: store, Most: scheduledCalls}
	if books.Prices, err = s.prices(); err != nil {
		return r, err
	}
	if books.Limiter, err = dialLimiter(s); err != nil {
		return r, err
	}
	r.close = func() { _ = books.Limiter.Close() }
	sources, err := books.Sources(s.cfg)
	if err != nil {
		return r, err
	}
	r.job, err = reconcile.NewJob(reconcile.JobConfig{Sources: sources, Every: s.cfg.Analytics.ReconcileEvery, Metrics: s.metrics, Log: s.log})
	return r, err
}

// Run compares until ctx ends.
func (r reconciliation) Run(ctx context.Context) error {
	if r.job == nil {
		return nil
	}
	return r.job.Run(ctx)
}
