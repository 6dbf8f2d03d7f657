package protos

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	xdscorev3 "github.com/cncf/xds/go/xds/core/v3"
	xdsmatcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	ratelimitconfigv3 "github.com/envoyproxy/go-control-plane/envoy/config/ratelimit/v3"
	matchingv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/matching/v3"
	gzipv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/compression/gzip/decompressor/v3"
	actionv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/matcher/action/v3"
	bufferv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/buffer/v3"
	corsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	responsev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/custom_response/v3"
	decompressorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/decompressor/v3"
	authzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	headersv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	luav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/lua/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ratelimit/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	policyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/custom_response/local_response_policy/v3"
	previousv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/leaky-tokens/leaky-tokens/envoy"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/operation"
	"github.com/leaky-tokens/leaky-tokens/internal/dpop"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
	"github.com/leaky-tokens/leaky-tokens/xds/model"
)

// Names of the filters, as routes refer to them. ext_authz and ratelimit write their
// metadata under the name of the filter.
const (
	filterAuthz     = attributes.NamespaceAuth
	filterAway      = "away"
	filterBody      = "body"
	filterCORS      = "cors"
	filterGuard     = "guard"
	filterHeaders   = "headers"
	filterInflight  = "inflight"
	filterOpen      = "ratelimit-open"
	filterPage      = "page"
	filterRateLimit = attributes.NamespaceLimit
	filterReadable  = "readable"
	filterSplice    = "splice"
	filterUnpack    = "unpack"
	filterUsage     = "usage"
)

// llmFilters are turned off on every route that is not an LLM call.
func llmFilters() []string {
	return []string{filterInflight, filterBody, filterGuard, filterSplice, filterUsage, filterUnpack}
}

// leastBuffer is the least bound of the buffer filter, in bytes; the guard applies the
// configured one. While ext_authz waits for its answer, Envoy stops reading at the
// connection's limit, and the buffer filter then raises that limit. Reading resumes only
// below half of the new one, so a bound of less than four times the old hangs.
//
// A route's request_body_buffer_limit would not do instead of the filter: in Envoy 1.40 a
// body between the connection's limit and it hangs, and a larger one passes.
const leastBuffer = 8 * connectionBuffer

// guardContext is what the guard knows of a route.
func guardContext(of model.LLM, l model.Listener) *structpb.Struct {
	fields := map[string]*structpb.Value{"dialect": structpb.NewStringValue(of.Dialect), "family": structpb.NewStringValue(of.Family),
		"max_bytes": structpb.NewNumberValue(float64(l.MaxBodyBytes)), "dimensions": structpb.NewStringValue(l.Dimensions),
		"state_max": structpb.NewBoolValue(of.StateMax)}
	if of.Usual != "" {
		fields["model"] = structpb.NewStringValue(of.Usual)
	}
	if of.Maximum != "" && !of.Gemini {
		fields["maximum"] = structpb.NewStringValue(of.Maximum)
	}
	if of.Free {
		fields["free"] = structpb.NewBoolValue(true)
	}
	return &structpb.Struct{Fields: fields}
}

// movedGuard is guardContext for a call that came here from another model.
func movedGuard(of model.LLM, l model.Listener) *structpb.Struct {
	c := guardContext(of, l)
	c.Fields["fallback"] = structpb.NewBoolValue(true)
	return c
}

// shortBody is the length of a body that is not worth counting, up to 9999 bytes. Running the
// script costs more than the rest of what a call with such a body takes of Envoy's memory.
const shortBody = "[0-9]{1,4}"

// inflight bounds the bodies that are under way.
func inflight(l model.Listener) *matchingv3.ExtensionWithMatcher {
	return unless("content-length", shortBody, filterInflight, &luav3.Lua{
		DefaultSourceCode: inline(envoy.InflightLua), StatPrefix: filterInflight,
		FilterContext: &structpb.Struct{Fields: map[string]*structpb.Value{
			"caller_bytes": structpb.NewNumberValue(float64(l.CallerBytes)),
			"all_bytes":    structpb.NewNumberValue(float64(l.AllBytes)),
			"max_bytes":    structpb.NewNumberValue(float64(l.MaxBodyBytes))}}})
}

// spliceContext is what the splice lets pass on a route beside what every provider gets.
func spliceContext(l model.LLM) *structpb.Struct {
	fields := map[string]*structpb.Value{"headers": structpb.NewStringValue(strings.Join(l.Headers, ",")),
		"query": structpb.NewStringValue(strings.Join(l.Query, ","))}
	if l.SetModel != "" {
		fields["set_model"] = structpb.NewStringValue(strconv.Quote(l.SetModel)) // names are letters, digits and signs
		fields["must_name"] = structpb.NewBoolValue(l.Usual != "")
	}
	return &structpb.Struct{Fields: fields}
}

// filters is the chain, in the order of docs/design.
func filters(l model.Listener) []*hcmv3.HttpFilter {
	chain := []*hcmv3.HttpFilter{}
	add := func(name string, m proto.Message) {
		chain = append(chain, &hcmv3.HttpFilter{Name: name, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: anyOf(m)}})
	}
	add("correlation", correlation())
	add("edge", edge())
	add("network", network())
	add(filterHeaders, headerBounds(l))
	if len(l.Pages) > 0 {
		add(filterPage, origin())
		add(filterReadable, readable(l.Pages))
	}
	add(filterCORS, &corsv3.Cors{})
	add(filterAuthz, authz(l.ChecksTimeout))
	add(filterInflight, inflight(l))
	add(filterBody, &bufferv3.Buffer{MaxRequestBytes: count(max(l.MaxBodyBytes, leastBuffer))})
	add(filterGuard, &luav3.Lua{DefaultSourceCode: inline(envoy.GuardLua()), StatPrefix: filterGuard,
		FilterContext: guardContext(model.LLM{Dialect: operation.DialectChat, Family: attributes.FamilyOpenAI}, l)})
	add(filterRateLimit, rateLimit(l, true))
	if l.Open {
		add(filterOpen, rateLimit(l, false))
	}
	add(filterSplice, &luav3.Lua{DefaultSourceCode: inline(envoy.SpliceLua), StatPrefix: filterSplice,
		ClearRouteCache: wrapperspb.Bool(false)}) // it takes headers away that routes match, and the route is chosen
	add(filterUsage, &luav3.Lua{DefaultSourceCode: inline(envoy.UsageLua()), StatPrefix: filterUsage})
	add(filterUnpack, unpack())
	add(filterAway, away())
	add("envoy.filters.http.router", &routerv3.Router{SuppressEnvoyHeaders: true})
	return chain
}

// away answers for a service that says 503 or 504 and nothing else, as a balancer in
// front of it does. The body is that of local replies; the policy needs one of its own.
func away() *responsev3.CustomResponse {
	equal := func(in *xdscorev3.TypedExtensionConfig, value string) *xdsmatcherv3.Matcher_MatcherList_Predicate {
		return &xdsmatcherv3.Matcher_MatcherList_Predicate{MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate_{
			SinglePredicate: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate{Input: in,
				Matcher: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate_ValueMatch{ValueMatch: &xdsmatcherv3.StringMatcher{
					MatchPattern: &xdsmatcherv3.StringMatcher_Exact{Exact: value}}}}}}
	}
	list := func(all ...*xdsmatcherv3.Matcher_MatcherList_Predicate) *xdsmatcherv3.Matcher_MatcherList_Predicate_PredicateList {
		return &xdsmatcherv3.Matcher_MatcherList_Predicate_PredicateList{Predicate: all}
	}
	status := func(code string) *xdsmatcherv3.Matcher_MatcherList_Predicate {
		return equal(xdsTyped("status", &matcherv3.HttpResponseStatusCodeMatchInput{}), code)
	}
	either := &xdsmatcherv3.Matcher_MatcherList_Predicate{MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_OrMatcher{OrMatcher: list(
		status("503"), status("504"))}}
	empty := equal(xdsTyped("length", &matcherv3.HttpResponseHeaderMatchInput{HeaderName: "content-length"}), "0")
	policy := &xdsmatcherv3.Matcher_OnMatch{OnMatch: &xdsmatcherv3.Matcher_OnMatch_Action{Action: xdsTyped("fallback",
		&policyv3.LocalResponsePolicy{
			StatusCode: count(503), Body: inline("not available"), ResponseHeadersToAdd: []*corev3.HeaderValueOption{set("retry-after", "1")}})}}
	return &responsev3.CustomResponse{CustomResponseMatcher: &xdsmatcherv3.Matcher{MatcherType: &xdsmatcherv3.Matcher_MatcherList_{
		MatcherList: &xdsmatcherv3.Matcher_MatcherList{Matchers: []*xdsmatcherv3.Matcher_MatcherList_FieldMatcher{{OnMatch: policy,
			Predicate: &xdsmatcherv3.Matcher_MatcherList_Predicate{MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_AndMatcher{
				AndMatcher: list(either, empty)}}}}}}}}
}

// edge is first on the way in and so last on the way out: what it sets is on every
// answer of the chain, whoever made it, exactly once. On the way in it says where the client is.
func edge() *headersv3.HeaderMutation {
	m := &headersv3.Mutations{
		RequestMutations:  []*mutationv3.HeaderMutation{mutate(set(attributes.HeaderNetwork, "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"))},
		ResponseMutations: []*mutationv3.HeaderMutation{mutate(set(headerCorrelation, "%REQ("+headerCorrelation+")%"))}}
	for _, h := range securityHeaders() {
		m.ResponseMutations = append(m.ResponseMutations, mutate(h))
	}
	return &headersv3.HeaderMutation{Mutations: m}
}

// ipv4 is an IPv4 address, also one that a proxy wrote as an IPv6 address (RFC 4291, 2.5.5.2).
const ipv4 = `(::ffff:)?[0-9.]+`

// network makes an IPv6 address the /64 that it is in; an IPv4 address skips it.
func network() *matchingv3.ExtensionWithMatcher {
	return unless(attributes.HeaderNetwork, ipv4, "network", change(set(attributes.HeaderNetwork, "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(64)%")))
}

func mutate(h *corev3.HeaderValueOption) *mutationv3.HeaderMutation {
	return &mutationv3.HeaderMutation{Action: &mutationv3.HeaderMutation_Append{Append: h}}
}

const (
	headerCorrelation = "x-correlation-id"
	correlationIDs    = "[A-Za-z0-9._:-]{1,128}"
)

// correlation replaces a correlation id that is missing or not one by the request's own id.
func correlation() *matchingv3.ExtensionWithMatcher {
	return unless(headerCorrelation, correlationIDs, "correlation", change(set(headerCorrelation, "%REQ(X-REQUEST-ID)%")))
}

// change is a filter that sets a header of the request.
func change(h *corev3.HeaderValueOption) *headersv3.HeaderMutation {
	return &headersv3.HeaderMutation{Mutations: &headersv3.Mutations{RequestMutations: []*mutationv3.HeaderMutation{mutate(h)}}}
}

// unless is a filter for requests in which a header is missing, or does not match a regular
// expression as a whole. The expression is compiled once, which a condition in a format string
// would not be; the others do not even make the filter.
func unless(header, expression, name string, filter proto.Message) *matchingv3.ExtensionWithMatcher {
	good := headerMatches(header, expression)
	skip := &xdsmatcherv3.Matcher_OnMatch{OnMatch: &xdsmatcherv3.Matcher_OnMatch_Action{Action: xdsTyped("skip", &actionv3.SkipFilter{})}}
	return &matchingv3.ExtensionWithMatcher{
		XdsMatcher: &xdsmatcherv3.Matcher{MatcherType: &xdsmatcherv3.Matcher_MatcherList_{MatcherList: &xdsmatcherv3.Matcher_MatcherList{
			Matchers: []*xdsmatcherv3.Matcher_MatcherList_FieldMatcher{{Predicate: good, OnMatch: skip}}}}},
		ExtensionConfig: typed(name, filter),
	}
}

// headerMatches holds for requests in which a header is there and matches as a whole.
func headerMatches(header, expression string) *xdsmatcherv3.Matcher_MatcherList_Predicate {
	return &xdsmatcherv3.Matcher_MatcherList_Predicate{MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate_{
		SinglePredicate: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate{
			Input: xdsTyped("request-headers", &matcherv3.HttpRequestHeaderMatchInput{HeaderName: header}),
			Matcher: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate_ValueMatch{ValueMatch: &xdsmatcherv3.StringMatcher{
				MatchPattern: &xdsmatcherv3.StringMatcher_SafeRegex{SafeRegex: &xdsmatcherv3.RegexMatcher{Regex: expression,
					EngineType: &xdsmatcherv3.RegexMatcher_GoogleRe2{GoogleRe2: &xdsmatcherv3.RegexMatcher_GoogleRE2{}}}}}}}}}
}

func xdsTyped(name string, m proto.Message) *xdscorev3.TypedExtensionConfig {
	return &xdscorev3.TypedExtensionConfig{Name: name, TypedConfig: anyOf(m)}
}

func securityHeaders() []*corev3.HeaderValueOption {
	headers := httpapi.SecurityHeaders()
	var out []*corev3.HeaderValueOption
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		out = append(out, set(name, headers[name]))
	}
	return out
}

// authz asks who calls, before any body is buffered or parsed. No answer is no entry.
func authz(timeout time.Duration) *authzv3.ExtAuthz {
	// extauthz reads these and nothing else of a request, beside its path; the rest would be
	// encoded and decoded for every call.
	read := &matcherv3.ListStringMatcher{}
	for _, name := range []string{"authorization", "x-api-key", "x-goog-api-key", "api-key", "x-request-id", dpop.Header,
		attributes.HeaderNetwork} {
		read.Patterns = append(read.Patterns, exact(name))
	}
	return &authzv3.ExtAuthz{
		AllowedHeaders:      read,
		TransportApiVersion: corev3.ApiVersion_V3,
		Services:            &authzv3.ExtAuthz_GrpcService{GrpcService: grpc(topology.ExtAuthz, timeout)},
		FailureModeAllow:    false,
		StatusOnError:       &typev3.HttpStatus{Code: typev3.StatusCode_ServiceUnavailable},
		ValidateMutations:   true,
	}
}

func grpc(cluster string, timeout time.Duration) *corev3.GrpcService {
	return &corev3.GrpcService{Timeout: durationpb.New(timeout),
		RetryPolicy:     another(timeout),
		TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: cluster}}}
}

// another asks another process of a service when one has died with a question, or does not listen
// any more. A question may be asked twice so: a hold is one by its id, and the others change nothing.
// In Envoy 1.40 the longest pause is also the longest wait for one answer, which may take it all.
func another(timeout time.Duration) *corev3.RetryPolicy {
	const tries = 3
	return &corev3.RetryPolicy{NumRetries: wrapperspb.UInt32(tries), RetryOn: "connect-failure,refused-stream,reset",
		RetryBackOff: &corev3.BackoffStrategy{BaseInterval: durationpb.New(5 * time.Millisecond), MaxInterval: durationpb.New(timeout)},
		RetryHostPredicate: []*corev3.RetryPolicy_RetryHostPredicate{{Name: "envoy.retry_host_predicates.previous_hosts",
			ConfigType: &corev3.RetryPolicy_RetryHostPredicate_TypedConfig{TypedConfig: anyOf(&previousv3.PreviousHostsPredicate{})}}},
		HostSelectionRetryMaxAttempts: tries}
}

// rateLimit asks for a hold. No answer in time is a refusal, as providers cost money, but
// on the routes that are said to stay open: Envoy 1.40 has that switch on the filter alone,
// so these have a filter of their own, and only where there are any.
func rateLimit(l model.Listener, closed bool) *ratelimitv3.RateLimit {
	return &ratelimitv3.RateLimit{
		Domain: limits.Domain, Timeout: seconds(l.LimitsTimeout), FailureModeDeny: closed,
		StatusOnError:                  &typev3.HttpStatus{Code: typev3.StatusCode_ServiceUnavailable},
		DisableXEnvoyRatelimitedHeader: true,
		RateLimitService: &ratelimitconfigv3.RateLimitServiceConfig{TransportApiVersion: corev3.ApiVersion_V3,
			GrpcService: grpc(topology.RateLimit, l.LimitsTimeout)},
	}
}

// unpack decodes an answer that a provider has compressed although nobody asked it to, so
// that its usage can be read and the client gets what it can read.
func unpack() *decompressorv3.Decompressor {
	off := &decompressorv3.Decompressor_CommonDirectionConfig{Enabled: &corev3.RuntimeFeatureFlag{DefaultValue: wrapperspb.Bool(false)}}
	return &decompressorv3.Decompressor{
		DecompressorLibrary: typed("gzip", &gzipv3.Gzip{}),
		RequestDirectionConfig: &decompressorv3.Decompressor_RequestDirectionConfig{CommonConfig: off,
			AdvertiseAcceptEncoding: wrapperspb.Bool(false)},
	}
}
