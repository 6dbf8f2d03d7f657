package protos

import (
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	commonv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/matcher/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	aggregatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/aggregate/v3"
	groupv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/router/cluster_specifiers/priority_group/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/leaky-tokens/leaky-tokens/xds/model"
)

// lookEvery is how often Envoy looks which ejected providers may be asked again.
const lookEvery = 500 * time.Millisecond

// provider bounds what is repeated at a provider, spreads calls over its addresses, and leaves
// those alone that fail. Most providers have one address, so that one alone is left out as well:
// without a panic threshold, and whatever its share of all.
func provider(c model.Cluster, out *clusterv3.Cluster) {
	out.LbPolicy = clusterv3.Cluster_LEAST_REQUEST
	if c.RetryBudget > 0 {
		out.GetCircuitBreakers().GetThresholds()[0].RetryBudget = &clusterv3.CircuitBreakers_Thresholds_RetryBudget{
			BudgetPercent: &typev3.Percent{Value: c.RetryBudget}}
	}
	o := c.Outlier
	if (o.Off || o.Failures == 0) && !o.Limited {
		return
	}
	out.CommonLbConfig = &clusterv3.Cluster_CommonLbConfig{HealthyPanicThreshold: &typev3.Percent{}}
	d := &clusterv3.OutlierDetection{
		Interval: durationpb.New(lookEvery), BaseEjectionTime: durationpb.New(o.Ejection), MaxEjectionTime: durationpb.New(o.Ejection),
		MaxEjectionPercent: wrapperspb.UInt32(100), AlwaysEjectOneHost: wrapperspb.Bool(true),
		EnforcingConsecutive_5Xx: wrapperspb.UInt32(0), EnforcingSuccessRate: wrapperspb.UInt32(0),
		ConsecutiveGatewayFailure: wrapperspb.UInt32(uint32(o.Failures)), EnforcingConsecutiveGatewayFailure: wrapperspb.UInt32(100),
	}
	if o.Limited { // see limited: what the provider answers counts only there
		d.BaseEjectionTime, d.MaxEjectionTime = durationpb.New(o.Cooldown), durationpb.New(o.Cooldown)
		d.SplitExternalLocalOriginErrors = true
		d.Consecutive_5Xx, d.EnforcingConsecutive_5Xx = wrapperspb.UInt32(1), wrapperspb.UInt32(100)
		d.EnforcingConsecutiveGatewayFailure = wrapperspb.UInt32(0)
		d.ConsecutiveLocalOriginFailure, d.EnforcingConsecutiveLocalOriginFailure = wrapperspb.UInt32(uint32(o.Failures)), wrapperspb.UInt32(100)
		d.EnforcingLocalOriginSuccessRate = wrapperspb.UInt32(0)
	}
	out.OutlierDetection = d
}

// limited makes 429 the one answer that counts against a cluster: its key is out of quota, which
// says nothing of the provider.
func limited() *httpv3.HttpProtocolOptions_OutlierDetection {
	return &httpv3.HttpProtocolOptions_OutlierDetection{ErrorMatcher: &commonv3.MatchPredicate{
		Rule: &commonv3.MatchPredicate_HttpResponseHeadersMatch{HttpResponseHeadersMatch: &commonv3.HttpHeadersMatch{
			Headers: []*routev3.HeaderMatcher{{Name: ":status",
				HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: exact("429")}}}}}}}
}

// aggregate asks the first of several clusters that has a host. Filters and bounds of repeated
// calls are its own, all else is that of the one that is asked.
func aggregate(c model.Cluster) *clusterv3.Cluster {
	return &clusterv3.Cluster{
		Name: c.Name, AltStatName: c.Stat, ConnectTimeout: durationpb.New(connectTimeout(c)), LbPolicy: clusterv3.Cluster_CLUSTER_PROVIDED,
		ClusterDiscoveryType: &clusterv3.Cluster_ClusterType{ClusterType: &clusterv3.Cluster_CustomClusterType{
			Name: "envoy.clusters.aggregate", TypedConfig: anyOf(&aggregatev3.ClusterConfig{Clusters: c.Of})}},
		TypedExtensionProtocolOptions: map[string]*anypb.Any{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": anyOf(httpOptions(c))},
		CircuitBreakers: &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{{
			MaxConnections: count(c.MaxRequests), MaxRequests: count(c.MaxRequests), MaxPendingRequests: count(c.MaxPending),
			MaxRetries: count(c.MaxRequests)}}},
	}
}

// Pauses between attempts: at the same provider it gets time, another one is asked at once.
const (
	shortestPause = 100 * time.Millisecond
	longestPause  = 2 * time.Second
	atOnce        = time.Millisecond
	longestWait   = 10 * time.Second // of a retry-after that is waited for
)

// repeat says what is tried again, before an answer began. What never reached a provider always
// is, once; what did may have been paid, so that anything else is tried again only where the
// configuration asks for it.
func repeat(f *model.Forward) *routev3.RetryPolicy {
	p := &routev3.RetryPolicy{RetryOn: "connect-failure,refused-stream", NumRetries: wrapperspb.UInt32(1)}
	if f.FirstByte > 0 { // it ends with the answer's first byte
		p.PerTryTimeout = durationpb.New(f.FirstByte)
	}
	if f.Retry.Times == 0 {
		return p
	}
	p.RetryOn += ",retriable-status-codes"
	p.RetriableStatusCodes, p.NumRetries = f.Retry.Statuses, wrapperspb.UInt32(f.Retry.Times)
	pause, most := shortestPause, longestPause
	if len(f.Tries) > 0 {
		pause, most, p.RefreshClusterOnRetry = atOnce, atOnce, true
	}
	p.RetryBackOff = &routev3.RetryPolicy_RetryBackOff{BaseInterval: durationpb.New(pause), MaxInterval: durationpb.New(most)}
	if f.Retry.Waits {
		p.RateLimitedRetryBackOff = &routev3.RetryPolicy_RateLimitedRetryBackOff{MaxInterval: durationpb.New(longestWait),
			ResetHeaders: []*routev3.RetryPolicy_ResetHeader{{Name: "retry-after", Format: routev3.RetryPolicy_SECONDS}}}
	}
	return p
}

// priorityGroups choose the cluster by the attempt.
func priorityGroups(tries [][]model.Share) *routev3.RouteAction_InlineClusterSpecifierPlugin {
	specifier := &groupv3.PriorityGroupClusterSpecifier{}
	for i, shares := range tries {
		group := &groupv3.PriorityGroup{Name: "attempt-" + string(rune('1'+i))}
		for _, s := range shares {
			group.Clusters = append(group.Clusters, &groupv3.ClusterWeight{ClusterName: s.Cluster, Weight: wrapperspb.UInt32(s.Weight)})
		}
		specifier.PriorityGroups = append(specifier.PriorityGroups, group)
	}
	return &routev3.RouteAction_InlineClusterSpecifierPlugin{InlineClusterSpecifierPlugin: &routev3.ClusterSpecifierPlugin{
		Extension: typed("envoy.router.cluster_specifier_plugin.priority_group", specifier)}}
}
