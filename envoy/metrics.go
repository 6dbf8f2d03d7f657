package envoy

import (
	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/leaky-tokens/leaky-tokens/internal/netaddr"
)

// metricsName is the listener of the metrics and the cluster it leads to.
const metricsName = "metrics"

// AdminURL is the base URL of an Envoy's admin. Of one on a Unix socket the host is a name
// that nobody looks up.
func AdminURL(a netaddr.Addr) string {
	if a.Network == "unix" {
		return "http://admin"
	}
	return "http://" + a.String()
}

// addMetrics serves what is read of the admin by whoever watches over the gateway, and nothing
// that changes it or shows what passes it.
func addMetrics(to *bootstrapv3.Bootstrap_StaticResources, c BootstrapConfig) error {
	router, err := anypb.New(&routerv3.Router{})
	if err != nil {
		return err
	}
	manager, err := anypb.New(&hcmv3.HttpConnectionManager{StatPrefix: metricsName,
		RouteSpecifier: &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: &routev3.RouteConfiguration{Name: metricsName,
			VirtualHosts: []*routev3.VirtualHost{{Name: metricsName, Domains: []string{"*"},
				Routes: []*routev3.Route{read("/stats/prometheus"), read("/ready")}}}}},
		HttpFilters: []*hcmv3.HttpFilter{{Name: "envoy.filters.http.router", ConfigType: &hcmv3.HttpFilter_TypedConfig{
			TypedConfig: router}}},
		CommonHttpProtocolOptions: &corev3.HttpProtocolOptions{IdleTimeout: durationpb.New(shortestIdle)}})
	if err != nil {
		return err
	}
	to.Listeners = append(to.Listeners, &listenerv3.Listener{Name: metricsName, Address: address(c.Metrics),
		FilterChains: []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{{Name: "envoy.filters.network.http_connection_manager",
			ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: manager}}}}}})
	to.Clusters = append(to.Clusters, &clusterv3.Cluster{Name: metricsName, ClusterDiscoveryType: &clusterv3.Cluster_Type{
		Type: clusterv3.Cluster_STATIC},
		LoadAssignment: &endpointv3.ClusterLoadAssignment{ClusterName: metricsName, Endpoints: []*endpointv3.LocalityLbEndpoints{{
			LbEndpoints: []*endpointv3.LbEndpoint{{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{
				Address: address(c.Admin)}}}}}}}})
	return nil
}

// read is the route of one page, for GET alone.
func read(path string) *routev3.Route {
	return &routev3.Route{Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Path{Path: path},
		Headers: []*routev3.HeaderMatcher{{Name: ":method", HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{
			StringMatch: &matcherv3.StringMatcher{
				MatchPattern: &matcherv3.StringMatcher_Exact{Exact: "GET"}}}}}},
		Action: &routev3.Route_Route{Route: &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: metricsName}}}}
}
