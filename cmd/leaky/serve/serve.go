// Package serve is beside the request path: it is the composition roots of all services, one
// file each. A root reads its part of the configuration, opens stores and connections,
// makes the service, and runs it with its listeners until it is told to stop.
package serve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/footprint"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
	"github.com/leaky-tokens/leaky-tokens/internal/mtls"
	"github.com/leaky-tokens/leaky-tokens/internal/natsconn"
	"github.com/leaky-tokens/leaky-tokens/internal/netaddr"
	"github.com/leaky-tokens/leaky-tokens/internal/redisconn"
	"github.com/leaky-tokens/leaky-tokens/internal/settings"
	"github.com/leaky-tokens/leaky-tokens/internal/telemetry"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
	"github.com/leaky-tokens/leaky-tokens/internal/tracing"
)

// service is what every composition root gets.
type service struct {
	name     string
	part     string // as `leaky ps` names it: ratelimit-2
	index    int    // which process of the service, 0 for the first
	cfg      *config.Config
	files    *settings.Source // cfg's
	first    *settings.Settings
	dir      string // state folder
	log      *slog.Logger
	registry *prometheus.Registry  // served at /metrics
	metrics  prometheus.Registerer // register here: adds application=<name>
	stores   *telemetry.Stores     // for those of the service
	traces   *telemetry.Traces
	live     *live // cfg as the file has it now

	readiness *readiness // nil: the process does not register
}

// live is the configuration's present content, for what may change while a service runs.
type live struct {
	now    atomic.Pointer[config.Config]
	prices atomic.Pointer[priceList] // nil: the process has none
}

// unfollowed is which files' present content is not followed, and why; nil: that of each is.
func (s service) unfollowed() error {
	return errors.Join(s.files.Problem(), s.live.prices.Load().Problem())
}

// flags are the feature flags as they are now.
func (l *live) flags() config.Flags { return l.now.Load().Flags }

// providers are the names of the providers as they are now, sorted.
func (l *live) providers() []string { return slices.Sorted(maps.Keys(l.now.Load().Providers)) }

// protocols are what the providers speak now.
func (l *live) protocols() map[string]config.Protocol { return l.now.Load().Protocols() }

// traced is the share of the calls, in millionths, whose spans Envoy keeps now.
func (l *live) traced() uint32 { return tracing.Share(l.now.Load().Tracing.Sample) }

// models are the models as they are now, wildcards too.
func (l *live) models() []config.Model {
	now := l.now.Load()
	return config.Routed(now.Models, now.Providers)
}

// info are the members of /actuator/info.
func (s service) info() map[string]any { return map[string]any{"flags": s.live.flags().Shown()} }

// common is what its HTTP side has beside its own routes; ready may be nil. It is not ready either
// while a store that it watches refuses what it is there for.
func (s service) common(ready func(context.Context) error) httpapi.Common {
	whole := func(ctx context.Context) error {
		if ready != nil {
			if err := ready(ctx); err != nil {
				return err
			}
		}
		return s.stores.Problem()
	}
	if s.readiness != nil {
		s.readiness.ask.Store(&whole)
	}
	return httpapi.Common{Name: s.name, Log: s.log, Metrics: s.registry, Info: s.info, Ready: whole, Warn: s.unfollowed}
}

// Run starts a part by its name, as topology and `leaky ps` have it, and blocks until ctx
// ends. path is that of leaky.yaml; empty: the built-in one.
func Run(ctx context.Context, part, path string) error {
	level := &slog.LevelVar{}
	log := telemetry.Logger(os.Stderr, part, level)
	files := settings.New(path, config.StateDir(os.Getenv), os.Getenv, log)
	first, err := files.Open()
	if err != nil {
		return err
	}
	if because := files.Problem(); because != nil {
		log.Warn("starting from the last good configuration", slog.Any("because", because))
	}
	cfg := first.Config
	name, index := config.Instance(part)
	if cfg.Services, err = servicesOf(cfg.Services, part); err != nil {
		return err
	}
	level.Set(cfg.Logs.Of(name))
	registry, metrics := telemetry.Registry(name)
	metrics.MustRegister(telemetry.FreeSpace(config.StateDir(os.Getenv)))
	go func() {
		if err := footprint.Keep(ctx); err != nil {
			log.Warn("memory is not given back", slog.Any("error", err))
		}
	}()
	current := &live{}
	current.now.Store(cfg)
	go config.Watcher{Files: files.Files}.Run(ctx, func() {
		next, _ := files.Refresh() // what is wrong stands in readyz
		current.now.Store(next.Config)
		level.Set(next.Config.Logs.Of(name))
	})
	redisconn.SetLogger(log)
	stores := telemetry.NewStores(metrics)
	stores.LogTo(log)
	traces, err := telemetry.OpenTraces(ctx, telemetry.TracesConfig{OTLP: cfg.Tracing.OTLP, Service: name, Instance: part, Log: log})
	if err != nil {
		return err
	}
	defer traces.Close()
	return serve(ctx, service{name: name, part: part, index: index, cfg: cfg, files: files, first: first, dir: config.StateDir(os.Getenv),
		log: log, registry: registry, metrics: metrics, live: current, stores: stores, traces: traces})
}

// listen opens an address of leaky.yaml; setting is its key, for the error.
func (s service) listen(setting, address string) (net.Listener, error) {
	return s.listenFor(setting, address, mtls.Callers(s.name))
}

// listenFor is listen for other callers than topology names; they are asked for a certificate
// in TLS mode mutual.
func (s service) listenFor(setting, address string, callers []string) (net.Listener, error) {
	addr, err := netaddr.Parse(address)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", setting, err)
	}
	ln, err := addr.In(s.dir).Listen()
	if err != nil {
		return nil, err
	}
	return s.peers().guarded(ln, callers), nil
}

// connectNATS connects now or as soon as NATS is there. What is published while it is away fails at once:
// every part keeps what counts in a place of its own (spool, outbox, hold, stream), asks the caller to come
// again, or says later what is true then. A message that the client kept would reach NATS after its
// publisher was told that it failed, and before what a NATS that lost it needs first.
func (s service) connectNATS() (*nats.Conn, error) {
	return natsconn.Connect(natsconn.Config{URL: s.cfg.Stores.NATS, Name: s.name, Log: s.log, Unbuffered: true})
}

// serveHTTP answers until ctx ends: the API where other parts call it, and what people look at
// (health, metrics, documents) at the service's port. The port of a service that has no socket for
// the others serves both.
func (s service) serveHTTP(ctx context.Context, common httpapi.Common, api http.Handler) error {
	part, _ := topology.Find(s.name)
	at := s.cfg.Services.Named(s.name)
	g, ctx := errgroup.WithContext(ctx)
	open := func(setting, address string, h http.Handler) error {
		ln, err := s.listen("services."+part.Key()+setting, address)
		if err != nil {
			return err
		}
		g.Go(func() error { return httpapi.Serve(ctx, ln, s.traces.Handler(s.name, common.Wrap(h))) })
		return nil
	}
	shown := api
	var err error
	if at.Inner != "" {
		shown = httpapi.Elsewhere(s.log, "this port has health, metrics and documents; the API is behind the gateway")
		err = open(".inner", at.Inner, api)
	}
	if err == nil {
		err = open(".http", at.HTTP, shown)
	}
	if err != nil {
		g.Go(func() error { return err })
	}
	return g.Wait()
}

// callersKeys is the file in the folder of secrets with the public keys that callers' identities
// are signed by. extauthz writes it; who may write there is trusted, and no port is.
func (s service) callersKeys() string { return filepath.Join(s.dir, "secrets", "callers-keys.json") }

// roots are the composition roots, one for each part that topology says is served.
func roots() map[string]func(context.Context, service) error {
	return map[string]func(context.Context, service) error{
		topology.XDS: serveXDS, topology.Identity: serveIdentity, topology.ExtAuthz: serveExtAuthz, topology.RateLimit: serveRateLimit,
		topology.Meter: serveMeter, topology.TokenSvc: serveTokenSvc, topology.Analytics: serveAnalytics,
		topology.Console:    serveConsole,
		topology.StubOpenAI: serveStub, topology.StubGemini: serveStub, topology.StubQwen: serveStub, topology.StubPayment: serveStubPayment,
		topology.NATS: serveNATS, topology.ClickHouse: serveClickHouse,
	}
}

func serve(ctx context.Context, s service) error {
	root, ok := roots()[s.name]
	if !ok {
		return fmt.Errorf("serve %s: no such service", s.name)
	}
	return registered(ctx, s, root)
}
