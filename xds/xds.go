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
	"github.com/leaky-tokens/leaky-tokens/internal/discovery"
	"github.com/leaky-tokens/leaky-tokens/internal/mtls"
	"github.com/leaky-tokens/leaky-tokens/internal/retry"
	"github.com/leaky-tokens/leaky-tokens/internal/settings"
	"github.com/leaky-tokens/leaky-tokens/xds/history"
	"github.com/leaky-tokens/leaky-tokens/xds/server"
)

// Config is what the control plane needs.
type Config struct {
	Settings *settings.Settings  // to start with
	Files    *settings.Source    // where Settings are from, to follow their changes; nil: there are none
	StateDir string              //
	Getenv   func(string) string // provider keys and URL overrides
	Log      *slog.Logger
	Metrics  prometheus.Registerer // nil: none are kept
	Reload   <-chan struct{}       // reload now; may be nil
	Poll     time.Duration         // how often the files are looked at, default 1s
	Linger   time.Duration         // how long clusters that are no longer named are kept, default 5s
	Recorder Recorder              // is told what becomes of each configuration; may be nil
	Registry *discovery.Tracker    // which processes of services there are, beside the files; may be nil
}

// Recorder keeps what became of configurations, and must not block; *history.Recorder does.
type Recorder interface {
	Note(history.Version, history.Files)
}

// XDS is the control plane.
type XDS struct {
	source source
	files  *settings.Source // nil: nothing changes
	server *server.Server
	log    *slog.Logger
	said   *retry.Troubles
	reload <-chan struct{}
	poll   time.Duration
	record Recorder
	first  loaded
	before loaded // what Envoys ran last, if that is not first

	keptProven string             // hash of the files that are kept on disk as proven
	limited    *settings.Settings // whose limits limiters have

	work    chan struct{} // offered holds something new
	renewal chan struct{} // Envoy's certificate is a new one
	moved   chan struct{} // endpoints are other ones

	mu      sync.Mutex
	offered *offer        // newest that waits for the one before
	newer   chan struct{} // closed once something waits for what is being published; nil: nothing is
	live    loaded
	back    loaded          // what Envoys get again if they refuse live
	proven  string          // version of the last that an Envoy took whole
	undone  *server.Refused // of the last change that was undone after it was published
	since   time.Time
	failed  *Failure

	unloaded *settings.Settings // what the files hold and cannot be loaded just now; nil: it can
}

// offer is the files' content at one moment on its way to Envoys.
type offer struct {
	next loaded // without a snapshot if it cannot be taken
	err  error  // why it cannot be taken
}

// Failure is a configuration that was not taken.
type Failure struct {
	At     time.Time `json:"at"`
	Reason string    `json:"reason"`
	Node   string    `json:"node,omitempty"`    // the Envoy that refused it; empty: no Envoy was asked
	Type   string    `json:"type,omitempty"`    // of the refused resources, e.g. Cluster
	Tried  string    `json:"version,omitempty"` // the version that was undone
	// Content is the hash of the files; empty: they could not be read.
	Content string `json:"content,omitempty"`
}

func failure(err error, tried loaded) *Failure {
	f := &Failure{At: time.Now().UTC(), Reason: err.Error()}
	if tried.settings != nil {
		f.Content = tried.settings.Hash
	}
	if before, ok := errors.AsType[*settings.RefusedError](err); ok {
		f.Content = before.Hash
	}
	if refused, ok := errors.AsType[*server.Refused](err); ok {
		f.Node, f.Type, f.Tried = refused.Node, refused.Type, refused.Tried
	}
	return f
}

// New translates and checks the configuration; it starts nothing.
func New(c Config) (*XDS, error) {
	if c.Settings == nil || c.Log == nil || c.Getenv == nil {
		return nil, errors.New("make xds: settings, the logger and the environment are needed")
	}
	if c.Poll == 0 {
		c.Poll = time.Second
	}
	x := &XDS{log: c.Log, said: retry.NewTroubles(c.Log), files: c.Files, reload: c.Reload, poll: c.Poll, record: c.Recorder,
		work: make(chan struct{}, 1), renewal: make(chan struct{}, 1), moved: make(chan struct{}, 1)}
	var err error
	x.server, err = server.New(server.Config{Log: c.Log, Linger: c.Linger, Metrics: c.Metrics, Undone: x.takeBack, Proven: x.took})
	if err != nil {
		return nil, err
	}
	src, cfg := source{dir: c.StateDir, certs: newCertificates(), keys: &keys{getenv: c.Getenv, last: map[string]string{}},
		trust: systemTrust(c.Getenv), registry: c.Registry}, c.Settings.Config
	if cfg.TLS.Mutual() {
		if src.issuer, err = mtls.NewAuthority(c.StateDir, cfg.TLS.Lifetime, c.Log, cfg.Limits.Envoys.Names...); err != nil {
			return nil, err
		}
		if err := writeBootstrapSecrets(c.StateDir, src.issuer); err != nil {
			return nil, err
		}
	}
	x.source = src
	if x.before, err = src.lastProven(c.Settings); err != nil {
		c.Log.Warn("what Envoys ran last is not known", slog.Any("error", err))
	}
	if x.first, err = src.load(c.Settings); err != nil && x.before.snapshot == nil {
		return nil, err
	} else if err != nil {
		x.first, x.before = x.before, loaded{}
		x.offer(&offer{next: loaded{settings: c.Settings}, err: err})
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
		begin := x.first
		if x.before.snapshot != nil {
			begin = x.before
			x.offer(&offer{next: x.first})
		}
		if err := x.publish(ctx, begin); err != nil {
			return fmt.Errorf("publish the first configuration: %w", err)
		}
		x.serveLimits(ctx)
		x.mu.Lock()
		failed := x.failed != nil
		x.mu.Unlock()
		if !failed {
			x.note(begin, nil)
		}
		g.Go(func() error {
			x.publishOffers(ctx)
			return nil
		})
		if x.source.registry != nil {
			g.Go(func() error {
				x.followRegistry(ctx)
				return nil
			})
		}
		if x.source.issuer != nil {
			g.Go(func() error {
				x.source.issuer.Run(ctx, func() { wake(x.renewal) })
				return nil
			})
		}
		if x.files != nil {
			again := make(chan struct{}, 1)
			g.Go(func() error {
				x.reloads(ctx, again)
				return nil
			})
			config.Watcher{Every: x.poll, Reload: again, Files: x.watched}.Run(ctx, x.refresh)
		}
		return nil
	})
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}
