package protos

import (
	"net/netip"
	"slices"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	injectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/credential_injector/v3"
	headersv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	codecv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/upstream_codec/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	genericv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/injected_credentials/generic/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/leaky-tokens/leaky-tokens/internal/netaddr"
	"github.com/leaky-tokens/leaky-tokens/xds/model"
)

// Trust is the file of root certificates that providers' certificates are checked against.
type Trust struct{ File string }

// ownRetries is how many questions may be asked again of a service at once; Envoy's default is 3.
const ownRetries = 1 << 16

// upstreamBuffer bounds what is buffered for one upstream connection, in bytes.
const upstreamBuffer = 256 << 10

// Cluster is one upstream.
func Cluster(c model.Cluster, trust Trust) *clusterv3.Cluster {
	if len(c.Of) > 0 {
		return aggregate(c)
	}
	out := &clusterv3.Cluster{
		Name: c.Name, AltStatName: c.Stat, ConnectTimeout: durationpb.New(connectTimeout(c)),
		PerConnectionBufferLimitBytes: wrapperspb.UInt32(upstreamBuffer),
		TypedExtensionProtocolOptions: map[string]*anypb.Any{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": anyOf(httpOptions(c))},
		CircuitBreakers: &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{{
			MaxConnections: count(c.MaxRequests), MaxRequests: count(c.MaxRequests), MaxPendingRequests: count(c.MaxPending)}}},
	}
	if !c.Provider { // what is asked again of our own services is bounded by what is asked
		out.GetCircuitBreakers().GetThresholds()[0].MaxRetries = wrapperspb.UInt32(ownRetries)
	}
	discover(c, out)
	if c.Shared {
		out.HealthChecks, out.OutlierDetection = health(), unreachable()
		out.IgnoreHealthOnHostRemoval = true // who leaves is healthy still, and asked nothing from then on
		// The dead are asked when there is nobody else, and not as soon as they are the majority.
		out.CommonLbConfig = &clusterv3.Cluster_CommonLbConfig{HealthyPanicThreshold: &typev3.Percent{Value: 1}}
	}
	switch {
	case c.Part != "":
		out.TransportSocket = mutual(c)
	case c.TLS:
		out.TransportSocket = transport(c, trust)
	}
	switch {
	case c.Bulkhead:
		bulkhead(c, out)
	case c.Provider:
		provider(c, out)
	}
	return out
}

func connectTimeout(c model.Cluster) time.Duration {
	if c.ConnectTimeout > 0 {
		return c.ConnectTimeout
	}
	return time.Second
}

// discover says where the endpoints come from: EDS for what is discovered and has a
// numeric address, DNS for names, the cluster itself otherwise.
func discover(c model.Cluster, out *clusterv3.Cluster) {
	switch {
	case !numeric(c):
		out.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STRICT_DNS}
		out.DnsLookupFamily = clusterv3.Cluster_ALL
		out.RespectDnsTtl = true
		out.LoadAssignment = Endpoints(c)
	case c.Discover:
		out.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS}
		out.EdsClusterConfig = &clusterv3.Cluster_EdsClusterConfig{EdsConfig: ads()}
	default:
		out.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC}
		out.LoadAssignment = Endpoints(c)
	}
}

// Discovered reports whether the cluster's endpoints are delivered by EDS.
func Discovered(c model.Cluster) bool { return c.Discover && numeric(c) }

func numeric(c model.Cluster) bool { return !slices.ContainsFunc(c.Addrs(), netaddr.Addr.Named) }

// unreachable leaves a replica out that refused connections, or broke them, several times in a row.
// What it was asked is asked of another (see another), so that nothing is lost until then; a single
// answer that comes too late is no death.
func unreachable() *clusterv3.OutlierDetection {
	return &clusterv3.OutlierDetection{SplitExternalLocalOriginErrors: true, ConsecutiveLocalOriginFailure: wrapperspb.UInt32(3),
		EnforcingConsecutiveLocalOriginFailure: wrapperspb.UInt32(100),
		EnforcingLocalOriginSuccessRate:        wrapperspb.UInt32(0), EnforcingConsecutive_5Xx: wrapperspb.UInt32(0),
		EnforcingConsecutiveGatewayFailure: wrapperspb.UInt32(0), EnforcingSuccessRate: wrapperspb.UInt32(0),
		Interval: durationpb.New(time.Second), BaseEjectionTime: durationpb.New(time.Second), MaxEjectionPercent: wrapperspb.UInt32(99)}
}

// health notices within a second that a process accepts no connection any more, and leaves it out until
// it does. It is there for a service of one process too, which is asked in any case: a cluster that
// changed with the number of processes would cost the questions that Envoy asks it at that moment.
func health() []*corev3.HealthCheck {
	return []*corev3.HealthCheck{{Timeout: durationpb.New(500 * time.Millisecond), Interval: durationpb.New(time.Second),
		UnhealthyInterval: durationpb.New(250 * time.Millisecond),
		NoTrafficInterval: durationpb.New(time.Second), UnhealthyThreshold: wrapperspb.UInt32(1), HealthyThreshold: wrapperspb.UInt32(1),
		HealthChecker: &corev3.HealthCheck_TcpHealthCheck_{TcpHealthCheck: &corev3.HealthCheck_TcpHealthCheck{}}}}
}

// Endpoints are a cluster's addresses, by zone.
func Endpoints(c model.Cluster) *endpointv3.ClusterLoadAssignment {
	all := &endpointv3.ClusterLoadAssignment{ClusterName: c.Name}
	zones := map[string]*endpointv3.LocalityLbEndpoints{}
	for _, at := range c.Addrs() {
		place := c.Places[at]
		if zones[place.Zone] == nil {
			zones[place.Zone] = &endpointv3.LocalityLbEndpoints{}
			if place.Zone != "" {
				zones[place.Zone].Locality = &corev3.Locality{Zone: place.Zone}
			}
			all.Endpoints = append(all.Endpoints, zones[place.Zone])
		}
		one := &endpointv3.LbEndpoint{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: address(at)}}}
		if place.Weight > 1 { // 1 is what Envoy takes for none
			one.LoadBalancingWeight = wrapperspb.UInt32(place.Weight)
		}
		zones[place.Zone].LbEndpoints = append(zones[place.Zone].LbEndpoints, one)
	}
	return all
}

func httpOptions(c model.Cluster) *httpv3.HttpProtocolOptions {
	o := &httpv3.HttpProtocolOptions{CommonHttpProtocolOptions: &corev3.HttpProtocolOptions{IdleTimeout: durationpb.New(time.Minute)}}
	switch {
	case c.GRPC:
		o.UpstreamProtocolOptions = &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{
			ExplicitHttpConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
				ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{
					Http2ProtocolOptions: &corev3.Http2ProtocolOptions{}}}}
	case c.TLS:
		o.UpstreamProtocolOptions = &httpv3.HttpProtocolOptions_AutoConfig{AutoConfig: &httpv3.HttpProtocolOptions_AutoHttpConfig{}}
	default:
		o.UpstreamProtocolOptions = &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{
			ExplicitHttpConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
				ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions{
					HttpProtocolOptions: &corev3.Http1ProtocolOptions{}}}}
	}
	if c.Outlier.Limited {
		o.OutlierDetection = limited()
	}
	add := func(name string, m proto.Message) {
		o.HttpFilters = append(o.HttpFilters, &hcmv3.HttpFilter{Name: "envoy.filters.http." + name,
			ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: anyOf(m)}})
	}
	if c.Moves != "" {
		add("header_mutation", moving(c.Moves))
	}
	if c.Provider {
		add("header_mutation", unsaid())
	}
	if c.Credential != "" {
		add("credential_injector", injector(c))
	}
	if len(o.HttpFilters) > 0 {
		add("upstream_codec", &codecv3.UpstreamCodec{})
	}
	return o
}

// unsaid takes out of a provider's answer what the gateway alone tells callers, such as who answered.
// The route of the answer cannot: behind it may be this Envoy itself, whose word counts.
func unsaid() *headersv3.HeaderMutation {
	return &headersv3.HeaderMutation{Mutations: &headersv3.Mutations{ResponseMutations: []*mutationv3.HeaderMutation{removePrefix(ownPrefix)}}}
}

// injector sets the provider's own key on each call. It sits on the upstream side, so
// that no filter of the gateway and no access log ever sees the key.
func injector(c model.Cluster) *injectorv3.CredentialInjector {
	return &injectorv3.CredentialInjector{Overwrite: true, Credential: typed("envoy.http.injected_credentials.generic", &genericv3.Generic{
		Credential: &tlsv3.SdsSecretConfig{Name: c.Credential, SdsConfig: ads()}, Header: c.Header, HeaderValuePrefix: c.HeaderPrefix})}
}

// transport is TLS that accepts only a certificate for the provider's name.
func transport(c model.Cluster, trust Trust) *corev3.TransportSocket {
	name, kind := c.Host, tlsv3.SubjectAltNameMatcher_DNS
	if _, err := netip.ParseAddr(c.Host); err == nil { // server name indication is for names (RFC 6066)
		name, kind = "", tlsv3.SubjectAltNameMatcher_IP_ADDRESS
	}
	return &corev3.TransportSocket{Name: "envoy.transport_sockets.tls",
		ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: anyOf(&tlsv3.UpstreamTlsContext{
			Sni: name,
			CommonTlsContext: &tlsv3.CommonTlsContext{
				TlsParams:     &tlsv3.TlsParameters{TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_2},
				AlpnProtocols: []string{"h2", "http/1.1"},
				ValidationContextType: &tlsv3.CommonTlsContext_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
					TrustedCa: &corev3.DataSource{Specifier: &corev3.DataSource_Filename{Filename: trust.File}},
					MatchTypedSubjectAltNames: []*tlsv3.SubjectAltNameMatcher{{SanType: kind,
						Matcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: c.Host}}}},
				}},
			},
		})}}
}
