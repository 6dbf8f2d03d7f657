package protos

import (
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/egress"
	"github.com/leaky-tokens/leaky-tokens/xds/model"
)

// EgressName is the name of the egress listener and of its route table.
const EgressName = "egress"

// ownerOnly is the mode of the egress socket: who may open it calls with our keys.
const ownerOnly = 0o600

// EgressListener takes tokensvc's calls to providers.
func EgressListener(e model.Egress) *listenerv3.Listener {
	at := address(e.Addr)
	if pipe := at.GetPipe(); pipe != nil {
		pipe.Mode = ownerOnly
	}
	manager := &hcmv3.HttpConnectionManager{
		StatPrefix: EgressName, CodecType: hcmv3.HttpConnectionManager_AUTO,
		RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{ConfigSource: ads(), RouteConfigName: EgressName}},
		HttpFilters: []*hcmv3.HttpFilter{{Name: "envoy.filters.http.router", ConfigType: &hcmv3.HttpFilter_TypedConfig{
			TypedConfig: anyOf(&routerv3.Router{SuppressEnvoyHeaders: true})}}},
		GenerateRequestId: wrapperspb.Bool(true), PreserveExternalRequestId: true, // the one of the call it is part of
		NormalizePath: wrapperspb.Bool(true), PathWithEscapedSlashesAction: hcmv3.HttpConnectionManager_REJECT_REQUEST,
		ServerHeaderTransformation: hcmv3.HttpConnectionManager_PASS_THROUGH,
		RequestHeadersTimeout:      durationpb.New(headersTimeout), RequestTimeout: durationpb.New(requestTimeout),
		LocalReplyConfig:   egressReplies(),
		RequestIdExtension: wholeID(e.Tracing),
		Tracing:            tracing(e.Tracing, EgressName+" "+ofRoute),
	}
	return &listenerv3.Listener{
		Name: EgressName, Address: at, PerConnectionBufferLimitBytes: wrapperspb.UInt32(connectionBuffer),
		FilterChains: []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{{
			Name: "envoy.filters.network.http_connection_manager", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: anyOf(manager)}}}}},
	}
}

// egressReplies tell why Envoy itself refused a call, by the header of package egress. A
// provider can't forge it: what it sends under this name is removed on the routes.
func egressReplies() *hcmv3.LocalReplyConfig {
	c := &hcmv3.LocalReplyConfig{}
	for _, r := range []struct {
		reason egress.Reason
		flags  []string
	}{
		{egress.BreakerOpen, []string{"UH"}}, {egress.Busy, []string{"UO"}}, {egress.TimedOut, []string{"UT", "SI"}},
		{egress.Unreachable, []string{"UF", "DF"}}, {egress.Reset, []string{"UC", "UR", "LR", "UPE"}}, {egress.Unknown, []string{"NR", "NC"}},
	} {
		c.Mappers = append(c.Mappers, &hcmv3.ResponseMapper{
			Filter: &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_ResponseFlagFilter{
				ResponseFlagFilter: &accesslogv3.ResponseFlagFilter{Flags: r.flags}}},
			HeadersToAdd: []*corev3.HeaderValueOption{set(egress.Header, string(r.reason))},
			BodyFormatOverride: &corev3.SubstitutionFormatString{ContentType: "text/plain",
				Format: &corev3.SubstitutionFormatString_TextFormatSource{TextFormatSource: inline(string(r.reason))}},
		})
	}
	return c
}

// private are headers that no provider gets to see of a call that tokensvc makes: the caller's
// credentials, who they are, where they call from, which of our accounts to bill, and that they
// take compressed answers: Envoy can't read the usage of those.
func private() []string {
	return append(attributes.IdentityHeaders(), "authorization", "x-api-key", "x-goog-api-key", "api-key", "cookie", "x-forwarded-for",
		"x-forwarded-proto", "x-envoy-external-address", attributes.HeaderNetwork,
		"openai-organization", "openai-project", "x-goog-user-project", "x-dashscope-workspace", "accept-encoding")
}

// EgressRoutes is the route table of the egress listener.
func EgressRoutes(e model.Egress) *routev3.RouteConfiguration {
	var routes []*routev3.Route
	for _, c := range e.Calls {
		// Envoy waits a random part of the interval, so half of it on average.
		backoff := durationpb.New(2 * c.Backoff)
		action := &routev3.RouteAction{
			ClusterSpecifier:     &routev3.RouteAction_Cluster{Cluster: c.Cluster},
			HostRewriteSpecifier: &routev3.RouteAction_HostRewriteLiteral{HostRewriteLiteral: c.Host},
			RegexRewrite:         &matcherv3.RegexMatchAndSubstitute{Pattern: &matcherv3.RegexMatcher{Regex: ".*"}, Substitution: c.Path},
			Timeout:              durationpb.New(c.Timeout),
			// A 4xx is an answer. What was cut may have been done: consume states its price
			// beforehand, so a second attempt costs the caller nothing more.
			RetryPolicy: &routev3.RetryPolicy{RetryOn: "connect-failure,refused-stream,reset,5xx", NumRetries: wrapperspb.UInt32(c.Attempts - 1),
				RetryBackOff: &routev3.RetryPolicy_RetryBackOff{BaseInterval: backoff, MaxInterval: backoff}},
		}
		routes = append(routes, &routev3.Route{Name: c.Provider, Match: match(model.Match{Prefix: "/" + c.Provider + "/", Method: "POST"}),
			Action: &routev3.Route_Route{Route: action}, RequestHeadersToRemove: private(), ResponseHeadersToRemove: append(theirs(),
				egress.Header)})
	}
	return &routev3.RouteConfiguration{Name: EgressName, ValidateClusters: wrapperspb.Bool(false),
		VirtualHosts: []*routev3.VirtualHost{{Name: EgressName, Domains: []string{"*"}, Routes: routes}}}
}

// bulkhead makes a cluster refuse at once what exceeds its bound, and cuts a provider off
// for a while after ten failures in a row, or when half of at least ten calls in five
// seconds failed. There is one address at most providers, so it must be cut off alone:
// without a panic threshold.
func bulkhead(c model.Cluster, out *clusterv3.Cluster) {
	const open, look = 10 * time.Second, 5 * time.Second
	limits := out.GetCircuitBreakers().GetThresholds()[0]
	// A call takes a place only once it has a connection. Twice as many connections as
	// places let one more find out at once that there is none, instead of waiting.
	limits.MaxConnections, limits.MaxRetries = count(2*c.MaxRequests), count(c.MaxRequests)
	out.CommonLbConfig = &clusterv3.Cluster_CommonLbConfig{HealthyPanicThreshold: &typev3.Percent{}}
	out.OutlierDetection = &clusterv3.OutlierDetection{
		Consecutive_5Xx: wrapperspb.UInt32(10), EnforcingConsecutive_5Xx: wrapperspb.UInt32(100),
		EnforcingConsecutiveGatewayFailure: wrapperspb.UInt32(0), EnforcingSuccessRate: wrapperspb.UInt32(0),
		FailurePercentageThreshold: wrapperspb.UInt32(50), EnforcingFailurePercentage: wrapperspb.UInt32(100),
		FailurePercentageMinimumHosts: wrapperspb.UInt32(1), FailurePercentageRequestVolume: wrapperspb.UInt32(10),
		Interval: durationpb.New(look), BaseEjectionTime: durationpb.New(open), MaxEjectionTime: durationpb.New(open),
		MaxEjectionPercent: wrapperspb.UInt32(100),
	}
}
