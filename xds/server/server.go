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
	"cmp"
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
	// Grace is how long an Envoy that has not answered yet is still waited for when a newer
	// configuration is there, default 50ms.
	Grace time.Duration
	// Undone is told of a refusal that came after Publish had returned; may be nil.
	Undone func(*Refused)
	// Proven is told the version of a configuration once an Envoy has taken all of it; may be
	// nil. It is called while nothing is published and must not call the server.
	Proven func(version string)
}

// Refused is the refusal that ended a change. Every Envoy has the configuration from before.
type Refused struct {
	Node    string // the Envoy's id
	Type    string // of the resources, e.g. Cluster
	Version string // of the type's resources
	Reason  string // Envoy's words
	Tried   string // version of the whole configuration that is undone
}

func (r *Refused) Error() string {
	return fmt.Sprintf("envoy %q refuses the change (%s): %s", r.Node, r.Type, r.Reason)
}

// Server is the delta ADS server.
type Server struct {
	c       Config
	log     *slog.Logger
	cache   cachev3.SnapshotCache
	limits  *cachev3.LinearCache
	clients *clients

	mu       sync.Mutex         // held while a change is published
	current  *snapshot.Snapshot // what all Envoys are to run
	proven   bool               // an Envoy has taken all of current
	trial    trial              // how far current may still be undone
	retired  []retired
	retiring chan struct{} // there is something new in retired

	served served
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
		*d = cmp.Or(*d, 5*time.Second)
	}
	c.Grace = cmp.Or(c.Grace, 50*time.Millisecond)
	s := &Server{c: c, log: c.Log, cache: cachev3.NewSnapshotCache(true, byNode{}, nil),
		limits: cachev3.NewLinearCache(resourcev3.RateLimitConfigType), clients: newClients(c.Log, newMetrics(c.Metrics)),
		retiring: make(chan struct{}, 1)}
	if c.Metrics != nil {
		if err := c.Metrics.Register(newStanding(s.Clients)); err != nil {
			return nil, fmt.Errorf("register xds metrics: %w", err)
		}
	}
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
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, serverv3.NewServer(ctx, s.caches(), s.clients.callbacks()))
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
func (s *Server) Clients() []Client { return s.clients.list(s.served.present()) }

// pools are the types of resources that a route needs; they are added before and removed
// after the routes that name them.
func pools() []string {
	return []string{resourcev3.SecretType, resourcev3.ClusterType, resourcev3.EndpointType}
}

// Publish makes next the configuration of all Envoys and returns when they run it. A
// *Refused says that one of them did not take it and that all have the one before again;
// with nothing before, next stays, for an Envoy that can take it. An Envoy that does not
// answer within Patience holds up no other, and no later change. Once newer is closed (it may
// be nil), who has not answered is left behind: the next change takes them along.
func (s *Server) Publish(ctx context.Context, next *snapshot.Snapshot, newer <-chan struct{}) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clients.metrics.published.Inc()
	back := trial{before: s.current, proven: s.proven}
	if s.trial.before != nil && !s.proven { // nobody runs current: what is good is older
		back = trial{before: s.trial.before, proven: s.trial.proven}
	}
	if s.current != nil {
		s.retire(s.current)
	}
	s.current, s.proven, s.trial = next, false, trial{}
	final, err := s.kept()
	if err != nil {
		return err
	}
	c := s.newChange(final, newer)
	refused, err := c.run(ctx)
	switch {
	case err != nil:
		return err
	case refused != nil && back.before == nil:
		refused.Tried = next.Version
		return refused
	case refused != nil:
		return s.undo(ctx, back, next, c.added, refused)
	}
	back.until, back.since, back.took = time.Now().Add(s.c.Probation), s.clients.serial(), c.added
	s.trial = back
	if c.ran {
		s.prove(next)
	}
	return nil
}
