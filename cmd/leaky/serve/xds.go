package serve

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/discovery"
	"github.com/leaky-tokens/leaky-tokens/internal/discovery/endpointslices"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
	"github.com/leaky-tokens/leaky-tokens/xds"
	"github.com/leaky-tokens/leaky-tokens/xds/history"
)

// serveXDS runs the control plane. SIGHUP reloads the files at once. NATS has the history of what was
// published, and which processes of services there are; without it the control plane goes on with those
// that it knows, and writes down later what was published.
func serveXDS(ctx context.Context, s service) error {
	nc, err := s.connectNATS()
	if err != nil {
		return err
	}
	defer nc.Close()
	recorder, err := history.NewRecorder(history.RecorderConfig{Conn: nc, Log: s.log})
	if err != nil {
		return err
	}
	registry := discovery.NewTracker(discovery.TrackerConfig{Conn: nc, Site: discovery.SiteOf(s.dir), Far: s.cfg.TLS.Mutual(), Log: s.log})
	pods, err := podsIn(s.cfg.Discovery.Kubernetes, registry, s.log)
	if err != nil {
		return err
	}
	x, err := xds.New(xds.Config{Settings: s.first, Files: s.files, StateDir: s.dir, Getenv: os.Getenv, Log: s.log, Metrics: s.metrics,
		Reload: hangups(ctx), Recorder: recorder, Registry: registry})
	if err != nil {
		return err
	}
	grpcListener, err := s.listen("services.xds.grpc", s.cfg.Services.XDS.GRPC)
	if err != nil {
		return err
	}
	httpListener, err := s.listen("services.xds.http", s.cfg.Services.XDS.HTTP)
	if err != nil {
		return err
	}
	common := s.common(x.Ready)
	common.Warn = func() error { return errors.Join(s.files.Problem(), x.Problem()) }
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return x.Run(ctx, grpcListener) })
	g.Go(func() error { return registry.Run(ctx) })
	if pods != nil {
		g.Go(func() error { return pods.Run(ctx) })
	}
	g.Go(func() error {
		recorder.Run(ctx)
		return nil
	})
	g.Go(func() error { return httpapi.Serve(ctx, httpListener, common.Wrap(x.Handler())) })
	return g.Wait()
}

// podsIn follows the pods that the configuration asks Kubernetes for; nil: it asks for none.
func podsIn(k config.Kubernetes, registry *discovery.Tracker, log *slog.Logger) (*endpointslices.Follower, error) {
	if !k.Any() {
		return nil, nil
	}
	all := maps.Clone(k.Services)
	if all == nil {
		all = map[string]config.KubernetesService{}
	}
	for name, of := range k.Providers {
		all[discovery.OfProvider(name)] = of
	}
	return endpointslices.New(endpointslices.Config{Kubeconfig: k.Kubeconfig, Services: all, Placed: registry.Place, Log: log})
}

// hangups passes on each SIGHUP until ctx ends.
func hangups(ctx context.Context) <-chan struct{} {
	signals, reload := make(chan os.Signal, 1), make(chan struct{}, 1)
	signal.Notify(signals, syscall.SIGHUP)
	go func() {
		defer signal.Stop(signals)
		for {
			select {
			case <-ctx.Done():
				return
			case <-signals:
				select {
				case reload <- struct{}{}:
				default: // one is waiting already
				}
			}
		}
	}()
	return reload
}
