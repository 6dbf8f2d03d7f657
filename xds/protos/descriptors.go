package protos

import (
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	metadatav3 "github.com/envoyproxy/go-control-plane/envoy/type/metadata/v3"

	"github.com/leaky-tokens/leaky-tokens/internal/facts"
	"github.com/leaky-tokens/leaky-tokens/internal/limits"
	"github.com/leaky-tokens/leaky-tokens/xds/model"
)

// countTokens and countRequests are the fixed values of a path's first key, "count".
const (
	keyCount      = "count"
	countRequests = "requests"
)

// descriptors are what Envoy asks ratelimit about on a route. On an LLM route the first
// one states the facts and asks for a hold; then follows one for each path that some
// limit has, so that no limit can silently match nothing. Elsewhere only requests are
// counted.
func descriptors(r model.Route, paths []limits.Path) []*routev3.RateLimit {
	var all []*routev3.RateLimit
	hold := r.LLM != nil && r.LLM.Provider != ""
	if hold {
		all = append(all, &routev3.RateLimit{Actions: holdFacts(*r.LLM)})
	}
	for _, p := range paths {
		if !hold && (len(p) == 0 || p[0].Key != keyCount || p[0].Value != countRequests) {
			continue
		}
		if actions := pathActions(p, r); actions != nil {
			all = append(all, &routev3.RateLimit{Actions: actions})
		}
	}
	return all
}

// holdFacts are the entries of the first descriptor, all present: Envoy drops a
// descriptor with a missing entry, so what is not stated is facts.Absent.
func holdFacts(l model.LLM) []*routev3.RateLimit_Action {
	stated := func(namespace, key string) *routev3.RateLimit_Action {
		return fromMetadata(namespace, key, facts.Absent)
	}
	asked := stated(facts.NamespaceRequest, facts.Model)
	stream := stated(facts.NamespaceRequest, facts.Stream)
	if l.Gemini {
		asked = fixed(facts.Model, l.Model)
		stream = fixed(facts.Stream, "false")
		if l.Stream {
			stream = fixed(facts.Stream, "true")
		}
	}
	return []*routev3.RateLimit_Action{
		{ActionSpecifier: &routev3.RateLimit_Action_RequestHeaders_{RequestHeaders: &routev3.RateLimit_Action_RequestHeaders{HeaderName: "x-request-id", DescriptorKey: facts.Hold}}},
		fixed(facts.Route, l.Route),
		fixed(facts.Provider, l.Provider),
		asked,
		stated(facts.NamespaceRequest, facts.MaxTokens),
		stated(facts.NamespaceRequest, facts.MaxCompletionTokens),
		stated(facts.NamespaceRequest, facts.N),
		stream,
		stated(facts.NamespaceRequest, facts.IncludeUsage),
		stated(facts.NamespaceBody, facts.Bytes),
		stated(facts.NamespaceAuth, facts.User),
		stated(facts.NamespaceAuth, facts.Org),
		stated(facts.NamespaceAuth, facts.Key),
		stated(facts.NamespaceAuth, facts.Tier),
	}
}

// pathActions are the entries for one limit's path, nil when the route has no such key or
// the limit is for another route.
// An entry without a value (a caller without an organisation) drops the descriptor:
// such a limit does not bind her.
func pathActions(p limits.Path, r model.Route) []*routev3.RateLimit_Action {
	var actions []*routev3.RateLimit_Action
	for _, k := range p {
		var action *routev3.RateLimit_Action
		switch k.Key {
		case keyCount:
			action = fixed(keyCount, k.Value)
		case facts.User, facts.Org, facts.Key, facts.Tier:
			action = fromMetadata(facts.NamespaceAuth, k.Key, "")
		case "role":
			action = fromMetadata(facts.NamespaceAuth, facts.Roles, "")
			action.GetMetadata().DescriptorKey = k.Key
		case facts.Route:
			if k.Value != "" && k.Value != routeName(r) {
				return nil // a limit of other routes only
			}
			action = fixed(facts.Route, routeName(r))
		case "remote_address":
			action = &routev3.RateLimit_Action{ActionSpecifier: &routev3.RateLimit_Action_RemoteAddress_{RemoteAddress: &routev3.RateLimit_Action_RemoteAddress{}}}
		case facts.Provider, facts.Model:
			if r.LLM == nil || r.LLM.Provider == "" {
				return nil
			}
			value := r.LLM.Provider
			if k.Key == facts.Model {
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

func routeName(r model.Route) string {
	if r.LLM != nil {
		return r.LLM.Route
	}
	return r.Name
}

func fixed(key, value string) *routev3.RateLimit_Action {
	return &routev3.RateLimit_Action{ActionSpecifier: &routev3.RateLimit_Action_GenericKey_{GenericKey: &routev3.RateLimit_Action_GenericKey{DescriptorKey: key, DescriptorValue: value}}}
}

func fromMetadata(namespace, key, missing string) *routev3.RateLimit_Action {
	return &routev3.RateLimit_Action{ActionSpecifier: &routev3.RateLimit_Action_Metadata{Metadata: &routev3.RateLimit_Action_MetaData{
		DescriptorKey: key, DefaultValue: missing,
		MetadataKey: &metadatav3.MetadataKey{Key: namespace, Path: []*metadatav3.MetadataKey_PathSegment{{Segment: &metadatav3.MetadataKey_PathSegment_Key{Key: key}}}}}}}
}
