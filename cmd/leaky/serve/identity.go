package serve

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"golang.org/x/sync/errgroup"

	"github.com/leaky-tokens/leaky-tokens/identity"
	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/pgconn"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// upstreamSecrets are ours at the providers of auth.upstreams; empty where we are a public client.
func (s service) upstreamSecrets() ([]string, error) {
	secrets := make([]string, len(s.cfg.Auth.Upstreams))
	for i, u := range s.cfg.Auth.Upstreams {
		if u.ClientSecretEnv == "" && u.ClientSecretFile == "" {
			continue
		}
		secret, err := s.secret(u.ClientSecretEnv, u.ClientSecretFile)
		if err != nil {
			return nil, fmt.Errorf("auth.upstreams[%d].client_secret: %w", i, err)
		}
		secrets[i] = string(secret)
	}
	return secrets, nil
}

// serveIdentity runs users, API keys and access tokens.
func serveIdentity(ctx context.Context, s service) error {
	pool, err := pgconn.Open(ctx, pgconn.Config{URL: s.cfg.Stores.Postgres})
	if err != nil {
		return err
	}
	defer pool.Close()
	s.countConnections(pool)
	upstreams, err := s.upstreamSecrets()
	if err != nil {
		return err
	}
	limiter, err := dialLimiter(s)
	if err != nil {
		return err
	}
	defer limiter.Close()
	id, err := identity.New(identity.Config{
		Pool:          pool,
		NATS:          s.cfg.Stores.NATS,
		Redis:         s.cfg.Stores.Redis,
		RedisPrefix:   "leaky:identity:",
		Auth:          s.cfg.Auth,
		Tiers:         s.cfg.Tiers,
		Secrets:       filepath.Join(s.dir, "secrets"),
		KeysSecret:    os.Getenv("LEAKY_KEYS_SECRET"),
		AdminUsername: os.Getenv("LEAKY_ADMIN_USERNAME"),
		AdminPassword: os.Getenv("LEAKY_ADMIN_PASSWORD"),
		IdentityKeys:  "file://" + s.callersKeys(),
		Limiter:       limitpb.NewLimiterClient(limiter),
		Requests:      rlsv3.NewRateLimitServiceClient(limiter),
		LimitsOff:     func() bool { return !s.live.flags().Gateway.RateLimiting },
		Providers:     slices.Sorted(maps.Keys(s.cfg.Providers)),
		Upstreams:     upstreams,
		Console:       s.cfg.ConsoleOrigins(),
		Log:           s.log,
		Metrics:       s.metrics,
	})
	if err != nil {
		return err
	}
	common := s.common(id.Ready)
	group, ctx := errgroup.WithContext(ctx)
	// What a call that is served to its end revokes is announced too.
	running, served := context.WithCancel(context.WithoutCancel(ctx))
	group.Go(func() error { return id.Run(running) })
	group.Go(func() error {
		return s.stores.Watch(ctx, topology.Postgres, func(ctx context.Context) error { return pgconn.Writable(ctx, pool) })
	})
	group.Go(func() error {
		defer served()
		return s.serveHTTP(ctx, common, id.Handler())
	})
	return group.Wait()
}
