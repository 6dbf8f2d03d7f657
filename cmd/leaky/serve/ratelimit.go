package serve

import (
	"context"
	"fmt"
	"net/http"
	"os"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
	"github.com/leaky-tokens/leaky-tokens/ratelimit"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
)

// serveRateLimit runs what decides whether a request may pass.
func serveRateLimit(ctx context.Context, s service) error {
	store.SetLogger(s.log)
	policy, err := limitPolicy(s.cfg, s.path)
	if err != nil {
		return err
	}
	conn, err := s.connectNATS()
	if err != nil {
		return err
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		return fmt.Errorf("open jetstream: %w", err)
	}
	publisher, err := usage.NewPublisher(conn)
	if err != nil {
		return err
	}
	balances := ratelimit.NewNATSBalances(conn, js, s.log)
	limiter, err := ratelimit.New(ratelimit.Config{Policy: policy, Files: append(domainPaths(s.cfg, s.path), s.path, LimitsPath(s.cfg, s.path)),
		Reload: reloadLimits(s.path),
		Holds:  s.cfg.Holds, Timeout: s.cfg.Limits.Timeout, Longest: s.cfg.HoldLife(), IdleAfter: s.cfg.Limits.Idle,
		Explain: s.cfg.Limits.Explain, RedisURL: s.cfg.Stores.Redis,
		Publisher: ratelimit.NewStream(publisher), Balances: balances, Follow: balances.Follow, Log: s.log, Metrics: s.metrics})
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
	common := httpapi.Common{Name: s.name, Log: s.log, Metrics: s.registry, Info: s.info, Ready: limiter.Ready}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return limiter.Run(ctx) })
	group.Go(func() error { return limiter.Listen(ctx, grpcListener) })
	group.Go(func() error { return httpapi.Serve(ctx, httpListener, common.Wrap(rulesMux(limiter))) })
	return group.Wait()
}

// limitPolicy is what decisions follow, from leaky.yaml and the limits file beside it.
func limitPolicy(cfg *config.Config, path string) (ratelimit.Policy, error) {
	sets, err := LimitSets(cfg, path)
	if err != nil {
		return ratelimit.Policy{}, err
	}
	return ratelimit.Policy{Limits: sets[0], Domains: sets[1:], Tiers: cfg.Tiers, Providers: cfg.Providers, Models: cfg.Models,
		Outage: cfg.Limits.Outage, MaxTokens: cfg.Limits.MaxTokens,
		NoPools: !cfg.Flags.TokenService.QuotaEnforcement}, nil
}

// rulesMux serves what the service knows of its rules, on its own port only.
func rulesMux(limiter *ratelimit.Service) *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+ratelimit.RulesPath, func(w http.ResponseWriter, _ *http.Request) {
		httpapi.WriteJSON(w, http.StatusOK, limiter.Rules())
	})
	return mux
}

// reloadLimits reads both files anew.
func reloadLimits(path string) func() (ratelimit.Policy, error) {
	return func() (ratelimit.Policy, error) {
		cfg, err := config.Load(path, os.Getenv)
		if err != nil {
			return ratelimit.Policy{}, err
		}
		return limitPolicy(cfg, path)
	}
}
