// Package xds is the control plane: it turns leaky.yaml and the limits into Envoy's
// whole configuration and pushes it, before any request and whenever the files change.
// No request passes through it, and Envoy keeps its configuration when it is away.
package xds

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/mtls"
	"github.com/leaky-tokens/leaky-tokens/xds/server"
)

// Config is what the control plane needs.
type Config struct {
	Config   *config.Config      // as loaded at start
	Path     string              // leaky.yaml, for reloads; empty: the built-in one, which never changes
	StateDir string              //
	Getenv   func(string) string // provider keys and URL overrides
	Log      *slog.Logger
	Metrics  prometheus.Registerer // nil: none are kept
	Reload   <-chan struct{}       // reload now; may be nil
	Poll     time.Duration         // how often the files are looked at, default 1s
	Linger   time.Duration         // how long clusters that are no longer named are kept, default 5s
}

// XDS is the control plane.
type XDS struct {
	source source
	server *server.Server
	log    *slog.Logger
	reload <-chan struct{}
	poll   time.Duration
	first  loaded

	refreshing sync.Mutex // one at a time, so that the newest content is published last

	mu     sync.Mutex
	cfg    *config.Config
	asked  *config.Config // newest that could be read
	live   loaded
	before loaded // what live replaced
	since  time.Time
	failed *Failure
}

// Failure is a configuration that was not taken.
type Failure struct {
	At     time.Time `json:"at"`
	Reason string    `json:"reason"`
	Node   string    `json:"node,omitempty"`    // the Envoy that refused it; empty: no Envoy was asked
	Type   string    `json:"type,omitempty"`    // of the refused resources, e.g. Cluster
	Tried  string    `json:"version,omitempty"` // the version that was undone
}

func failure(err error, tried string) *Failure {
	f := &Failure{At: time.Now().UTC(), Reason: err.Error()}
	if refused, ok := errors.AsType[*server.Refused](err); ok {
		f.Node, f.Type, f.Tried = refused.Node, refused.Type, tried
	}
	return f
}

// New translates and checks the configuration; it starts nothing.
func New(c Config) (*XDS, error) {
	if c.Config == nil || c.Log == nil || c.Getenv == nil {
		return nil, errors.New("make xds: the configuration, the logger and the environment are needed")
	}
	if c.Poll == 0 {
		c.Poll = time.Second
	}
	x := &XDS{log: c.Log, reload: c.Reload, poll: c.Poll, cfg: c.Config, asked: c.Config}
	var err error
	x.server, err = server.New(server.Config{Log: c.Log, Linger: c.Linger, Metrics: c.Metrics, Undone: x.undone})
	if err != nil {
		return nil, err
	}
	src := source{path: c.Path, dir: c.StateDir, getenv: c.Getenv, trust: systemTrust(c.Getenv)}
	if c.Config.TLS.Mutual() {
		if src.issuer, err = mtls.NewAuthority(c.StateDir, c.Config.TLS.Lifetime, c.Log); err != nil {
			return nil, err
		}
		if err := writeBootstrapSecrets(c.StateDir, src.issuer); err != nil {
			return nil, err
		}
	}
	x.source = src
	if x.first, err = src.load(c.Config); err != nil {
		return nil, err
	}
	if c.Metrics != nil {
		x.register(c.Metrics)
	}
	return x, nil
}

// register adds what Envoys' answers do not tell.
func (x *XDS) register(r prometheus.Registerer) {
	r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "leaky_xds_config_refused",
		Help: "1 while the files' present content is not taken."}, func() float64 {
		x.mu.Lock()
		defer x.mu.Unlock()
		if x.failed != nil {
			return 1
		}
		return 0
	}))
	if x.source.issuer != nil {
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "leaky_xds_certificate_expiry_timestamp_seconds",
			Help: "When the first of the parts' certificates expires."},
			func() float64 { return float64(x.source.issuer.Expires().Unix()) }))
	}
}

// Run serves Envoys on the listener and follows the files until ctx ends.
func (x *XDS) Run(ctx context.Context, ln net.Listener) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return x.server.Run(ctx, ln) })
	g.Go(func() error {
		if err := x.publish(ctx, x.cfg, x.first); err != nil {
			return fmt.Errorf("publish the first configuration: %w", err)
		}
		// The built-in file never changes; any other may have since it was read.
		files := config.Watcher{Every: x.poll, Reload: x.reload, Known: x.source.path == "", Files: func() []string {
			return []string{x.source.path,
				x.source.limitsFile(x.watched())}
		}}
		if x.source.issuer != nil {
			g.Go(func() error {
				x.source.issuer.Run(ctx, func() { x.renewed(ctx) })
				return nil
			})
		}
		files.Run(ctx, func() { x.refresh(ctx) })
		return nil
	})
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// renewed gives Envoys their new certificate, whatever the files hold by now: a mistake in
// them must not let the certificate run out.
func (x *XDS) renewed(ctx context.Context) {
	x.refreshing.Lock()
	defer x.refreshing.Unlock()
	err := writeBootstrapSecrets(x.source.dir, x.source.issuer)
	x.mu.Lock()
	next, renewErr := x.live.snapshot.WithSecret(gatewaySecret(x.source.issuer))
	if renewErr == nil {
		x.live.snapshot, x.since = next, time.Now().UTC()
	}
	x.mu.Unlock()
	if renewErr == nil {
		renewErr = x.server.Publish(ctx, next)
	}
	if err = errors.Join(err, renewErr); err != nil && ctx.Err() == nil {
		x.log.LogAttrs(ctx, slog.LevelError, "envoys keep their old certificate", slog.Any("error", err))
	}
}

// refresh takes the files' present content, or keeps the last good one and says why.
func (x *XDS) refresh(ctx context.Context) {
	x.refreshing.Lock()
	defer x.refreshing.Unlock()
	cfg, err := config.Load(x.source.path, x.source.getenv)
	var next loaded
	if err == nil {
		x.mu.Lock()
		x.asked = cfg
		x.mu.Unlock()
		if next, err = x.source.load(cfg); err == nil {
			err = x.publish(ctx, cfg, next)
		}
	}
	if err != nil && ctx.Err() == nil {
		x.fail(ctx, err, next)
	}
}

// fail notes why a configuration is not taken.
func (x *XDS) fail(ctx context.Context, err error, tried loaded) {
	version := ""
	if tried.snapshot != nil {
		version = tried.snapshot.Version
	}
	x.mu.Lock()
	x.failed = failure(err, version)
	x.mu.Unlock()
	x.log.LogAttrs(ctx, slog.LevelError, "configuration not taken, the last good one stays", slog.Any("error", err))
}

// publish makes a configuration live; it is not before every Envoy that answers has it.
func (x *XDS) publish(ctx context.Context, cfg *config.Config, next loaded) error {
	x.mu.Lock()
	live := x.live
	x.mu.Unlock()
	var refused error
	if live.snapshot == nil || live.snapshot.Version != next.snapshot.Version {
		x.log.LogAttrs(ctx, slog.LevelInfo, "publishing configuration", slog.String("version", next.snapshot.Version),
			slog.Int("routes", len(next.gateway.Routes)), slog.Int("clusters", len(next.gateway.Clusters)))
		refused = x.server.Publish(ctx, next.snapshot)
		if refused != nil && (live.snapshot != nil || ctx.Err() != nil) {
			return refused
		}
	}
	x.mu.Lock()
	if live.snapshot == nil || live.snapshot.Version != next.snapshot.Version {
		x.before, x.since = live, time.Now().UTC()
	}
	x.cfg, x.live, x.failed = cfg, next, nil
	x.mu.Unlock()
	if refused != nil { // the first of all stays, for an Envoy that can take it
		x.fail(ctx, refused, next)
	}
	return nil
}

// undone takes back a configuration that an Envoy refused late.
func (x *XDS) undone(refused *server.Refused) {
	x.mu.Lock()
	tried := x.live
	if x.before.snapshot != nil {
		x.live, x.since = x.before, time.Now().UTC()
	}
	x.mu.Unlock()
	x.fail(context.Background(), refused, tried)
}

// watched is the configuration whose files are looked at: the newest that could be read,
// taken or not, since the file that it lacks may still come.
func (x *XDS) watched() *config.Config {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.asked
}
