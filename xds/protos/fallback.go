package protos

import (
	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	bufferv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/buffer/v3"
	headersv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	tometadatav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_to_metadata/v3"
	luav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/lua/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/leaky-tokens/leaky-tokens/envoy"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/operation"
	"github.com/leaky-tokens/leaky-tokens/xds/model"
)

// FallbackName is the name of the listener on which an Envoy calls itself, and of its route table.
const FallbackName = "fallback"

// callerKeys are what extauthz found out of the caller, and limits are computed from.
func callerKeys() []string {
	return []string{attributes.User, attributes.Org, attributes.Team, attributes.Key, attributes.Tier, attributes.Roles}
}

// moving is a filter of a fallback's cluster, so that no provider sees what it says: which fallback
// it is, for whom, and what of the body is the gateway's.
func moving(fallback string) *headersv3.HeaderMutation {
	m := &headersv3.Mutations{RequestMutations: []*mutationv3.HeaderMutation{mutate(set(attributes.HeaderFallback, fallback)),
		mutate(set(attributes.HeaderFilled, "%DYNAMIC_METADATA("+attributes.NamespaceLimit+":"+attributes.MaxTokens+")%"))}}
	for _, key := range callerKeys() {
		m.RequestMutations = append(m.RequestMutations, mutate(set(attributes.HeaderCaller(key),
			"%DYNAMIC_METADATA("+attributes.NamespaceAuth+":"+key+")%")))
	}
	return &headersv3.HeaderMutation{Mutations: m}
}

// moved reads what moving said of the caller.
func moved() *tometadatav3.Config {
	c := &tometadatav3.Config{}
	for _, key := range callerKeys() {
		c.RequestRules = append(c.RequestRules, &tometadatav3.Config_Rule{Header: attributes.HeaderCaller(key),
			OnHeaderPresent: &tometadatav3.Config_KeyValuePair{MetadataNamespace: attributes.NamespaceAuth, Key: key}})
	}
	return c
}

// FallbackListener takes calls that go on at another model. The caller is known and the answer is
// read and logged on the public listener, which the call came in by.
func FallbackListener(l model.Listener) *listenerv3.Listener {
	at := address(l.Addr)
	if pipe := at.GetPipe(); pipe != nil {
		pipe.Mode = ownerOnly
	}
	var chain []*hcmv3.HttpFilter
	add := func(name string, m proto.Message) {
		chain = append(chain, &hcmv3.HttpFilter{Name: name, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: anyOf(m)}})
	}
	add("moved", moved())
	add(filterBody, &bufferv3.Buffer{MaxRequestBytes: count(max(l.MaxBodyBytes, leastBuffer))})
	add(filterGuard, &luav3.Lua{DefaultSourceCode: inline(envoy.GuardLua()), StatPrefix: filterGuard,
		FilterContext: movedGuard(model.LLM{Dialect: operation.DialectChat, Family: attributes.FamilyOpenAI}, l)})
	add(filterRateLimit, rateLimit(l, true))
	add(filterSplice, &luav3.Lua{DefaultSourceCode: inline(envoy.SpliceLua), StatPrefix: filterSplice,
		ClearRouteCache: wrapperspb.Bool(false)})
	add("envoy.filters.http.router", &routerv3.Router{SuppressEnvoyHeaders: true})
	manager := &hcmv3.HttpConnectionManager{
		StatPrefix: FallbackName, CodecType: hcmv3.HttpConnectionManager_AUTO,
		RouteSpecifier:    &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{ConfigSource: ads(), RouteConfigName: FallbackName}},
		HttpFilters:       chain,
		GenerateRequestId: wrapperspb.Bool(true), PreserveExternalRequestId: true, // the call's, by which it holds
		ServerHeaderTransformation: hcmv3.HttpConnectionManager_PASS_THROUGH,
		RequestHeadersTimeout:      durationpb.New(headersTimeout), RequestTimeout: durationpb.New(requestTimeout),
		StreamIdleTimeout:  durationpb.New(l.IdleTimeout),
		LocalReplyConfig:   localReplies(l),
		RequestIdExtension: wholeID(l.Tracing),
		Tracing:            tracing(l.Tracing, FallbackName+" "+ofRoute),
	}
	return &listenerv3.Listener{
		Name: FallbackName, Address: at, PerConnectionBufferLimitBytes: wrapperspb.UInt32(connectionBuffer),
		FilterChains: []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{{
			Name: "envoy.filters.network.http_connection_manager", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: anyOf(manager)}}}}},
	}
}

// FallbackRoutes is the route table of the fallback listener.
func FallbackRoutes(g *model.Gateway) *routev3.RouteConfiguration {
	var routes []*routev3.Route
	for _, r := range g.Fallback.Routes {
		for _, out := range spoken(route(r, g), r) {
			delete(out.TypedPerFilterConfig, filterAuthz)
			for name := range out.TypedPerFilterConfig {
				if name != filterGuard && name != filterRateLimit && name != filterSplice && name != filterBody {
					delete(out.TypedPerFilterConfig, name)
				}
			}
			if r.LLM != nil {
				served := set(attributes.HeaderServed, r.LLM.Provider+"/"+r.LLM.Model)
				out.ResponseHeadersToAdd = append(out.ResponseHeadersToAdd, served)
			}
			routes = append(routes, out)
		}
	}
	return &routev3.RouteConfiguration{Name: FallbackName, VirtualHosts: []*routev3.VirtualHost{{Name: FallbackName, Domains: []string{"*"},
		Routes: routes}}}
}
