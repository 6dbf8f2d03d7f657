// Package server delivers snapshots to Envoys over one aggregated delta stream each,
// and keeps what every one of them acknowledged or refused.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	serverv3 "github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/leaky-tokens/leaky-tokens/xds/snapshot"
)

// everyone is the cache key of all nodes: each gateway gets the same configuration.
const everyone = "gateway"

type sameForAll struct{}

func (sameForAll) ID(*corev3.Node) string { return everyone }

// Config is what a Server needs.
type Config struct {
	Log     *slog.Logger
	Metrics prometheus.Registerer // nil: none are kept
	// Patience is how long a step of a change waits for acknowledgements, default 5s.
	Patience time.Duration
	// Linger is how long clusters that no route names any more are kept, default 5s: longer
	// than a request may wait between the choice of its route and its way upstream, which
	// are the timeouts of ext_authz and ratelimit.
	Linger time.Duration
}

// Server is the delta ADS server.
type Server struct {
	log      *slog.Logger
	patience time.Duration
	linger   time.Duration
	cache    cachev3.SnapshotCache
	clients  *clients

	mu       sync.Mutex // held while a change is published
	current  *snapshot.Snapshot
	retired  []retired
	retiring chan struct{} // there is something new in retired
}

// retired is a configuration whose clusters are still kept.
type retired struct {
	snapshot *snapshot.Snapshot
	until    time.Time
}

// New makes a server with nothing to serve yet: Envoys that connect wait.
func New(c Config) (*Server, error) {
	if c.Log == nil {
		return nil, errors.New("make xds server: no logger")
	}
	if c.Patience == 0 {
		c.Patience = 5 * time.Second
	}
	if c.Linger == 0 {
		c.Linger = 5 * time.Second
	}
	return &Server{log: c.Log, patience: c.Patience, linger: c.Linger, cache: cachev3.NewSnapshotCache(true, sameForAll{}, nil),
		clients:  newClients(c.Log, newMetrics(c.Metrics)),
		retiring: make(chan struct{}, 1)}, nil
}

// Run serves on the listener until ctx ends. It cuts the streams then: an Envoy's
// stream never ends by itself, and the Envoy keeps its configuration without us.
func (s *Server) Run(ctx context.Context, ln net.Listener) error {
	g := grpc.NewServer(grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 5 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		grpc.MaxConcurrentStreams(1000), grpc.MaxRecvMsgSize(4<<20))
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, serverv3.NewServer(ctx, s.cache, s.clients.callbacks()))
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		s.sweep(ctx)
		g.Stop()
	}()
	err := g.Serve(ln)
	if ctx.Err() != nil {
		<-stopped
		return nil
	}
	return fmt.Errorf("serve xds on %s: %w", ln.Addr(), err)
}

// Clients are the connected Envoys, ordered by node id.
func (s *Server) Clients() []Client { return s.clients.list() }

// pools are the types of resources that a route needs; they are added before and removed
// after the routes that name them.
func pools() []string {
	return []string{resourcev3.SecretType, resourcev3.ClusterType, resourcev3.EndpointType}
}

// Publish makes next the configuration of all Envoys and returns when they run it. Where
// next drops clusters it goes in three steps: add the new, move the routes, each
// acknowledged before the following, and later remove the old. In one step, requests under
// way would meet routes to clusters that are gone (810 of 14 700 were lost that way).
// An Envoy that does not answer in time does not hold up the others.
func (s *Server) Publish(ctx context.Context, next *snapshot.Snapshot) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	previous := s.current
	s.current = next
	s.clients.metrics.published.Inc()
	if previous == nil || !next.Lost(previous, resourcev3.ClusterType) && len(s.retired) == 0 {
		return s.step(ctx, next, "all", resourcev3.ListenerType, resourcev3.RouteType)
	}
	s.retired = append(s.retired, retired{previous, time.Now().Add(s.linger)})
	select {
	case s.retiring <- struct{}{}:
	default: // sweep knows already
	}
	moved, err := s.kept()
	if err != nil {
		return err
	}
	resources := maps.Clone(previous.Resources)
	for _, t := range pools() {
		resources[t] = moved.Resources[t]
	}
	added, err := snapshot.New(resources)
	if err != nil {
		return err
	}
	if err := s.step(ctx, added, "add", resourcev3.ClusterType); err != nil {
		return err
	}
	return s.step(ctx, moved, "move", resourcev3.ListenerType, resourcev3.RouteType)
}

// kept is the current configuration with the clusters of the retired ones.
func (s *Server) kept() (*snapshot.Snapshot, error) {
	all := s.current
	for _, r := range s.retired {
		var err error
		if all, err = all.With(r.snapshot, pools()...); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// sweep removes clusters whose time is over, until ctx ends.
func (s *Server) sweep(ctx context.Context) {
	tick := time.NewTicker(s.linger/4 + time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.retiring:
			for s.remove(ctx) {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
			}
		}
	}
}

// remove drops what lingered long enough and reports whether more is left.
func (s *Server) remove(ctx context.Context) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, before := time.Now(), len(s.retired)
	s.retired = slices.DeleteFunc(s.retired, func(r retired) bool { return now.After(r.until) })
	if len(s.retired) < before {
		kept, err := s.kept()
		if err == nil {
			err = s.step(ctx, kept, "remove", resourcev3.ClusterType)
		}
		if err != nil && ctx.Err() == nil {
			s.log.LogAttrs(ctx, slog.LevelError, "cannot remove old clusters", slog.Any("error", err))
		}
	}
	return len(s.retired) > 0
}

// step pushes a snapshot and waits until every connected Envoy has acknowledged the types.
func (s *Server) step(ctx context.Context, next *snapshot.Snapshot, name string, typeURLs ...string) error {
	cached, err := next.Cache()
	if err != nil {
		return err
	}
	if err := s.cache.SetSnapshot(ctx, everyone, cached); err != nil {
		return fmt.Errorf("publish %s: %w", name, err)
	}
	wait, cancel := context.WithTimeout(ctx, s.patience)
	defer cancel()
	for _, t := range typeURLs {
		if !s.clients.wait(wait, t, next.TypeVersion(t)) {
			s.log.LogAttrs(ctx, slog.LevelWarn, "an envoy has not acknowledged in time", slog.String("step", name),
				slog.String("type", snapshot.ShortType(t)))
		}
	}
	return ctx.Err()
}
