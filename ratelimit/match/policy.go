// Package match finds, between Envoy's message and the store, what a request asks for:
// how many tokens an LLM call may use at most (Call), and which limits its descriptors
// fall under (Rules.Match), for our own domain and for those of other Envoys. It knows
// neither how Envoy writes its messages (ratelimit/wire) nor where buckets lie
// (ratelimit/store), and nothing in it waits.
package match

import (
	"maps"
	"slices"
	"strings"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/operation"
)

// Config is what a Policy is made of.
type Config struct {
	Limits    *limits.Set   // of our own domain
	Domains   []*limits.Set // of other Envoys
	Tiers     config.Tiers
	Providers map[string]config.Provider
	Models    []config.Model
	MaxTokens config.MaxTokens
}

// Policy is what requests are matched and priced by. It never changes; a new one
// replaces it, and State goes on.
type Policy struct {
	*Rules                    // of our own domain
	domains map[string]*Rules // of all
	pricing pricing
}

// State is what outlives a change of the limits: when each rule last matched, the labels
// given out, and the input ratios that meters reported.
type State struct {
	// Now gives the time in microseconds by which the calendar is read; nil: this machine's.
	Now func() int64

	Usage  Usage
	Labels Labels
	Ratios Ratios
}

// NewPolicy makes a policy ready for requests.
func NewPolicy(c Config, s *State) *Policy {
	p := &Policy{domains: map[string]*Rules{}, pricing: pricing{providers: c.Providers, models: map[string]config.Model{},
		operations: operation.ByName(), maxTokens: c.MaxTokens, ratios: &s.Ratios}}
	for _, set := range append([]*limits.Set{c.Limits}, c.Domains...) {
		p.domains[set.Domain()] = newRules(set, c.Tiers, s)
	}
	p.Rules = p.domains[c.Limits.Domain()]
	for _, m := range config.Routed(c.Models, c.Providers) {
		if _, wild := m.Wildcard(); wild {
			p.pricing.wildcards = append(p.pricing.wildcards, m)
			continue
		}
		p.pricing.models[m.Name] = c.Providers[m.Provider].Complete(m)
	}
	return p
}

// Domain gives the rules of a domain, nil for one that is not served.
func (p *Policy) Domain(name string) *Rules { return p.domains[name] }

// Knows reports whether a provider is configured.
func (p *Policy) Knows(provider string) bool {
	_, known := p.pricing.providers[provider]
	return known
}

// All are the rules of every domain, our own first.
func (p *Policy) All() []*Rules {
	return slices.SortedFunc(maps.Values(p.domains), func(a, b *Rules) int {
		switch {
		case a.set.Domain() == limits.Domain:
			return -1
		case b.set.Domain() == limits.Domain:
			return 1
		}
		return strings.Compare(a.set.Domain(), b.set.Domain())
	})
}
