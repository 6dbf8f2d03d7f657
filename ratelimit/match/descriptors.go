package match

import (
	"slices"
	"strings"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
)

// IsCall reports whether the request is of an LLM call: its first descriptor tells of the
// call and is no limit's.
func (r *Request) IsCall() bool {
	return len(r.Descriptors) > 0 && len(r.Descriptors[0]) > 0 && r.Descriptors[0][0].Key == attributes.Hold
}

// Derive makes the descriptors of a call that comes without any: one for each path of the
// limits that counts tokens, as xds has Envoy make them for an LLM route. A path with a
// key that the call has no value for does not bind it.
func Derive(paths []limits.Path, f *limitpb.Facts) []Descriptor {
	values := callerValues(f)
	values["count"] = limits.Tokens.String()
	var all []Descriptor
paths:
	for _, path := range paths {
		d := make(Descriptor, 0, len(path))
		for _, k := range path {
			value := values[k.Key]
			if value == "" || k.Value != "" && k.Value != value {
				continue paths
			}
			d = append(d, limits.Entry{Key: k.Key, Value: value})
		}
		all = append(all, d)
	}
	return all
}

// Reachable is a descriptor for each path that one caller's calls can fall under: of all
// routes with limits of their own, and of each provider where the facts name none.
func Reachable(paths []limits.Path, f *limitpb.Facts, providers []string) []Descriptor {
	if f.GetProvider() != "" {
		providers = []string{f.GetProvider()}
	}
	values := callerValues(f)
	var all []Descriptor
paths:
	for _, path := range paths {
		d, split := make(Descriptor, 0, len(path)), -1
		for i, k := range path {
			value := k.Value
			switch {
			case value != "":
			case k.Key == attributes.Provider:
				split = i
			default:
				if value = values[k.Key]; value == "" {
					continue paths
				}
			}
			d = append(d, limits.Entry{Key: k.Key, Value: value})
		}
		if split < 0 {
			all = append(all, d)
			continue
		}
		for _, p := range providers {
			one := slices.Clone(d)
			one[split].Value = p
			all = append(all, one)
		}
	}
	return all
}

// callerValues are what a call has to say for the keys of descriptors.
func callerValues(f *limitpb.Facts) map[string]string {
	return map[string]string{attributes.User: f.GetUser(), attributes.Org: f.GetOrg(), attributes.Team: f.GetTeam(),
		attributes.Key: f.GetKey(), attributes.Tier: f.GetTier(), attributes.Route: f.GetRoute(), attributes.Provider: f.GetProvider(),
		attributes.Model: f.GetModel()}
}

// Callers finds organisation, user and tier among the descriptors of a request that is no
// LLM call.
func Callers(descriptors []Descriptor) (org, user, tier string) {
	for _, d := range descriptors {
		for _, e := range d {
			switch {
			case e.Value == attributes.Absent:
			case e.Key == attributes.Org:
				org = e.Value
			case e.Key == attributes.User:
				user = e.Value
			case e.Key == attributes.Tier:
				tier = e.Value
			}
		}
	}
	return org, user, tier
}

// Route finds the route among the descriptors of a request that is no LLM call.
func Route(descriptors []Descriptor) string {
	for _, d := range descriptors {
		for _, e := range d {
			if e.Key == attributes.Route {
				return e.Value
			}
		}
	}
	return ""
}

// Account names whose buckets hold: the organisation, else the user, else the OAuth2 client or the
// address.
func Account(org, user string, descriptors []Descriptor) string {
	switch {
	case org != "":
		return "org:" + HashTag(Canonical(org))
	case user != "":
		return "user:" + HashTag(Canonical(user))
	}
	for _, d := range descriptors {
		for _, e := range d {
			switch {
			case e.Value == "" || e.Value == attributes.Absent:
			case e.Key == "remote_address":
				return "ip:" + HashTag(e.Value)
			case e.Key == limits.KeyClient:
				return "client:" + HashTag(e.Value)
			}
		}
	}
	return "ip:unknown"
}

// HashTag makes a value fit to stand between the braces of a key's hash tag.
func HashTag(value string) string {
	if len(value) <= 128 && strings.IndexFunc(value, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '{' || r == '}' }) < 0 {
		return value
	}
	return string((&limits.Rule{}).AppendKey(nil, []limits.Entry{{Value: value}}))
}

// Canonical is an id or an account as all services write it: a UUID in lower case.
func Canonical(id string) string {
	uuid := id[strings.IndexByte(id, ':')+1:]
	if len(uuid) != 36 || uuid[8] != '-' || uuid[13] != '-' || uuid[18] != '-' || uuid[23] != '-' {
		return id
	}
	return strings.ToLower(id)
}
