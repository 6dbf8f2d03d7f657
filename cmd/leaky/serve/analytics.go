package serve

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/leaky-tokens/leaky-tokens/analytics"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/balance"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/booked"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/membership"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/jwks"
	"github.com/leaky-tokens/leaky-tokens/internal/retry"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

func serveAnalytics(ctx context.Context, s service) error {
	store, err := analytics.NewStore(analytics.StoreConfig{URL: s.cfg.Stores.ClickHouse, KeepDays: s.cfg.Analytics.KeepDays,
		RollupDays: s.cfg.Analytics.RollupDays, HoldLife: s.cfg.HoldLife(), Log: s.log})
	if err != nil {
		return err
	}
	defer store.Close()
	nc, err := s.connectNATS()
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return fmt.Errorf("open jetstream: %w", err)
	}
	metrics := analytics.NewMetrics(s.metrics)
	consumer, err := analytics.NewConsumer(analytics.ConsumerConfig{JetStream: js, Store: store, Positions: store.Positions(analytics.Durable),
		Metrics: metrics, Log: s.log, Traces: s.traces})
	if err != nil {
		return err
	}
	purchases, err := analytics.NewPurchaseConsumer(js, store, metrics, analytics.ConsumerConfig{Log: s.log, Traces: s.traces})
	if err != nil {
		return err
	}
	keys, err := identityKeys(s)
	if err != nil {
		return err
	}
	api, err := analytics.New(analytics.Config{Store: store, Lag: consumer, Members: membership.NewClient(nc),
		Verifier:  principal.NewVerifier(analytics.Audience, keys.Keyfunc),
		KeysReady: keys.Ready, Providers: s.live.providers, Metrics: metrics, Log: s.log})
	if err != nil {
		return err
	}
	compared, err := openReconciliation(s, nc, store)
	if err != nil {
		return err
	}
	defer compared.close()
	told, err := openNotices(s, js, store)
	if err != nil {
		return err
	}
	defer told.close()
	said := retry.NewTroubles(s.log)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return s.serveHTTP(ctx, s.common(api.Ready), api.Routes())
	})
	g.Go(func() error {
		if err := store.Run(ctx); err != nil { // the schema comes first
			return err
		}
		return store.RunRollups(ctx)
	})
	g.Go(func() error { return keys.Run(ctx) })
	g.Go(func() error { return s.stores.Watch(ctx, topology.ClickHouse, store.Takes) })
	g.Go(func() error { return consumer.Run(ctx) })
	g.Go(func() error { return purchases.Run(ctx) })
	g.Go(func() error {
		return booked.Serve(ctx, nc, analytics.NewBooks(store, consumer), balance.AskWithin(s.cfg.Limits.Timeout), func(err error) {
			said.Warn(ctx, "the use of limits cannot be told", err)
		})
	})
	g.Go(func() error { return metrics.WatchLag(ctx, consumer, 5*time.Second) })
	g.Go(func() error { return compared.Run(ctx) })
	g.Go(func() error { return told.Run(ctx) })
	return g.Wait()
}

// identityKeys are the keys that extauthz signs callers' identities with.
func identityKeys(s service) (*jwks.Keys, error) {
	return jwks.New(jwks.Config{URL: "file://" + s.callersKeys(), RefreshEvery: 30 * time.Second, Log: s.log})
}
