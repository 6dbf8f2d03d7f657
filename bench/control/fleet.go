package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/stats"
)

// patience bounds one change, and the first load of all clusters, which takes longest.
const patience = 5 * time.Minute

// fleet is a system with its clients.
type fleet struct {
	system   system
	clients  int
	got      chan int     // a version of cluster 0 that a client got
	received atomic.Int64 // bytes on the wire

	stop    context.CancelFunc
	running sync.WaitGroup
	conns   []*grpc.ClientConn
}

// connect starts a system and its clients, and waits until each has everything.
func connect(ctx context.Context, s system, clients int, silent bool) (*fleet, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	f := &fleet{system: s, clients: clients, got: make(chan int, 4*clients), stop: stop}
	f.running.Go(func() { _ = s.serve(ctx, ln) }) // it ends with ctx
	streams := clients
	if silent {
		streams++
	}
	for i := range streams {
		if err := f.join(ctx, ln.Addr().String(), i); err != nil {
			f.close()
			return nil, err
		}
	}
	if err := f.await(ctx, 0); err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

// join is one client; those beyond the number that there is to be are silent.
func (f *fleet) join(ctx context.Context, address string, i int) error {
	options := []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64 << 20))}
	if i < f.clients {
		options = append(options, grpc.WithStatsHandler(counter{&f.received}))
	}
	conn, err := grpc.NewClient(address, options...)
	if err != nil {
		return err
	}
	f.conns = append(f.conns, conn)
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&discoveryv3.DeltaDiscoveryRequest{Node: &corev3.Node{Id: node(i)}, TypeUrl: resourcev3.ClusterType}); err != nil {
		return err
	}
	f.running.Go(func() {
		for {
			r, err := stream.Recv()
			if err != nil || i >= f.clients {
				return
			}
			for _, resource := range r.GetResources() {
				if resource.GetName() != cluster(0, 0).GetName() {
					continue
				}
				var c clusterv3.Cluster
				if resource.GetResource().UnmarshalTo(&c) == nil {
					f.got <- versionOf(&c)
				}
			}
			if stream.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: r.GetTypeUrl(), ResponseNonce: r.GetNonce()}) != nil {
				return
			}
		}
	})
	return nil
}

// change sets version n and gives the time until every client had it.
func (f *fleet) change(ctx context.Context, n int) (time.Duration, error) {
	begun := time.Now()
	set := make(chan error, 1)
	go func() { set <- f.system.set(ctx, n) }()
	err := f.await(ctx, n)
	took := time.Since(begun)
	return took, errors.Join(err, <-set)
}

// await returns once every client has got version n.
func (f *fleet) await(ctx context.Context, n int) error {
	late := time.NewTimer(patience)
	defer late.Stop()
	for have := 0; have < f.clients; {
		select {
		case got := <-f.got:
			if got == n {
				have++
			}
		case <-ctx.Done():
			return ctx.Err()
		case <-late.C:
			return fmt.Errorf("%d of %d clients have version %d after %v", have, f.clients, n, patience)
		}
	}
	return nil
}

func (f *fleet) close() {
	f.stop()
	for _, conn := range f.conns {
		conn.Close()
	}
	f.running.Wait()
}

// counter adds up what comes in.
type counter struct{ bytes *atomic.Int64 }

// TagRPC implements stats.Handler.
func (counter) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

// HandleRPC implements stats.Handler.
func (c counter) HandleRPC(_ context.Context, s stats.RPCStats) {
	if in, ok := s.(*stats.InPayload); ok {
		c.bytes.Add(int64(in.WireLength))
	}
}

// TagConn implements stats.Handler.
func (counter) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn implements stats.Handler.
func (counter) HandleConn(context.Context, stats.ConnStats) {}
