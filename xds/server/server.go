// Package server delivers snapshots to Envoys over one aggregated delta stream each, and
// keeps what every one of them acknowledged or refused.
//
// A change goes to each Envoy in three steps, at that Envoy's own pace:
//
//	                 every Envoy acknowledged             linger is over
//	good ──▶ add ──────────▶ move ──────────▶ next = good ──────────▶ remove
//	          │ refused        │ refused        │ refused, within probation
//	          └────────────────┴────────────────┴──▶ good again, for every Envoy
//
// add brings clusters, endpoints and secrets, move the listeners and routes that use them,
// remove takes away what nothing names any more. In one step, requests under way would meet
// routes to clusters that are gone (810 of 14 700 were lost that way). A refusal (NACK)
// ends the change wherever it stands and puts the last good configuration back for all.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
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

// nodeKey is what an Envoy is known by; Envoys of one id go through a change together.
func nodeKey(n *corev3.Node) string { return n.GetId() }

type byNode struct{}

func (byNode) ID(n *corev3.Node) string { return nodeKey(n) }

// Config is what a Server needs.
type Config struct {
	Log     *slog.Logger
	Metrics prometheus.Registerer // nil: none are kept
	// Patience is how long a step of a change waits for an Envoy's acknowledgement, default 5s.
	Patience time.Duration
	// Linger is how long clusters that no route names any more are kept, default 5s: longer
	// than a request may wait between the choice of its route and its way upstream, which
	// are the timeouts of ext_authz and ratelimit.
	Linger time.Duration
	// Probation is how long after a change a refusal still undoes it, default 5s: Envoy asks
	// for the secrets and endpoints of a new cluster after it took the cluster.
	Probation time.Duration
	// Undone is told of a refusal that came after Publish had returned; may be nil.
	Undone func(*Refused)
}

// Refused is the refusal that ended a change. Every Envoy has the configuration from before.
type Refused struct {
	Node    string // the Envoy's id
	Type    string // of the resources, e.g. Cluster
	Version string // of the type's resources
	Reason  string // Envoy's words
}

func (r *Refused) Error() string {
	return fmt.Sprintf("envoy %q refuses the change (%s): %s", r.Node, r.Type, r.Reason)
}

// Server is the delta ADS server.
type Server struct {
	c       Config
	log     *slog.Logger
	cache   cachev3.SnapshotCache
	clients *clients

	mu       sync.Mutex         // held while a change is published
	current  *snapshot.Snapshot // what all Envoys are to run
	trial    trial              // how far current may still be undone
	retired  []retired
	retiring chan struct{} // there is something new in retired

	served served
}

// trial is the time after a change in which a refusal still undoes it.
type trial struct {
	before *snapshot.Snapshot // the last good one; nil: there is nothing to go back to
	until  time.Time
	since  int64           // serial of the last refusal when it began
	took   map[string]bool // the Envoys that run current; what others refuse is their own trouble
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
	for _, d := range []*time.Duration{&c.Patience, &c.Linger, &c.Probation} {
		if *d == 0 {
			*d = 5 * time.Second
		}
	}
	s := &Server{c: c, log: c.Log, cache: cachev3.NewSnapshotCache(true, byNode{}, nil), clients: newClients(c.Log, newMetrics(c.Metrics)),
		retiring: make(chan struct{}, 1)}
	s.served = served{cache: s.cache, nodes: map[string]*snapshot.Snapshot{}}
	s.clients.join, s.clients.leave = s.served.join, s.served.leave
	return s, nil
}

// Run serves on the listener until ctx ends. It cuts the streams then: an Envoy's
// stream never ends by itself, and the Envoy keeps its configuration without us.
func (s *Server) Run(ctx context.Context, ln net.Listener) error {
	g := grpc.NewServer(grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 5 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		grpc.MaxConcurrentStreams(1000), grpc.MaxRecvMsgSize(4<<20))
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, serverv3.NewServer(ctx, s.cache, s.clients.callbacks()))
	var background sync.WaitGroup
	background.Go(func() { s.sweep(ctx) })
	background.Go(func() { s.guard(ctx) })
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-ctx.Done()
		g.Stop()
		background.Wait()
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

// Publish makes next the configuration of all Envoys and returns when they run it. A
// *Refused says that one of them did not take it and that all have the one before again;
// with nothing before, next stays, for an Envoy that can take it. An Envoy that does not
// answer within Patience holds up no other, and no later change.
func (s *Server) Publish(ctx context.Context, next *snapshot.Snapshot) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clients.metrics.published.Inc()
	good := s.current
	s.current, s.trial = next, trial{}
	if good == nil {
		return s.first(ctx, next)
	}
	s.retire(good)
	final, err := s.kept()
	if err != nil {
		return err
	}
	refused, added, err := s.change(ctx, final)
	if err != nil {
		return err
	}
	if refused != nil {
		return s.undo(ctx, good, next, added, refused)
	}
	s.trial = trial{before: good, until: time.Now().Add(s.c.Probation), since: s.clients.serial(), took: added}
	return nil
}

// first serves the first configuration to those who wait already.
func (s *Server) first(ctx context.Context, next *snapshot.Snapshot) error {
	refused, _, err := s.change(ctx, next)
	if refused != nil {
		return refused
	}
	return err
}

// undo puts good back for every Envoy. Those that had taken the new clusters keep them for
// as long as requests may be on their way there; nobody else hears of them again.
func (s *Server) undo(ctx context.Context, good, next *snapshot.Snapshot, added map[string]bool, refused *Refused) error {
	s.current, s.trial = good, trial{}
	kept, err := s.kept()
	if err != nil {
		return errors.Join(refused, err)
	}
	lingering, err := kept.With(next, pools()...)
	if err != nil {
		return errors.Join(refused, err)
	}
	s.served.serve(kept)
	for node := range s.served.all() {
		if added[node] && node != refused.Node {
			s.served.set(ctx, node, lingering)
		} else {
			s.served.set(ctx, node, kept)
		}
	}
	s.retire(good) // wakes the sweep, which sets everyone to what is kept then
	s.log.LogAttrs(ctx, slog.LevelError, "change undone, the last good configuration is served again",
		slog.String("version", next.Version), slog.String("good", good.Version), slog.String("reason", refused.Error()))
	return refused
}

// guard undoes the current configuration when an Envoy that took part in its change refuses
// a piece of it late.
func (s *Server) guard(ctx context.Context) {
	for seen := int64(0); ctx.Err() == nil; {
		refused, serial := s.clients.nextRefusal(ctx, seen)
		if refused == nil {
			return
		}
		seen = serial
		s.mu.Lock()
		t := s.trial
		late := t.before != nil && serial > t.since && t.took[refused.Node] && time.Now().Before(t.until)
		if late {
			_ = s.undo(ctx, t.before, s.current, t.took, refused) // it logs, and who published is told
		}
		s.mu.Unlock()
		if late && s.c.Undone != nil {
			s.c.Undone(refused)
		}
	}
}
