package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
	"github.com/leaky-tokens/leaky-tokens/internal/limits"
	"github.com/leaky-tokens/leaky-tokens/internal/netaddr"
	"github.com/leaky-tokens/leaky-tokens/ratelimit"
)

// serveRateLimit runs what decides whether a request may pass.
func serveRateLimit(ctx context.Context, s service) error {
	set, err := limits.Load(limitsPath(local{cfg: s.cfg, configPath: os.Getenv("LEAKY_CONFIG")}))
	if err != nil {
		return err
	}
	conn, err := nats.Connect(s.cfg.Stores.NATS, nats.Name("leaky-"+s.name), nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1))
	if err != nil {
		return fmt.Errorf("stores.nats: %w", err)
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		return fmt.Errorf("open jetstream: %w", err)
	}
	limiter, err := ratelimit.New(ratelimit.Config{Limits: set, Tiers: s.cfg.Tiers, Providers: s.cfg.Providers, Models: s.cfg.Models,
		Holds: s.cfg.Holds, Timeout: s.cfg.Limits.Timeout, Longest: s.cfg.Gateway.MaxStreamDuration, RedisURL: s.cfg.Stores.Redis,
		Publisher: ratelimit.NewStream(js), Log: s.log, Metrics: s.metrics})
	if err != nil {
		return err
	}
	defer limiter.Close()
	grpcListener, err := s.listen("services.ratelimit.grpc", s.cfg.Services.RateLimit.GRPC)
	if err != nil {
		return err
	}
	httpListener, err := s.listen("services.ratelimit.http", s.cfg.Services.RateLimit.HTTP)
	if err != nil {
		grpcListener.Close()
		return err
	}
	common := httpapi.Common{Name: s.name, Log: s.log, Metrics: s.registry, Ready: limiter.Ready}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return limiter.Run(ctx) })
	group.Go(func() error { return limiter.Serve(ctx, grpcListener) })
	group.Go(func() error { return httpapi.Serve(ctx, httpListener, common.Wrap(http.NewServeMux())) })
	return group.Wait()
}

// listen opens one of the service's addresses; setting names it in errors.
func (s service) listen(setting, address string) (net.Listener, error) {
	addr, err := netaddr.Parse(address)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", setting, err)
	}
	return addr.In(s.dir).Listen()
}
