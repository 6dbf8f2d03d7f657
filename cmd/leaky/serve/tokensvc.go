package serve

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/membership"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/pgconn"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
	"github.com/leaky-tokens/leaky-tokens/tokensvc"
)

func serveTokenSvc(ctx context.Context, s service) error {
	if s.cfg.Stores.Postgres == "" {
		return errors.New("connect to postgres: no URL; set LEAKY_POSTGRES_URL or stores.postgres")
	}
	pool, err := pgconn.Open(ctx, pgconn.Config{URL: s.cfg.Stores.Postgres, Least: leastConns})
	if err != nil {
		return fmt.Errorf("connect to postgres: %w", err)
	}
	defer pool.Close()
	s.countConnections(pool)
	store, err := tokensvc.NewStore(tokensvc.StoreConfig{Pool: pool, Log: s.log})
	if err != nil {
		return err
	}
	nc, err := s.connectNATS()
	if err != nil {
		return err
	}
	defer nc.Close()
	members := membership.NewClient(nc)
	purchases, err := openPurchases(s, pool, members, purchased(s.cfg.Pools))
	if err != nil {
		return err
	}
	limiter, err := dialLimiter(s)
	if err != nil {
		return err
	}
	defer limiter.Close()
	spend, err := openConsume(s, pool, limiter, members, nc)
	if err != nil {
		return err
	}
	books, err := openBooks(s, pool, nc, store, members, limitpb.NewLimiterClient(limiter))
	if err != nil {
		return err
	}
	keys, err := identityKeys(s)
	if err != nil {
		return err
	}
	api, err := tokensvc.New(tokensvc.Config{Store: store, Verifier: principal.NewVerifier(tokensvc.Audience, keys.Keyfunc),
		KeysReady: keys.Ready,
		Models:    s.live.models, Protocols: s.live.protocols, Purchases: purchases, Pools: books.api, Consume: spend,
		Metrics: s.metrics, Log: s.log})
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return s.serveHTTP(ctx, s.common(api.Ready), api.Routes())
	})
	g.Go(func() error {
		return s.stores.Watch(ctx, topology.Postgres, func(ctx context.Context) error { return pgconn.Writable(ctx, pool) })
	})
	g.Go(func() error { return s.stores.Watch(ctx, topology.NATS, nc.FlushWithContext) }) // a ping and its pong
	g.Go(func() error {
		if err := store.Run(ctx); err != nil { // the schema comes first
			return err
		}
		g.Go(func() error { return books.Run(ctx) })
		return purchases.Run(ctx)
	})
	g.Go(func() error { return keys.Run(ctx) })
	g.Go(func() error { return spend.Run(ctx) })
	return g.Wait()
}

// leastConns is for requests, the relay, the ledger's batches and sagas at once: with pgx's
// default, which is four on a small machine, they would wait for each other.
const leastConns = 16
