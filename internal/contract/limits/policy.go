package limits

import (
	"slices"
	"strings"

	"github.com/leaky-tokens/leaky-tokens/internal/wording"
)

// keyCount is the first key of every path: it says what is counted.
const keyCount = "count"

// keyRoute is the route's name, which xds knows when it makes the route.
const keyRoute = "route"

// KeyClient is an OAuth2 client that has proved who it is. Identity counts by it; Envoy cannot know.
const KeyClient = "client"

// knownKeys are the entries that our Envoy and identity can send.
func knownKeys() []string {
	return []string{keyCount, "tier", "user", "org", "team", "key", "role", "model", "provider", keyRoute, "remote_address", KeyClient}
}

// owner reports whether a key names a caller, so that its buckets belong to an account. A
// team's name means something in its organisation only, which is its account.
func owner(key string) bool { return slices.Contains([]string{"user", "org", "team", "key"}, key) }

// known checks a descriptor's key against what Envoy sends.
func (p *reader) known(m map[string]field, key, value string, depth int) bool {
	if p.options.AnyKeys {
		return true
	}
	units := []string{Tokens.String(), Requests.String()}
	switch {
	case !slices.Contains(knownKeys(), key):
		p.fail(m["key"].at(), "unknown key %q%s; Envoy sends %s", key, wording.DidYouMean(key, knownKeys()), strings.Join(knownKeys(), ", "))
	case depth == 0 && key != keyCount:
		p.fail(m["key"].at(), "a path begins with key: %s, which says what is counted: tokens or requests", keyCount)
	case depth > 0 && key == keyCount:
		p.fail(m["key"].at(), "%s can only be the first key of a path", keyCount)
	case key == keyCount && value == "":
		p.fail(m["key"].at(), "%s needs a value: tokens or requests", keyCount)
	case key == keyCount && !slices.Contains(units, value):
		p.fail(m["value"].at(), "unknown value %q of %s%s; tokens or requests", value, keyCount, wording.DidYouMean(value, units))
	default:
		return true
	}
	return false
}

// policy reads metadata.rate_limit_policy: what upstream has no word for.
func (p *reader) policy(m map[string]field, r *Rule) bool {
	meta, ok := m["metadata"]
	if !ok || meta.null() {
		return true
	}
	f, ok := p.ownPolicy(meta)
	if !ok || f.null() {
		return ok
	}
	pm, ok := p.mapping(f.value, policyKey, "algorithm", "burst", "unit", "scale", "count", "window", "time_zone")
	if !ok {
		return false
	}
	return p.algorithm(pm, r) && p.unit(pm, r) && p.burst(pm, r) && p.scale(pm, r) && p.count(pm, r) && p.window(pm, r)
}

// ownPolicy finds rate_limit_policy; in our own domain nothing else stands beside it.
func (p *reader) ownPolicy(meta field) (field, bool) {
	if !p.options.AnyKeys {
		mm, ok := p.mapping(meta.value, "metadata", policyKey)
		return mm[policyKey], ok
	}
	pairs, ok := p.pairs(meta.value, "metadata")
	if !ok {
		return field{}, false
	}
	for _, pair := range pairs {
		if key, _ := scalar(pair.Key); key == policyKey {
			return field{key: pair.Key.GetToken(), value: p.value(pair.Value)}, true
		}
	}
	return field{}, true
}

// count says whether a refused request is counted: "all" is envoyproxy/ratelimit's way and
// the default of other domains, "admitted" ours.
func (p *reader) count(m map[string]field, r *Rule) bool {
	f, ok := m["count"]
	if !ok {
		return true
	}
	names := []string{"admitted", "all"}
	switch name := p.text(f); {
	case !slices.Contains(names, name):
		p.fail(f.at(), "unknown count %q%s; admitted or all", name, wording.DidYouMean(name, names))
		return false
	case name == "all" && !p.options.AnyKeys:
		p.fail(f.at(), "in domain %s only what is admitted is counted", Domain)
		return false
	default:
		r.CountsAll = name == "all"
	}
	return true
}

func (p *reader) algorithm(m map[string]field, r *Rule) bool {
	f, ok := m["algorithm"]
	if !ok {
		return true
	}
	name, all := p.text(f), []Algorithm{LeakyBucket, TokenBucket, FixedWindow}
	names := make([]string, len(all))
	for i, a := range all {
		if names[i] = a.String(); names[i] == name {
			r.Algorithm = a
			return true
		}
	}
	p.fail(f.at(), "unknown algorithm %q%s; one of %s", name, wording.DidYouMean(name, names), strings.Join(names, ", "))
	return false
}

// unit must repeat what the path counts: the value of count decides, so that a reader
// of the path alone is never wrong.
func (p *reader) unit(m map[string]field, r *Rule) bool {
	f, ok := m["unit"]
	if !ok {
		return true
	}
	name, names := p.text(f), []string{Tokens.String(), Requests.String()}
	switch {
	case !slices.Contains(names, name):
		p.fail(f.at(), "unknown unit %q%s; tokens or requests", name, wording.DidYouMean(name, names))
		return false
	case name != r.Unit.String() && !p.options.AnyKeys:
		p.fail(f.at(), "unit is %s, but the path counts %s", name, r.Unit)
		return false
	}
	return true
}

func (p *reader) burst(m map[string]field, r *Rule) bool {
	f, ok := m["burst"]
	if !ok {
		return true
	}
	if r.Unlimited {
		p.fail(f.at(), "an unlimited rule has no burst")
		return false
	}
	if r.Algorithm == FixedWindow {
		p.fail(f.at(), "a fixed_window has no burst: requests_per_unit is all it holds")
		return false
	}
	n, ok := p.number(f, 1, maxCapacity)
	if ok && r.PerPeriod == 0 {
		p.fail(f.at(), "a burst that never drains (requests_per_unit is 0) fills once and for all")
		return false
	}
	r.Capacity = n
	return ok
}

func (p *reader) scale(m map[string]field, r *Rule) bool {
	f, ok := m["scale"]
	if !ok {
		return true
	}
	if name := p.text(f); name != "tier" {
		p.fail(f.at(), "unknown scale %q%s; only tier", name, wording.DidYouMean(name, []string{"tier"}))
		return false
	}
	r.Scaled = true
	return true
}
