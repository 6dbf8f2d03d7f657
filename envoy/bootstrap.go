package envoy

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/leaky-tokens/leaky-tokens/internal/netaddr"
)

// httpOptions is the name under which a cluster carries its HTTP options.
const httpOptions = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

// BootstrapConfig is the little an Envoy must know before it asks xds for the rest.
type BootstrapConfig struct {
	XDS   netaddr.Addr // gRPC side of the xds service
	Admin netaddr.Addr // loopback or a Unix socket: the admin has no credentials; port 0: a free one
	// Metrics is where GET /stats/prometheus and /ready of an admin on a Unix socket are; the zero
	// value: nowhere.
	Metrics netaddr.Addr
	NodeID  string // names this Envoy in xds's logs and at GET /v1/clients
	TLS     *TLS   // nil: xds is asked in the clear
	Bounds  Bounds
}

// TLS is how an Envoy proves itself to xds, before xds can give it anything. The files
// hold one secret each, as xds writes them; Envoy follows their changes.
type TLS struct {
	Identity string // path of the secret with Envoy's certificate
	Roots    string // path of the secret with the roots
	Server   string // the only name that the server's certificate may have, a URI
}

// Names of the secrets in the files of TLS.
const (
	SecretIdentity = "tls-gateway"
	SecretRoots    = "tls-roots"
)

// Bootstrap is the bootstrap file as JSON.
func Bootstrap(c BootstrapConfig) ([]byte, error) {
	if c.NodeID == "" {
		return nil, errors.New("make bootstrap: the node id is empty")
	}
	if err := loopback(c.Admin); err != nil {
		return nil, fmt.Errorf("make bootstrap: %w", err)
	}
	xds, err := xdsCluster(c.XDS)
	if err == nil && c.TLS != nil {
		xds.TransportSocket, err = c.TLS.transport()
	}
	if err != nil {
		return nil, fmt.Errorf("make bootstrap: %w", err)
	}
	overload, err := c.Bounds.overload()
	if err != nil {
		return nil, fmt.Errorf("make bootstrap: %w", err)
	}
	ads := func() *corev3.ConfigSource {
		return &corev3.ConfigSource{ResourceApiVersion: corev3.ApiVersion_V3,
			ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}}}
	}
	b := &bootstrapv3.Bootstrap{
		Node:  &corev3.Node{Id: c.NodeID, Cluster: NodeCluster},
		Admin: &bootstrapv3.Admin{Address: private(c.Admin)},
		DynamicResources: &bootstrapv3.Bootstrap_DynamicResources{
			AdsConfig: &corev3.ApiConfigSource{ApiType: corev3.ApiConfigSource_DELTA_GRPC, TransportApiVersion: corev3.ApiVersion_V3,
				GrpcServices: []*corev3.GrpcService{{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{
					ClusterName: xds.Name}}}}},
			CdsConfig: ads(), LdsConfig: ads(),
		},
		StaticResources: &bootstrapv3.Bootstrap_StaticResources{Clusters: []*clusterv3.Cluster{xds}},
		OverloadManager: overload,
	}
	if c.Admin.Network == "unix" && c.Metrics.Network != "" {
		if err := addMetrics(b.StaticResources, c); err != nil {
			return nil, fmt.Errorf("make bootstrap: %w", err)
		}
	}
	if err := b.ValidateAll(); err != nil {
		return nil, fmt.Errorf("make bootstrap: %w", err)
	}
	return protojson.MarshalOptions{Multiline: true, UseProtoNames: true}.Marshal(b)
}

func loopback(a netaddr.Addr) error {
	if a.Network == "unix" || a.Host == "localhost" {
		return nil
	}
	if ip, err := netip.ParseAddr(a.Host); err != nil || !ip.IsLoopback() {
		return fmt.Errorf("admin address %s: it has no credentials, so it must be on loopback", a)
	}
	return nil
}

// private is an address to listen on; a Unix socket is for the user who runs Envoy.
func private(a netaddr.Addr) *corev3.Address {
	at := address(a)
	if pipe := at.GetPipe(); pipe != nil {
		pipe.Mode = 0o600
	}
	return at
}

func xdsCluster(a netaddr.Addr) (*clusterv3.Cluster, error) {
	options, err := anypb.New(&httpv3.HttpProtocolOptions{UpstreamProtocolOptions: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{
		ExplicitHttpConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
			ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{
				Http2ProtocolOptions: &corev3.Http2ProtocolOptions{ConnectionKeepalive: &corev3.KeepaliveSettings{
					Interval: durationpb.New(30 * time.Second), Timeout: durationpb.New(5 * time.Second)}}}}}})
	if err != nil {
		return nil, err
	}
	kind := clusterv3.Cluster_STATIC
	if a.Network == "tcp" {
		if _, err := netip.ParseAddr(a.Host); err != nil {
			kind = clusterv3.Cluster_STRICT_DNS
		}
	}
	return &clusterv3.Cluster{
		Name: "xds", ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: kind}, ConnectTimeout: durationpb.New(time.Second),
		TypedExtensionProtocolOptions: map[string]*anypb.Any{httpOptions: options},
		LoadAssignment: &endpointv3.ClusterLoadAssignment{ClusterName: "xds", Endpoints: []*endpointv3.LocalityLbEndpoints{{
			LoadBalancingWeight: wrapperspb.UInt32(1),
			LbEndpoints: []*endpointv3.LbEndpoint{{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{
				Endpoint: &endpointv3.Endpoint{Address: address(a)}}}}}}},
	}, nil
}

func address(a netaddr.Addr) *corev3.Address {
	if a.Network == "unix" {
		return &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: a.Path}}}
	}
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{Address: a.Host,
		PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(a.Port)}}}}
}
