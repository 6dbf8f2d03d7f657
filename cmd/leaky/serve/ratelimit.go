package serve

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/balance"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/booked"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
	"github.com/leaky-tokens/leaky-tokens/internal/mtls"
	"github.com/leaky-tokens/leaky-tokens/internal/settings"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
	"github.com/leaky-tokens/leaky-tokens/ratelimit"
)

// serveRateLimit runs what decides whether a request may pass.
func serveRateLimit(ctx context.Context, s service) error {
	conn, err := s.connectNATS()
	if err != nil {
		return err
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		return fmt.Errorf("open jetstream: %w", err)
	}
	publisher, err := usage.NewPublisher(conn, s.log)
	if err != nil {
		return err
	}
	list, err := s.livePrices(ctx, 0)
	if err != nil {
		return err
	}
	balances := ratelimit.NewNATSBalances(conn, js, s.cfg.Limits.Timeout, s.log)
	limiter, err := ratelimit.New(ratelimit.Config{Policy: limitPolicy(s.first), Files: s.files.Files, Reload: s.reloadLimits,
		Holds: s.cfg.Holds, Timeout: s.cfg.Limits.Timeout, Longest: s.cfg.HoldLife(), IdleAfter: s.cfg.Limits.Idle,
		Explain: s.cfg.Limits.Explain, RedisURL: s.cfg.Stores.Redis,
		Publisher: priced{list, ratelimit.NewStream(publisher)}, Balances: balances, Follow: balances.Follow,
		Booked: booked.NewClient(conn, balance.AskWithin(s.cfg.Limits.Timeout)), Log: s.log, Metrics: s.metrics,
		Traces: s.traces})
	if err != nil {
		return err
	}
	defer limiter.Close()
	listeners, err := s.openAll(limiter)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return limiter.Run(ctx) })
	group.Go(func() error { return s.stores.Measure(ctx, topology.Redis, limiter.Ready) })
	for _, one := range listeners {
		group.Go(func() error { return one.serve(ctx, one.ln) })
	}
	return group.Wait()
}

// opened is a listener and what serves it.
type opened struct {
	ln    net.Listener
	serve func(context.Context, net.Listener) error
}

// openAll opens ratelimit's listeners: for Envoy and the other parts, for people and probes,
// and for Envoys that are not ours, where leaky.yaml says so.
func (s service) openAll(limiter *ratelimit.Service) (all []opened, err error) {
	open := func(setting, address string, callers []string, serve func(context.Context, net.Listener) error) {
		if err != nil {
			return
		}
		var ln net.Listener
		if ln, err = s.listenFor(setting, address, callers); err == nil {
			all = append(all, opened{ln: ln, serve: serve})
		}
	}
	at, others := s.cfg.Services.RateLimit, s.cfg.Limits.Envoys
	callers := mtls.Callers(s.name)
	open("services.ratelimit.grpc", at.GRPC, callers, limiter.Listen)
	common := s.common(limiter.Ready)
	common.Warn = func() error { return errors.Join(limiter.Warning(), s.unfollowed()) }
	open("services.ratelimit.http", at.HTTP, callers, func(ctx context.Context, ln net.Listener) error {
		return httpapi.Serve(ctx, ln, common.Wrap(rulesMux(limiter)))
	})
	if others.Listen != "" && s.index == 0 {
		named := []string{}
		for _, name := range others.Names {
			named = append(named, mtls.Other(name))
		}
		open("limits.envoys.listen", others.Listen, named, limiter.ListenOthers)
	}
	if err != nil {
		for _, one := range all {
			one.ln.Close()
		}
	}
	return all, err
}

// limitPolicy is what decisions follow.
func limitPolicy(from *settings.Settings) ratelimit.Policy {
	cfg := from.Config
	return ratelimit.Policy{Limits: from.Limits, Domains: from.Domains, Tiers: cfg.Tiers, Providers: cfg.Providers, Models: cfg.Models,
		Others: ratelimit.Others{Silent: !cfg.Limits.Envoys.Headers, Local: cfg.Limits.Envoys.Local}, Outage: cfg.Limits.Outage,
		MaxTokens: cfg.Limits.MaxTokens,
		NoPools:   !cfg.Flags.TokenService.QuotaEnforcement}
}

// reloadLimits reads the files anew. Beside an error stands what was good last, which every part
// follows then: what an Envoy refused may have been taken here before.
func (s service) reloadLimits() (ratelimit.Policy, error) {
	next, err := s.files.Refresh()
	return limitPolicy(next), err
}

// rulesMux serves what the service knows of its rules, on its own port only.
func rulesMux(limiter *ratelimit.Service) *http.ServeMux {
	mux := http.NewServeMux()
	limiter.Routes(mux)
	mux.HandleFunc("GET "+ratelimit.RulesPath, func(w http.ResponseWriter, _ *http.Request) {
		httpapi.WriteJSON(w, http.StatusOK, limiter.Rules())
	})
	return mux
}
