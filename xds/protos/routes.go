package protos

import (
	"maps"
	"regexp"
	"slices"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	authzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	luav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/lua/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ratelimit/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/operation"
	"github.com/leaky-tokens/leaky-tokens/xds/model"
)

// Namespace is the metadata of a route that the access log and the error bodies read.
const Namespace = "leaky"

// Routes is the route table.
func Routes(g *model.Gateway) *routev3.RouteConfiguration {
	var routes []*routev3.Route
	for _, r := range g.Routes {
		routes = append(routes, spoken(route(r, g), r)...)
	}
	return &routev3.RouteConfiguration{Name: RoutesName, ValidateClusters: wrapperspb.Bool(false),
		VirtualHosts: []*routev3.VirtualHost{{Name: "gateway", Domains: []string{"*"}, Routes: routes}}}
}

// headerRequestID is where Anthropic's SDKs look for a request's id.
const headerRequestID = "request-id"

// afterFirstByte is how much longer silence may last than the wait for the first byte: else
// two timers of one length would race to say why a call ended.
const afterFirstByte = time.Second

// spoken tells calls that stream from others, where the path does not. Envoy has one timer
// for silence, before an answer begins and within it: a plain answer may be silent as long as
// its first byte may take, a stream only as long as streams may.
func spoken(out *routev3.Route, r model.Route) []*routev3.Route {
	if r.LLM == nil || r.Forward == nil {
		return []*routev3.Route{out}
	}
	out.GetRoute().IdleTimeout = durationpb.New(r.Forward.FirstByte + afterFirstByte)
	if r.LLM.Free {
		return []*routev3.Route{out}
	}
	stream := proto.CloneOf(out)
	stream.GetRoute().IdleTimeout = durationpb.New(r.Forward.Silence)
	if r.LLM.Gemini {
		if r.LLM.Stream {
			return []*routev3.Route{stream}
		}
		return []*routev3.Route{out}
	}
	stream.Match.DynamicMetadata = append(stream.Match.DynamicMetadata, &matcherv3.MetadataMatcher{Filter: attributes.NamespaceRequest,
		Path: metadataPath(attributes.Stream), Value: oneOf([]string{"true"})})
	return []*routev3.Route{stream, out}
}

func route(r model.Route, g *model.Gateway) *routev3.Route {
	out := &routev3.Route{Name: r.Name, Match: match(r.Match), Metadata: metadata(r), TypedPerFilterConfig: perFilter(r, g)}
	if r.Reply != nil {
		out.Action = &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{Status: r.Reply.Status,
			Body: inline(r.Reply.Message)}}
		if r.Reply.Allow != "" {
			out.ResponseHeadersToAdd = []*corev3.HeaderValueOption{set("allow", r.Reply.Allow)}
		}
		return out
	}
	out.Action = &routev3.Route_Route{Route: forward(r)}
	if r.LLM != nil {
		out.ResponseHeadersToRemove = theirs()
		if r.Family == attributes.FamilyAnthropic { // its SDKs read the request's id there
			out.ResponseHeadersToAdd = append(out.ResponseHeadersToAdd, set(headerRequestID, "%REQ(X-REQUEST-ID)%"))
		}
		if len(r.Forward.Tries) > 0 { // a fallback's answer tells its own limits, too
			out.ResponseHeadersToRemove = append(out.ResponseHeadersToRemove, "x-leaky-hold", "x-leaky-balance", "x-leaky-policy", "x-leaky-filled")
		}
	}
	return out
}

// theirs are headers of a provider's answer that would speak for the gateway, or tell
// whose account it calls with. Limits on the way back are the caller's with us.
func theirs() []string {
	names := []string{"anthropic-organization-id", "set-cookie", "server", "via", "alt-svc", "x-request-id", "ratelimit", "ratelimit-policy",
		"openai-organization", "openai-project", "cf-ray", "cf-cache-status"}
	for _, what := range []string{"limit", "remaining", "reset"} {
		names = append(names, "x-ratelimit-"+what, "x-ratelimit-"+what+"-requests", "x-ratelimit-"+what+"-tokens")
		for _, of := range []string{"requests", "tokens", "input-tokens", "output-tokens"} {
			names = append(names, "anthropic-ratelimit-"+of+"-"+what)
		}
	}
	return names
}

func forward(r model.Route) *routev3.RouteAction {
	a := &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: r.Forward.Cluster},
		Timeout: durationpb.New(r.Forward.Timeout), RetryPolicy: repeat(r.Forward)}
	if len(r.Forward.Tries) > 0 {
		a.ClusterSpecifier = priorityGroups(r.Forward.Tries)
	}
	switch {
	case r.Match.Fallback != "":
		a.RegexRewrite = &matcherv3.RegexMatchAndSubstitute{Pattern: &matcherv3.RegexMatcher{Regex: ".+"}, Substitution: r.Forward.Path}
	case r.Forward.Path != "" && r.Match.Regex != "":
		a.RegexRewrite = &matcherv3.RegexMatchAndSubstitute{Pattern: &matcherv3.RegexMatcher{Regex: r.Match.Regex}, Substitution: r.Forward.Path}
	case r.Forward.Path != "":
		a.PrefixRewrite = r.Forward.Path
	}
	if r.Forward.Host != "" {
		a.HostRewriteSpecifier = &routev3.RouteAction_HostRewriteLiteral{HostRewriteLiteral: r.Forward.Host}
	}
	if r.Forward.Longest > 0 {
		a.MaxStreamDuration = &routev3.RouteAction_MaxStreamDuration{MaxStreamDuration: durationpb.New(r.Forward.Longest)}
	}
	return a
}

func match(m model.Match) *routev3.RouteMatch {
	out := &routev3.RouteMatch{}
	switch {
	case m.Path != "":
		out.PathSpecifier = &routev3.RouteMatch_Path{Path: m.Path}
	case m.Regex != "":
		out.PathSpecifier = &routev3.RouteMatch_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: m.Regex}}
	case m.Connect:
		out.PathSpecifier = &routev3.RouteMatch_ConnectMatcher_{ConnectMatcher: &routev3.RouteMatch_ConnectMatcher{}}
	default:
		out.PathSpecifier = &routev3.RouteMatch_Prefix{Prefix: m.Prefix}
	}
	if m.Method != "" {
		out.Headers = []*routev3.HeaderMatcher{{Name: ":method", HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: exact(
			m.Method)}}}
	}
	if m.Preflight {
		for _, name := range []string{"origin", "access-control-request-method"} {
			out.Headers = append(out.Headers, &routev3.HeaderMatcher{Name: name,
				HeaderMatchSpecifier: &routev3.HeaderMatcher_PresentMatch{PresentMatch: true}})
		}
	}
	if m.Fallback != "" {
		out.Headers = append(out.Headers, &routev3.HeaderMatcher{Name: attributes.HeaderFallback,
			HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: exact(m.Fallback)}})
	}
	if m.Expects {
		out.Headers = append(out.Headers, &routev3.HeaderMatcher{Name: "expect",
			HeaderMatchSpecifier: &routev3.HeaderMatcher_PresentMatch{PresentMatch: true}})
	}
	if m.NotHost != "" {
		out.Headers = append(out.Headers, &routev3.HeaderMatcher{Name: ":authority", InvertMatch: true,
			HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{
				StringMatch: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{
					Regex: m.NotHost}}}}})
	}
	if m.Header != "" {
		out.Headers = append(out.Headers, &routev3.HeaderMatcher{Name: m.Header,
			HeaderMatchSpecifier: &routev3.HeaderMatcher_PresentMatch{PresentMatch: true}})
	}
	if m.Like != "" {
		out.Headers = append(out.Headers, &routev3.HeaderMatcher{Name: ":path",
			HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: &matcherv3.StringMatcher{
				MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: m.Like}}}}})
	}
	if m.Parameter != "" {
		out.QueryParameters = append(out.QueryParameters, &routev3.QueryParameterMatcher{Name: m.Parameter,
			QueryParameterMatchSpecifier: &routev3.QueryParameterMatcher_PresentMatch{PresentMatch: true}})
	}
	for _, name := range slices.Sorted(maps.Keys(m.Query)) {
		out.QueryParameters = append(out.QueryParameters, &routev3.QueryParameterMatcher{Name: name,
			QueryParameterMatchSpecifier: &routev3.QueryParameterMatcher_StringMatch{StringMatch: exact(m.Query[name])}})
	}
	if len(m.Models)+len(m.Prefixes) > 0 {
		out.DynamicMetadata = append(out.DynamicMetadata, &matcherv3.MetadataMatcher{Filter: attributes.NamespaceRequest,
			Path: metadataPath(attributes.Model), Value: oneOf(m.Models, m.Prefixes...)})
	}
	if m.Guarded {
		out.DynamicMetadata = append(out.DynamicMetadata, &matcherv3.MetadataMatcher{Filter: attributes.NamespaceBody,
			Path:  metadataPath(attributes.Places),
			Value: &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_PresentMatch{PresentMatch: true}}})
	}
	return out
}

func exact(s string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: s}}
}

// oneOf takes any of the values, and what begins with one of the prefixes.
func oneOf(values []string, prefixes ...string) *matcherv3.ValueMatcher {
	var all []*matcherv3.ValueMatcher
	for _, v := range values {
		all = append(all, &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_StringMatch{StringMatch: exact(v)}})
	}
	for _, p := range prefixes {
		// Envoy's prefix takes the prefix alone as well, which is no name.
		all = append(all, &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_StringMatch{StringMatch: &matcherv3.StringMatcher{
			MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: regexp.QuoteMeta(p) + ".+"}}}}})
	}
	if len(all) == 1 {
		return all[0]
	}
	return &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_OrMatch{OrMatch: &matcherv3.OrMatcher{ValueMatchers: all}}}
}

func metadata(r model.Route) *corev3.Metadata {
	fields := map[string]*structpb.Value{"family": structpb.NewStringValue(r.Family)}
	if r.LLM != nil {
		fields["route"] = structpb.NewStringValue(r.LLM.Route)
		if r.LLM.Provider != "" {
			fields["provider"], fields["model"] = structpb.NewStringValue(r.LLM.Provider), structpb.NewStringValue(r.LLM.Model)
		}
	}
	if r.Reply != nil && r.Reply.Code != "" {
		fields["code"] = structpb.NewStringValue(r.Reply.Code)
	}
	return &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{Namespace: {Fields: fields}}}
}

// perFilter is what the filters are told of a route: each has an authorisation rule.
func perFilter(r model.Route, g *model.Gateway) map[string]*anypb.Any {
	context := map[string]string{attributes.ContextRule: r.Rule, attributes.ContextFamily: r.Family}
	if r.Audience != "" {
		context[attributes.ContextAudience] = r.Audience
	}
	if r.Scope != "" {
		context[attributes.ContextScope] = r.Scope
	}
	if r.NeedsOrg {
		context[attributes.ContextOrg] = attributes.OrgRequired
	}
	if r.Keys != "" {
		context[attributes.ContextKeys] = r.Keys
	}
	config := map[string]*anypb.Any{
		filterAuthz: anyOf(&authzv3.ExtAuthzPerRoute{Override: &authzv3.ExtAuthzPerRoute_CheckSettings{
			CheckSettings: &authzv3.CheckSettings{ContextExtensions: context, DisableRequestBodyBuffering: true}}}),
	}
	if r.ReadsOrigin() && len(g.CORS.Origins) > 0 {
		config[filterReadable] = anyOf(&routev3.FilterConfig{Disabled: true})
	}
	if r.Match.Preflight && !r.ReadsOrigin() {
		config[filterCORS] = anyOf(preflightPolicy(g.CORS))
	}
	asked := filterRateLimit
	if r.Open {
		asked = filterOpen
	}
	if limits := descriptors(r, g); len(limits) > 0 {
		config[asked] = anyOf(&ratelimitv3.RateLimitPerRoute{RateLimits: limits})
	}
	if r.LLM == nil {
		for _, name := range llmFilters() {
			config[name] = anyOf(&routev3.FilterConfig{Disabled: true})
		}
		return config
	}
	config[filterAway] = anyOf(&routev3.FilterConfig{Disabled: true})
	if len(r.LLM.Headers)+len(r.LLM.Query) > 0 || r.LLM.SetModel != "" {
		config[filterSplice] = anyOf(&luav3.LuaPerRoute{FilterContext: spliceContext(*r.LLM)})
	}
	switch {
	case r.Match.Fallback != "":
		config[filterGuard] = anyOf(&luav3.LuaPerRoute{FilterContext: movedGuard(*r.LLM, g.Fallback.Listener)})
	case r.LLM.Dialect != operation.DialectChat || r.LLM.StateMax:
		config[filterGuard] = anyOf(&luav3.LuaPerRoute{FilterContext: guardContext(*r.LLM, g.Listener)})
	}
	return config
}
