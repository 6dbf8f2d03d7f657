package serve

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/balance"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/ledgerbook"
	"github.com/leaky-tokens/leaky-tokens/internal/telemetry"
	"github.com/leaky-tokens/leaky-tokens/tokensvc"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/ledger"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/outbox"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/pools"
)

// books are the parts of the token service that keep pools: what answers for them, and
// what runs beside.
type books struct {
	api  *pools.API
	runs []func(context.Context) error
}

// openBooks makes the ledger's consumer, the outbox's relay, the answers to ratelimit and
// the jobs.
func openBooks(s service, db *pgxpool.Pool, nc *nats.Conn, store *tokensvc.Store, members pools.Members, limiter pools.Limiter) (*books,
	error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("open jetstream: %w", err)
	}
	consumer, err := ledger.NewConsumer(ledger.ConsumerConfig{JetStream: js, DB: db, Metrics: s.metrics, Log: s.log,
		Traces: s.traces})
	if err != nil {
		return nil, err
	}
	c := s.cfg.Pools
	relay, err := outbox.New(outbox.Config{DB: db, NATS: nc, PollEvery: c.Outbox.PollEvery, Batch: c.Outbox.Batch,
		Attempts: c.Outbox.Attempts, Keep: c.Outbox.Keep,
		Metrics: s.metrics, Log: s.log})
	if err != nil {
		return nil, err
	}
	balances, err := pools.NewBalances(pools.BalanceConfig{DB: db, NATS: nc, Ledger: consumer,
		Wait: balance.AskWithin(s.cfg.Limits.Timeout), Log: s.log})
	if err != nil {
		return nil, err
	}
	jobs, err := pools.NewJobs(pools.JobsConfig{DB: db, Ledger: consumer, ExpireEvery: c.ExpireEvery, AnnounceEvery: c.AnnounceEvery,
		Metrics: s.metrics, Log: s.log})
	if err != nil {
		return nil, err
	}
	api, err := pools.New(pools.Config{DB: db, Ready: store.Ready, Members: members, Limiter: limiter,
		Providers: s.live.providers, Policy: granted(c), Metrics: s.metrics, Log: s.log})
	if err != nil {
		return nil, err
	}
	return &books{api: api, runs: []func(context.Context) error{consumer.Run, relay.Run, balances.Run, jobs.Run,
		func(ctx context.Context) error { return ledgerbook.Serve(ctx, nc, ledger.Book{DB: db}) }}}, nil
}

// Run runs the parts until ctx ends; the schema must be in place.
func (b *books) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, run := range b.runs {
		g.Go(func() error { return run(ctx) })
	}
	return g.Wait()
}

// purchased is how pools refill that a purchase makes from now on.
func purchased(p config.Pools) func() ledger.Policy { return poolPolicy(p.Refill, p.Window) }

// granted is the same of a grant.
func granted(p config.Pools) func() ledger.Policy { return poolPolicy(p.GrantRefill, p.Window) }

func poolPolicy(refill string, window time.Duration) func() ledger.Policy {
	policy := ledger.Policy{Prepaid: refill == config.RefillNever, Window: window}
	return func() ledger.Policy { return policy }
}

// countConnections shows how many of its connections to Postgres a service uses.
func (s service) countConnections(pool *pgxpool.Pool) {
	telemetry.Connections(s.metrics, func() (active, idle, most int32) {
		now := pool.Stat()
		return now.AcquiredConns(), now.IdleConns(), now.MaxConns()
	})
}
