package ratelimit

import (
	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
)

// derive makes the descriptors of a call that comes without any: one for each path of the
// limits that counts tokens, as xds has Envoy make them for an LLM route. A path with a
// key that the call has no value for does not bind it.
func derive(paths []limits.Path, f *limitpb.Facts) []descriptor {
	values := callerValues(f)
	values["count"] = limits.Tokens.String()
	var all []descriptor
paths:
	for _, path := range paths {
		d := make(descriptor, 0, len(path))
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

// callerValues are what a call has to say for the keys of descriptors.
func callerValues(f *limitpb.Facts) map[string]string {
	return map[string]string{attributes.User: f.GetUser(), attributes.Org: f.GetOrg(), attributes.Team: f.GetTeam(),
		attributes.Key:  f.GetKey(),
		attributes.Tier: f.GetTier(), attributes.Route: f.GetRoute(), attributes.Provider: f.GetProvider(), attributes.Model: f.GetModel()}
}
