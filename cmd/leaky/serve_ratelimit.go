package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime/debug"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
	"github.com/leaky-tokens/leaky-tokens/internal/limits"
	"github.com/leaky-tokens/leaky-tokens/internal/netaddr"
	"github.com/leaky-tokens/leaky-tokens/ratelimit"
)

// serveRateLimit runs what decides whether a request may pass.
func serveRateLimit(ctx context.Context, s service) error {
	// Little lives long here and every request makes some short-lived text: at Go's default the
	// collector would run every few hundred requests for the sake of a few megabytes.
	debug.SetGCPercent(gcPercent)
	redis.SetLogger(redisLog{s.log})
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

// gcPercent lets the heap grow to this share of what lives before it is collected.
const gcPercent = 400

// redisLog passes on what the Redis client has to say, which is about connections.
type redisLog struct{ log *slog.Logger }

// Printf implements the client's logger.
func (l redisLog) Printf(ctx context.Context, format string, args ...any) {
	l.log.LogAttrs(ctx, slog.LevelDebug, fmt.Sprintf(format, args...))
}

// listen opens one of the service's addresses; setting names it in errors.
func (s service) listen(setting, address string) (net.Listener, error) {
	addr, err := netaddr.Parse(address)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", setting, err)
	}
	return addr.In(s.dir).Listen()
}
