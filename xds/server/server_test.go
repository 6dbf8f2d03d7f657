package server_test

import (
	"context"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

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
	told   chan string // e.g. "Cluster +a -b"
	refuse func(*discoveryv3.DeltaDiscoveryResponse) string
}

func connect(t *testing.T, s *server.Server) *fakeEnvoy {
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
	conn, err := grpc.NewClient(ln.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		t.Fatal(err)
	}
	e := &fakeEnvoy{stream: stream, told: make(chan string, 100)}
	for _, kind := range []string{resourcev3.ClusterType, resourcev3.RouteType} {
		request := &discoveryv3.DeltaDiscoveryRequest{Node: &corev3.Node{Id: "fake"}, TypeUrl: kind}
		if kind == resourcev3.RouteType {
			request.ResourceNamesSubscribe = []string{"gateway"}
		}
		if err := stream.Send(request); err != nil {
			t.Fatal(err)
		}
	}
	return e
}

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
		if e.refuse != nil && e.refuse(r) != "" {
			ack.ErrorDetail = &status.Status{Message: e.refuse(r)}
		}
		e.told <- snapshot.ShortType(r.GetTypeUrl()) + " " + strings.Join(words, " ")
		if e.stream.Send(ack) != nil {
			return
		}
	}
}

func (e *fakeEnvoy) next(t *testing.T) string {
	t.Helper()
	select {
	case s := <-e.told:
		return s
	case <-time.After(10 * time.Second):
		t.Fatal("nothing was pushed")
		return ""
	}
}

func newServer(t *testing.T) *server.Server {
	t.Helper()
	s, err := server.New(server.Config{Log: slog.New(slog.DiscardHandler), Patience: 5 * time.Second, Linger: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func publish(t *testing.T, s *server.Server, next *snapshot.Snapshot) {
	t.Helper()
	if err := s.Publish(t.Context(), next); err != nil {
		t.Fatal(err)
	}
}

func TestClustersAreAddedMovedToAndRemovedInThisOrder(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	publish(t, s, snap(t, "one", "kept", "old"))
	e := connect(t, s)
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
	select {
	case got := <-e.told:
		t.Errorf("want nothing for the same configuration, got %q", got)
	default:
	}
}

func TestARefusalIsKeptAndDoesNotBlock(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	publish(t, s, snap(t, "one", "a"))
	e := connect(t, s)
	e.refuse = func(r *discoveryv3.DeltaDiscoveryResponse) string {
		if r.GetTypeUrl() == resourcev3.ClusterType && len(r.GetResources()) == 1 && r.GetResources()[0].GetName() == "bad" {
			return "no such thing"
		}
		return ""
	}
	go e.run()
	e.next(t)
	e.next(t)
	begun := time.Now()
	publish(t, s, snap(t, "two", "bad"))
	if took := time.Since(begun); took > 4*time.Second {
		t.Errorf("want a refusal to count as an answer, took %v", took)
	}
	clients := s.Clients()
	if len(clients) != 1 || clients[0].Node != "fake" || clients[0].Refused["Cluster"].Message != "no such thing" ||
		clients[0].Acknowledged["RouteConfiguration"] == "" {
		t.Fatalf("want the refusal of fake shown, got %+v", clients)
	}
}

func TestAnEnvoyThatComesLateGetsEverything(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	publish(t, s, snap(t, "one", "a"))
	publish(t, s, snap(t, "two", "b"))
	e := connect(t, s)
	go e.run()
	got := []string{e.next(t), e.next(t)}
	slices.Sort(got)
	if !strings.Contains(got[0], "+b") || got[1] != "RouteConfiguration +gateway" {
		t.Errorf("want the present configuration, got %v", got)
	}
}
