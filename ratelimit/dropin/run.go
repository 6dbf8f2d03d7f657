package dropin

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
	"github.com/leaky-tokens/leaky-tokens/internal/redisconn"
	"github.com/leaky-tokens/leaky-tokens/ratelimit"
)

// Dropin is ratelimit in envoyproxy/ratelimit's place.
type Dropin struct {
	settings Settings
	log      *slog.Logger
	series   *prometheus.Registry // ours
	counted  *counted
	limiter  *ratelimit.Service

	mu      sync.Mutex
	first   chan struct{} // closed when rules were taken
	taken   bool
	domains int
	redis   bool
}

// New makes it of its settings and says what of the environment is not taken; it listens
// nowhere yet.
func New(s Settings, environ []string) (*Dropin, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	level, _ := s.level() // which check did
	var h slog.Handler = slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})
	if s.LogFormat == "json" {
		h = slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: level})
	}
	d := &Dropin{settings: s, log: slog.New(h), series: prometheus.NewRegistry(), first: make(chan struct{}), redis: true}
	for _, one := range Untaken(environ) {
		d.log.Warn("a setting is not taken", slog.String("setting", one))
	}
	tags, err := pairs("EXTRA_TAGS", s.Metrics.Tags, ":")
	if err != nil {
		return nil, err
	}
	d.counted = &counted{source: d.series, tags: tags}
	url, extra, err := s.Redis.connection()
	if err != nil {
		return nil, err
	}
	redisconn.SetLogger(d.log)
	ask := min(max(s.Redis.Timeout, time.Millisecond), longestAsk)
	d.limiter, err = ratelimit.New(ratelimit.Config{Policy: d.policy(nil, false), RedisURL: url, Redis: extra, Prefix: s.KeyPrefix,
		Timeout: 2 * ask,
		Longest: time.Minute, Holds: config.Holds{SettledKept: time.Minute}, Log: d.log, Metrics: d.series})
	if err != nil {
		return nil, err
	}
	d.judgeHealth(func() {})
	return d, nil
}

// policy is what decisions follow with these rules. Before the first ones are there every
// request is an error, as it has no domain.
func (d *Dropin) policy(sets []*limits.Set, loaded bool) ratelimit.Policy {
	s := &d.settings
	ask := min(max(s.Redis.Timeout, time.Millisecond), longestAsk)
	others := ratelimit.Others{Silent: !s.Headers, Metadata: s.Metadata, AdmitUnknown: loaded, Local: s.LocalCache > 0,
		Shadow: s.ShadowMode, Quota: s.QuotaMode,
		NearLimit: s.NearRatio, Headers: &ratelimit.Headers{Limit: s.LimitHeader, Remaining: s.RestHeader, Reset: s.ResetHeader}}
	return ratelimit.Policy{Limits: limits.Empty(""), Domains: sets, Others: others,
		Outage: config.Outage{Default: config.OutageClosed, DialTimeout: ask, Timeout: ask}}
}

// take lets rules decide from now on; those that make no sense are told and the last stay.
func (d *Dropin) take(sets []*limits.Set, err error) {
	d.counted.took(sets, err)
	if err != nil {
		d.log.Error("new rules are not taken, the last ones stay", slog.Any("error", err))
		return
	}
	d.limiter.SetPolicy(d.policy(sets, true))
	rules := 0
	for _, set := range sets {
		rules += len(set.Rules())
	}
	d.log.Info("new rules", slog.Int("domains", len(sets)), slog.Int("rules", rules))
	d.judgeHealth(func() {
		d.domains = len(sets)
		if !d.taken {
			d.taken = true
			close(d.first)
		}
	})
}

// judgeHealth changes what health depends on and tells what it is then.
func (d *Dropin) judgeHealth(change func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change()
	ready := d.taken || d.settings.ForceStart
	d.limiter.SetServing(ready && (d.domains > 0 || !d.settings.HealthyLoaded) && (d.redis || !d.settings.Redis.Healthy))
}

// Run serves until ctx ends: HTTP at once, gRPC when the first rules are there.
func (d *Dropin) Run(ctx context.Context) error {
	all, err := d.open()
	if err != nil {
		return errors.Join(err, d.limiter.Close())
	}
	return d.serve(ctx, all)
}

// serve serves on the ports until ctx ends.
func (d *Dropin) serve(ctx context.Context, all []opened) error {
	defer d.limiter.Close()
	group, ctx := errgroup.WithContext(ctx)
	for _, one := range all {
		group.Go(func() error { return one.serve(ctx, one.ln) })
	}
	group.Go(func() error { return d.limiter.Run(ctx) })
	group.Go(func() error { return d.watch(ctx) })
	if d.settings.Redis.Healthy {
		group.Go(func() error { return d.watchRedis(ctx) })
	}
	if m := &d.settings.Metrics; m.Statsd && !m.Prometheus && !m.Disabled {
		group.Go(func() error { return d.counted.statsd(ctx, m) })
	}
	return group.Wait()
}

// watch follows the rules.
func (d *Dropin) watch(ctx context.Context) error {
	if d.settings.ConfigType == xdsConfig {
		return d.settings.XDS.watchXDS(ctx, d.settings.reading(), d.log, d.take)
	}
	d.settings.watchFiles(ctx, d.take)
	return nil
}

// watchRedis follows whether Redis answers.
func (d *Dropin) watchRedis(ctx context.Context) error {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		up := d.limiter.Ready(ctx) == nil
		d.judgeHealth(func() { d.redis = up })
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// opened is a listener and what serves it.
type opened struct {
	ln    net.Listener
	serve func(context.Context, net.Listener) error
}

// open opens all ports, or none.
func (d *Dropin) open() (all []opened, err error) {
	s := &d.settings
	add := func(network, at string, serve func(context.Context, net.Listener) error) {
		if err != nil {
			return
		}
		var ln net.Listener
		if ln, err = net.Listen(network, at); err == nil {
			all = append(all, opened{ln: ln, serve: serve})
		}
	}
	web := http.NewServeMux()
	web.HandleFunc("POST /json", d.limiter.ServeJSON)
	web.HandleFunc("GET /healthcheck", d.limiter.ServeHealth)
	add("tcp", address(s.Host, s.Port), pages(web))
	add("tcp", address(s.DebugHost, s.DebugPort), pages(d.debug()))
	if s.Metrics.Prometheus && !s.Metrics.Disabled {
		metrics := http.NewServeMux()
		metrics.Handle("GET "+s.Metrics.Path, promhttp.HandlerFor(d.counted.registry(), promhttp.HandlerOpts{}))
		add("tcp", s.Metrics.Addr, pages(metrics))
	}
	var security *tls.Config
	if s.ServerTLS && err == nil {
		security, err = s.serverTLS()
	}
	serve := func(ctx context.Context, ln net.Listener) error { return d.serveGRPC(ctx, ln, security) }
	if s.GRPCUds != "" {
		_ = os.Remove(s.GRPCUds) // of a process that was killed
		add("unix", s.GRPCUds, serve)
	} else {
		add("tcp", address(s.GRPCHost, s.GRPCPort), serve)
	}
	if err != nil {
		for _, one := range all {
			one.ln.Close()
		}
		return nil, fmt.Errorf("start ratelimit: %w", err)
	}
	return all, nil
}

// serveGRPC answers Envoys when the first rules are there.
func (d *Dropin) serveGRPC(ctx context.Context, ln net.Listener, security *tls.Config) error {
	if !d.settings.ForceStart {
		select {
		case <-ctx.Done():
			return ln.Close()
		case <-d.first:
		}
	}
	d.log.Info("serving", slog.String("grpc", ln.Addr().String()))
	if security != nil {
		ln = tls.NewListener(ln, security)
	}
	return d.limiter.ListenOthers(ctx, ln)
}

// debug is the port for people.
func (d *Dropin) debug() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /rlconfig", d.limiter.ServeRules)
	mux.HandleFunc("POST "+ratelimit.ExplainPath, d.limiter.ServeExplain)
	mux.Handle("GET /stats", promhttp.HandlerFor(d.series, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("/rlconfig: print out the currently loaded configuration for debugging\n/explain: say what would be decided of a request, and why (POST)\n/stats: print out stats\n"))
	})
	return mux
}

// pages serves a mux until the context ends.
func pages(mux *http.ServeMux) func(context.Context, net.Listener) error {
	return func(ctx context.Context, ln net.Listener) error {
		if err := httpapi.Serve(ctx, ln, mux); err != nil && !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	}
}
