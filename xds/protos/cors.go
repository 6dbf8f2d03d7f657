package protos

import (
	"regexp"
	"strconv"
	"strings"
	"time"

	xdsmatcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	matchingv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/matching/v3"
	actionv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/matcher/action/v3"
	corsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	headersv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	tometadatav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_to_metadata/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
)

// Envoy's CORS filter leaves a route alone that answers itself, and a model call meets such a route
// first. So it has the preflights, which have a route of their own, and what lets a page read an
// answer is set beside it, on every answer, whoever made it.

// preflightPolicy answers every preflight, before anybody asks for a credential: one of a page that may
// not call says so by naming no origin. No credential that a browser keeps is allowed, as there are
// none, so "*" means everything (Fetch standard, section 4.10).
func preflightPolicy(c config.CORS) *corsv3.CorsPolicy {
	policy := &corsv3.CorsPolicy{AllowMethods: "GET, HEAD, POST, PUT, PATCH, DELETE", AllowHeaders: strings.Join(c.Headers, ", "),
		MaxAge: strconv.FormatInt(int64(c.MaxAge/time.Second), 10), AllowCredentials: wrapperspb.Bool(false),
		ForwardNotMatchingPreflights: wrapperspb.Bool(false)}
	for _, origin := range c.Origins {
		if origin != config.AnyOrigin { // the filter beside it names every origin
			policy.AllowOriginStringMatch = append(policy.AllowOriginStringMatch, exact(origin))
		}
	}
	return policy
}

// origin remembers the page's origin, as a provider is not told of it and the header is gone by the answer.
func origin() *tometadatav3.Config {
	return &tometadatav3.Config{RequestRules: []*tometadatav3.Config_Rule{{Header: "origin",
		OnHeaderPresent: &tometadatav3.Config_KeyValuePair{MetadataNamespace: filterPage, Key: "origin"}}}}
}

// readable lets pages of the origins read an answer.
func readable(origins []string) *matchingv3.ExtensionWithMatcher {
	var expressions []string
	for _, origin := range origins {
		if origin == config.AnyOrigin {
			expressions = []string{"https?://.*"}
			break
		}
		expressions = append(expressions, regexp.QuoteMeta(origin))
	}
	vary := set("vary", "origin")
	vary.AppendAction = corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD
	m := &headersv3.HeaderMutation{Mutations: &headersv3.Mutations{ResponseMutations: []*mutationv3.HeaderMutation{
		mutate(set("access-control-allow-origin", "%DYNAMIC_METADATA("+filterPage+":origin)%")), mutate(set("access-control-expose-headers",
			"*")), mutate(vary)}}}
	known := headerMatches("origin", strings.Join(expressions, "|"))
	other := &xdsmatcherv3.Matcher_MatcherList_Predicate{MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_NotMatcher{NotMatcher: known}}
	skip := &xdsmatcherv3.Matcher_OnMatch{OnMatch: &xdsmatcherv3.Matcher_OnMatch_Action{Action: xdsTyped("skip", &actionv3.SkipFilter{})}}
	return &matchingv3.ExtensionWithMatcher{
		XdsMatcher: &xdsmatcherv3.Matcher{MatcherType: &xdsmatcherv3.Matcher_MatcherList_{MatcherList: &xdsmatcherv3.Matcher_MatcherList{
			Matchers: []*xdsmatcherv3.Matcher_MatcherList_FieldMatcher{{Predicate: other, OnMatch: skip}}}}},
		ExtensionConfig: typed(filterReadable, m),
	}
}
