package main

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"strconv"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	serverv3 "github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"

	"github.com/leaky-tokens/leaky-tokens/internal/netaddr"
	"github.com/leaky-tokens/leaky-tokens/xds/model"
	"github.com/leaky-tokens/leaky-tokens/xds/protos"
	"github.com/leaky-tokens/leaky-tokens/xds/server"
	"github.com/leaky-tokens/leaky-tokens/xds/snapshot"
)

// system is a control plane.
type system interface {
	serve(ctx context.Context, ln net.Listener) error
	// set makes cluster 0 its version n, for every client.
	set(ctx context.Context, n int) error
}

// cluster is a provider's as the product makes it; version n says so in its connect timeout.
func cluster(i, n int) *clusterv3.Cluster {
	return protos.Cluster(model.Cluster{Name: "provider-" + strconv.Itoa(i), Addr: netaddr.Addr{Network: "tcp", Host: "10.0.0.1", Port: 443}, Provider: true,
		ConnectTimeout: time.Second + time.Duration(n)*time.Millisecond, MaxRequests: 1000, MaxPending: 1000}, protos.Trust{})
}

// versionOf is what cluster 0 says of its version.
func versionOf(c *clusterv3.Cluster) int {
	return int((c.GetConnectTimeout().AsDuration() - time.Second) / time.Millisecond)
}

// ours is the product's server, with its three steps and its checks.
type ours struct {
	*server.Server

	last *snapshot.Snapshot
}

func newOurs(clusters, _ int) (system, error) {
	s, err := server.New(server.Config{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	all := snapshot.Resources{}
	for i := range clusters {
		c := cluster(i, 0)
		all[c.GetName()] = c
	}
	first, err := snapshot.New(map[string]snapshot.Resources{resourcev3.ClusterType: all})
	if err != nil {
		return nil, err
	}
	return &ours{s, first}, s.Publish(context.Background(), first, nil)
}

func (o *ours) serve(ctx context.Context, ln net.Listener) error { return o.Run(ctx, ln) }

func (o *ours) set(ctx context.Context, n int) error {
	all := maps.Clone(o.last.Resources[resourcev3.ClusterType])
	c := cluster(0, n)
	all[c.GetName()] = c
	next, err := snapshot.New(map[string]snapshot.Resources{resourcev3.ClusterType: all}, o.last)
	if err != nil {
		return err
	}
	o.last = next
	return o.Publish(ctx, next, nil)
}

// plain is SnapshotCache as its documentation has it: a snapshot for each node.
type plain struct {
	cache    cachev3.SnapshotCache
	clusters []types.Resource
	clients  int
}

func newPlain(clusters, clients int) (system, error) {
	p := &plain{cache: cachev3.NewSnapshotCache(true, cachev3.IDHash{}, nil), clients: clients}
	for i := range clusters {
		p.clusters = append(p.clusters, cluster(i, 0))
	}
	return p, p.set(context.Background(), 0)
}

func (p *plain) serve(ctx context.Context, ln net.Listener) error {
	g := grpc.NewServer()
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, serverv3.NewServer(ctx, p.cache, nil))
	context.AfterFunc(ctx, g.Stop)
	return g.Serve(ln)
}

func (p *plain) set(ctx context.Context, n int) error {
	p.clusters[0] = cluster(0, n)
	s, err := cachev3.NewSnapshot(strconv.Itoa(n), map[resourcev3.Type][]types.Resource{resourcev3.ClusterType: p.clusters})
	if err != nil {
		return err
	}
	for i := range p.clients + 1 { // and the silent one
		if err := p.cache.SetSnapshot(ctx, node(i), s); err != nil {
			return err
		}
	}
	return nil
}

func node(i int) string { return fmt.Sprintf("envoy-%d", i) }
