package server_test

import (
	"context"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/xds/server"
	"github.com/leaky-tokens/leaky-tokens/xds/snapshot"
)

// snap is a snapshot with these clusters and a route table of this name.
func snap(t *testing.T, table string, clusters ...string) *snapshot.Snapshot {
	t.Helper()
	r := map[string]snapshot.Resources{resourcev3.ClusterType: {},
		resourcev3.RouteType:    {"gateway": &routev3.RouteConfiguration{Name: "gateway", VhostHeader: table}},
		resourcev3.ListenerType: {"gateway": &listenerv3.Listener{Name: "gateway"}}}
	for _, c := range clusters {
		r[resourcev3.ClusterType][c] = &clusterv3.Cluster{Name: c}
	}
	s, err := snapshot.New(r)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// fakeEnvoy takes clusters and routes over one stream and notes what it is told.
type fakeEnvoy struct {
	stream discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient
	node   string
	told   chan string // e.g. "Cluster +a -b"
	refuse func(*discoveryv3.DeltaDiscoveryResponse) string

	sending sync.Mutex // one at a time may
}

// serve runs a server until the test ends and gives its address.
func serve(t *testing.T, s *server.Server) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	return ln.Addr().String()
}

// connect is an Envoy that asks for clusters and the route table.
func connect(t *testing.T, address, node string) *fakeEnvoy {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	e := &fakeEnvoy{stream: stream, told: make(chan string, 100), node: node}
	for kind, names := range map[string][]string{resourcev3.ClusterType: nil, resourcev3.RouteType: {"gateway"}} {
		if err := e.subscribe(kind, names...); err != nil {
			t.Fatal(err)
		}
	}
	return e
}

func (e *fakeEnvoy) subscribe(kind string, names ...string) error {
	e.sending.Lock()
	defer e.sending.Unlock()
	return e.stream.Send(&discoveryv3.DeltaDiscoveryRequest{Node: &corev3.Node{Id: e.node}, TypeUrl: kind, ResourceNamesSubscribe: names})
}

func secret(name string) *tlsv3.Secret { return &tlsv3.Secret{Name: name} }

// run answers every push.
func (e *fakeEnvoy) run() {
	for {
		r, err := e.stream.Recv()
		if err != nil {
			return
		}
		var words []string
		for _, added := range r.GetResources() {
			words = append(words, "+"+added.GetName())
		}
		for _, removed := range r.GetRemovedResources() {
			words = append(words, "-"+removed)
		}
		slices.Sort(words)
		ack := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: r.GetTypeUrl(), ResponseNonce: r.GetNonce()}
		if e.refuse != nil {
			if reason := e.refuse(r); reason != "" {
				ack.ErrorDetail = &status.Status{Message: reason}
			}
		}
		e.told <- snapshot.ShortType(r.GetTypeUrl()) + " " + strings.Join(words, " ")
		e.sending.Lock()
		err = e.stream.Send(ack)
		e.sending.Unlock()
		if err != nil {
			return
		}
	}
}

func (e *fakeEnvoy) next(t *testing.T) string {
	t.Helper()
	select {
	case s := <-e.told:
		return s
	case <-time.After(time.Minute):
		t.Fatal("nothing was pushed")
		return ""
	}
}

func newServer(t *testing.T) *server.Server {
	t.Helper()
	s, err := server.New(server.Config{Log: slog.New(slog.DiscardHandler), Patience: time.Minute, Linger: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func publish(t *testing.T, s *server.Server, next *snapshot.Snapshot) {
	t.Helper()
	if err := s.Publish(t.Context(), next, nil); err != nil {
		t.Fatal(err)
	}
}

func TestClustersAreAddedMovedToAndRemovedInThisOrder(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	publish(t, s, snap(t, "one", "kept", "old"))
	e := connect(t, serve(t, s), "fake")
	go e.run()
	first := []string{e.next(t), e.next(t)}
	slices.Sort(first)
	if want := []string{"Cluster +kept +old", "RouteConfiguration +gateway"}; !slices.Equal(first, want) {
		t.Fatalf("want %v at first, got %v", want, first)
	}
	publish(t, s, snap(t, "two", "kept", "new"))
	for _, want := range []string{"Cluster +new", "RouteConfiguration +gateway", "Cluster -old"} {
		if got := e.next(t); got != want {
			t.Errorf("want %q, got %q", want, got)
		}
	}
	publish(t, s, snap(t, "two", "kept", "new", "more")) // nothing is dropped: one step
	if got := e.next(t); got != "Cluster +more" {
		t.Errorf("want only the addition, got %q", got)
	}
	publish(t, s, snap(t, "two", "kept", "new", "more"))
	publish(t, s, snap(t, "two", "kept", "new", "more", "last")) // what the same pushed would come before it
	if got := e.next(t); got != "Cluster +last" {
		t.Errorf("want nothing for the same configuration, got %q", got)
	}
}

func TestAnEnvoyThatComesLateGetsEverything(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	publish(t, s, snap(t, "one", "a"))
	publish(t, s, snap(t, "two", "b"))
	e := connect(t, serve(t, s), "fake")
	go e.run()
	got := []string{e.next(t), e.next(t)}
	slices.Sort(got)
	if !strings.Contains(got[0], "+b") || got[1] != "RouteConfiguration +gateway" {
		t.Errorf("want the present configuration, got %v", got)
	}
}

// TestWhoConnectsAnewHasWhatItSays: nothing is sent again to an Envoy that has it already, and it is
// shown as one that took it.
func TestWhoConnectsAnewHasWhatItSays(t *testing.T) {
	t.Parallel()
	s, err := server.New(server.Config{Log: slog.New(slog.DiscardHandler), Patience: 10 * time.Millisecond, Linger: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	first := snap(t, "one", "a")
	publish(t, s, first)
	conn, err := grpc.NewClient(serve(t, s), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	again := func(has map[string]string) {
		t.Helper()
		err := stream.Send(&discoveryv3.DeltaDiscoveryRequest{Node: &corev3.Node{Id: "again"}, TypeUrl: resourcev3.RouteType,
			ResourceNamesSubscribe: []string{"gateway"}, InitialResourceVersions: has})
		if err != nil {
			t.Fatal(err)
		}
	}
	again(first.ResourceVersions(resourcev3.RouteType))
	testenv.Eventually(t, "what it has is acknowledged", func() bool {
		c := s.Clients()
		return len(c) == 1 && c[0].Acknowledged["RouteConfiguration"] == first.TypeVersion(resourcev3.RouteType)
	})
	publish(t, s, snap(t, "two", "a"))
	if c := s.Clients(); len(c) != 1 || c[0].Acknowledged["RouteConfiguration"] == first.TypeVersion(resourcev3.RouteType) && c[0].Unanswered == 0 {
		t.Errorf("want no newer version acknowledged before it is, got %+v", c)
	}
}
