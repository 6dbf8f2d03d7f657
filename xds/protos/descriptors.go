package protos

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	exprv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/rate_limit_descriptors/expr/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	metadatav3 "github.com/envoyproxy/go-control-plane/envoy/type/metadata/v3"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
	"github.com/leaky-tokens/leaky-tokens/xds/model"
)

// countTokens and countRequests are the fixed values of a path's first key, "count".
const (
	keyCount      = "count"
	countRequests = "requests"
	keyAddress    = "remote_address"
)

// descriptors are what Envoy asks ratelimit about on a route. On an LLM route the first
// one states the facts and asks for a hold; then follows one for each path that some
// limit has, so that no limit can silently match nothing. Elsewhere only requests are
// counted.
func descriptors(r model.Route, g *model.Gateway) []*routev3.RateLimit {
	var all []*routev3.RateLimit
	hold := r.LLM != nil && r.LLM.Provider != "" && !r.LLM.Free
	if hold {
		facts := holdFacts(*r.LLM)
		if r.Match.Fallback != "" {
			facts = movedFacts(facts, *r.LLM)
		}
		all = append(all, &routev3.RateLimit{Actions: facts})
	}
	for _, p := range g.Limits {
		requests := len(p) > 0 && p[0].Key == keyCount && p[0].Value == countRequests
		if requests && g.Requests.Off || !requests && !hold || requests && r.Match.Fallback != "" && !ofModel(p) {
			continue
		}
		actions := pathActions(p, r)
		if requests {
			actions = requestActions(p, actions, r, g)
		}
		if actions != nil {
			all = append(all, &routev3.RateLimit{Actions: actions})
		}
	}
	return all
}

// movedFacts are holdFacts of a call that goes on at another model: the body names the first.
func movedFacts(facts []*routev3.RateLimit_Action, l model.LLM) []*routev3.RateLimit_Action {
	for i, f := range facts {
		if f.GetMetadata().GetDescriptorKey() == attributes.Model {
			facts[i] = fixed(attributes.Model, l.Model)
		}
	}
	return append(facts, fixed(attributes.Moves, "true"))
}

// ofModel reports whether a path is of single models or providers. Only there a request counts
// once more where it goes on at another.
func ofModel(p limits.Path) bool {
	return slices.ContainsFunc(p, func(k limits.PathKey) bool { return k.Key == attributes.Model || k.Key == attributes.Provider })
}

// requestActions are the entries of a path that counts requests, keyed as the strategy
// says; nil when none of the route's requests count there. The first entry, "count", is
// there only for the requests that count: Envoy drops a descriptor with a missing entry.
//
// A limit per address that stands beside the same one per user is for callers nobody
// knows, so that those behind one address do not pay for each other; one that stands
// alone binds everybody.
func requestActions(p limits.Path, actions []*routev3.RateLimit_Action, r model.Route, g *model.Gateway) []*routev3.RateLimit_Action {
	q := g.Requests
	if actions == nil {
		return nil
	}
	var only []*routev3.HeaderMatcher
	for i, k := range p {
		switch {
		case k.Key == attributes.User && q.Key == config.KeyIP:
			actions[i] = fromHeader(attributes.HeaderNetwork, attributes.User)
		case k.Key == attributes.User && q.Key == config.KeyAPIKey:
			actions[i] = keyElseUser()
		case k.Key != keyAddress || q.Key == config.KeyIP || !perUser(p, i, g.Limits):
		case q.Key == config.KeyUser || r.Rule != attributes.RulePublic:
			return nil // everyone here is known
		default:
			// extauthz sets it for a caller it knows, and nobody else can.
			only = append(only, &routev3.HeaderMatcher{Name: attributes.HeaderUserID,
				HeaderMatchSpecifier: &routev3.HeaderMatcher_PresentMatch{PresentMatch: false}})
		}
	}
	spared, all := whitelisted(r.Match, q.Whitelist)
	if all {
		return nil
	}
	if only = append(only, spared...); len(only) > 0 {
		actions[0] = &routev3.RateLimit_Action{ActionSpecifier: &routev3.RateLimit_Action_HeaderValueMatch_{
			HeaderValueMatch: &routev3.RateLimit_Action_HeaderValueMatch{
				DescriptorKey: keyCount, DescriptorValue: countRequests, Headers: only}}}
	}
	return actions
}

// perUser reports whether there is the same path with the user in place of entry i.
func perUser(p limits.Path, i int, all []limits.Path) bool {
	twin := slices.Clone(p)
	twin[i].Key = attributes.User
	return slices.ContainsFunc(all, func(other limits.Path) bool { return slices.Equal(other, twin) })
}

// whitelisted tells which of a route's requests are not counted: all of them, or those
// that the matchers find (inverted: what they match is counted).
func whitelisted(m model.Match, whitelist []string) (matchers []*routev3.HeaderMatcher, all bool) {
	for _, w := range whitelist {
		prefix, wild := strings.CutSuffix(w, "/**")
		expression := regexp.QuoteMeta(w)
		if wild {
			expression = regexp.QuoteMeta(prefix) + "(/[^?]*)?"
		}
		switch {
		case m.Path == w, wild && m.Path != "" && strings.HasPrefix(m.Path+"/", prefix+"/"), wild && m.Prefix != "" &&
			strings.HasPrefix(m.Prefix, prefix+"/"):
			return nil, true
		case m.Path != "", m.Prefix != "" && !strings.HasPrefix(prefix+"/", m.Prefix):
			continue // the route takes no such path
		}
		matchers = append(matchers, &routev3.HeaderMatcher{Name: ":path", InvertMatch: true,
			HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{
				StringMatch: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: expression + `(\?.*)?`}}}}})
	}
	return matchers, false
}

// holdFacts are the entries of the first descriptor, all present: Envoy drops a
// descriptor with a missing entry, so what is not stated is attributes.Absent.
func holdFacts(l model.LLM) []*routev3.RateLimit_Action {
	stated := func(namespace, key string) *routev3.RateLimit_Action {
		return fromMetadata(namespace, key, attributes.Absent)
	}
	asked := stated(attributes.NamespaceRequest, attributes.Model)
	stream := stated(attributes.NamespaceRequest, attributes.Stream)
	if l.Gemini {
		asked = fixed(attributes.Model, l.Model)
		stream = fixed(attributes.Stream, "false")
		if l.Stream {
			stream = fixed(attributes.Stream, "true")
		}
	}
	return []*routev3.RateLimit_Action{
		fromHeader("x-request-id", attributes.Hold),
		fixed(attributes.Route, l.Route),
		fixed(attributes.Provider, l.Provider),
		asked,
		stated(attributes.NamespaceRequest, attributes.MaxTokens),
		stated(attributes.NamespaceRequest, attributes.MaxCompletionTokens),
		stated(attributes.NamespaceRequest, attributes.N),
		stream,
		stated(attributes.NamespaceRequest, attributes.IncludeUsage),
		stated(attributes.NamespaceBody, attributes.Bytes),
		stated(attributes.NamespaceRequest, attributes.Parts),
		stated(attributes.NamespaceAuth, attributes.User),
		stated(attributes.NamespaceAuth, attributes.Org),
		stated(attributes.NamespaceAuth, attributes.Team),
		stated(attributes.NamespaceAuth, attributes.Key),
		stated(attributes.NamespaceAuth, attributes.Tier),
	}
}

// pathActions are the entries for one limit's path, nil when the route has no such key or
// the limit is for another route.
// An entry without a value (a caller without an organisation) drops the descriptor:
// such a limit does not bind them.
func pathActions(p limits.Path, r model.Route) []*routev3.RateLimit_Action {
	var actions []*routev3.RateLimit_Action
	for _, k := range p {
		var action *routev3.RateLimit_Action
		switch k.Key {
		case keyCount:
			action = fixed(keyCount, k.Value)
		case attributes.User, attributes.Org, attributes.Team, attributes.Key, attributes.Tier:
			action = fromMetadata(attributes.NamespaceAuth, k.Key, "")
		case "role":
			action = fromMetadata(attributes.NamespaceAuth, attributes.Roles, "")
			action.GetMetadata().DescriptorKey = k.Key
		case attributes.Route:
			if k.Value != "" && k.Value != r.LimitName() {
				return nil // a limit of other routes only
			}
			action = fixed(attributes.Route, r.LimitName())
		case keyAddress:
			action = fromHeader(attributes.HeaderNetwork, keyAddress)
		case attributes.Provider, attributes.Model:
			if r.LLM == nil || r.LLM.Provider == "" {
				return nil
			}
			value := r.LLM.Provider
			if k.Key == attributes.Model {
				value = r.LLM.Model
			}
			action = fixed(k.Key, value)
		default:
			return nil
		}
		actions = append(actions, action)
	}
	return actions
}

// fromHeader takes an entry's value from a header.
func fromHeader(header, key string) *routev3.RateLimit_Action {
	return &routev3.RateLimit_Action{ActionSpecifier: &routev3.RateLimit_Action_RequestHeaders_{
		RequestHeaders: &routev3.RateLimit_Action_RequestHeaders{HeaderName: header, DescriptorKey: key}}}
}

// keyElseUser is the API key's id, or the user's without one.
func keyElseUser() *routev3.RateLimit_Action {
	auth := "metadata.filter_metadata['" + attributes.NamespaceAuth + "']"
	text := fmt.Sprintf("'%s' in %s ? %s['%s'] : %s['%s']", attributes.Key, auth, auth, attributes.Key, auth, attributes.User)
	return &routev3.RateLimit_Action{ActionSpecifier: &routev3.RateLimit_Action_Extension{Extension: typed(
		"envoy.rate_limit_descriptors.expr", &exprv3.Descriptor{
			DescriptorKey: attributes.User, SkipIfError: false, ExprSpecifier: &exprv3.Descriptor_Text{Text: text}})}}
}

func fixed(key, value string) *routev3.RateLimit_Action {
	return &routev3.RateLimit_Action{ActionSpecifier: &routev3.RateLimit_Action_GenericKey_{
		GenericKey: &routev3.RateLimit_Action_GenericKey{DescriptorKey: key, DescriptorValue: value}}}
}

func fromMetadata(namespace, key, missing string) *routev3.RateLimit_Action {
	return &routev3.RateLimit_Action{ActionSpecifier: &routev3.RateLimit_Action_Metadata{Metadata: &routev3.RateLimit_Action_MetaData{
		DescriptorKey: key, DefaultValue: missing,
		MetadataKey: &metadatav3.MetadataKey{Key: namespace, Path: []*metadatav3.MetadataKey_PathSegment{{
			Segment: &metadatav3.MetadataKey_PathSegment_Key{Key: key}}}}}}}
}
