package config

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// ProviderKey is one of several keys of a provider.
type ProviderKey struct {
	APIKeyEnv  string `yaml:"api_key_env"`
	APIKeyFile string `yaml:"api_key_file"`
	Weight     int    `yaml:"weight"` // its share of the calls, 1 to 1000, default 1
}

// Outlier is when a provider that fails is left alone, and for how long.
type Outlier struct {
	Off      bool          `yaml:"off"`      // it is always asked
	Failures int           `yaml:"failures"` // so many calls in a row that end with 502, 503, 504 or no answer; 1 to 1000, default 20
	Ejection time.Duration `yaml:"ejection"` // calls are answered with 503 so long, or by the fallback; 100ms to 10m, default 3s
	Cooldown time.Duration `yaml:"cooldown"` // a key of several that got 429 rests so long; 100ms to 1h, default 10s
}

// RouteEmbeddings is the route that has no output.
const RouteEmbeddings = "openai-embeddings"

// mostFallbacks bounds the models that are tried after one.
const mostFallbacks = 8

func (p *Provider) fillUpstream() {
	setDefault(&p.Outlier.Failures, 20)
	setDefault(&p.Outlier.Ejection, 3*time.Second)
	setDefault(&p.Outlier.Cooldown, 10*time.Second)
	setDefault(&p.RetryBudget, 20)
	for i := range p.Keys {
		setDefault(&p.Keys[i].Weight, 1)
	}
}

// AllKeys are the places of the provider's keys; none if it takes none.
func (p Provider) AllKeys() []ProviderKey {
	switch {
	case len(p.Keys) > 0:
		return p.Keys
	case p.APIKeyEnv != "" || p.APIKeyFile != "":
		return []ProviderKey{{APIKeyEnv: p.APIKeyEnv, APIKeyFile: p.APIKeyFile, Weight: 1}}
	}
	return nil
}

// Keyed reports whether the provider wants a key of ours.
func (p Provider) Keyed() bool { return len(p.AllKeys()) > 0 }

func (p Provider) validateUpstream(v *validator, key string) {
	if p.APIKeyEnv != "" && p.APIKeyFile != "" {
		v.fail(key+".api_key_file", "the key is in the environment already (api_key_env); name one place")
	}
	if len(p.Keys) > 0 && (p.APIKeyEnv != "" || p.APIKeyFile != "") {
		v.fail(key+".keys", "there is a key beside them (api_key_env or api_key_file); write all of them here")
	}
	if len(p.Keys) > 16 {
		v.fail(key+".keys", "%d keys; at most 16 are used", len(p.Keys))
	}
	for i, k := range p.Keys {
		at := fmt.Sprintf("%s.keys[%d]", key, i)
		if (k.APIKeyEnv == "") == (k.APIKeyFile == "") {
			v.fail(at, "write api_key_env or api_key_file: one place")
		}
		between(v, at+".weight", k.Weight, 1, 1000)
	}
	between(v, key+".retries", p.Retries, 0, 5)
	between(v, key+".retry_budget", p.RetryBudget, 1, 100)
	between(v, key+".outlier.failures", p.Outlier.Failures, 1, 1000)
	between(v, key+".outlier.ejection", p.Outlier.Ejection, 100*time.Millisecond, 10*time.Minute)
	between(v, key+".outlier.cooldown", p.Outlier.Cooldown, 100*time.Millisecond, time.Hour)
}

// wildcard is what ends the name of a model that stands for many.
const wildcard = "*"

// Wildcard is the beginning of the names that the model stands for; false: it is one model.
func (m Model) Wildcard() (prefix string, ok bool) { return strings.CutSuffix(m.Name, wildcard) }

// Stands reports whether the wildcard m takes name, and what its provider calls the model: a
// provider's own name before it is taken off.
func (m Model) Stands(name string) (upstream string, ok bool) {
	prefix, wild := m.Wildcard()
	own := m.Provider + "/"
	if !wild || !strings.HasPrefix(name, prefix) || name == prefix {
		return "", false
	}
	if prefix == own {
		return strings.TrimPrefix(name, own), true
	}
	return name, true
}

// Routed are models with a wildcard for each provider that takes unlisted ones; wildcards come
// last, those that say more first.
func Routed(models []Model, providers map[string]Provider) []Model {
	all := slices.Clone(models)
	for _, name := range slices.Sorted(maps.Keys(providers)) {
		own := name + "/" + wildcard
		if providers[name].Unlisted && !slices.ContainsFunc(all, func(m Model) bool { return m.Name == own && m.Provider == name }) {
			all = append(all, Model{Name: own, Provider: name, Kind: KindAny})
		}
	}
	slices.SortStableFunc(all, func(a, b Model) int {
		before, wildA := a.Wildcard()
		after, wildB := b.Wildcard()
		switch {
		case wildA && wildB:
			return cmp.Compare(len(after), len(before))
		case wildA:
			return 1
		case wildB:
			return -1
		}
		return 0
	})
	return all
}

// validateWildcard looks at a name that ends in *.
func (m Model) validateWildcard(v *validator, key string) {
	prefix, _ := m.Wildcard()
	switch {
	case prefix == "":
		v.fail(key+".name", "* alone would take every name; write a beginning, such as gpt-4o* or %s/*", m.Provider)
	case m.Model != "":
		v.fail(key+".model", "a wildcard stands for many models; their provider knows them by the names that are asked for")
	}
}

// validateFallbacks looks at what is tried after each model.
func (c *Config) validateFallbacks(v *validator) {
	byName := map[string]Model{}
	for _, m := range c.Models {
		byName[m.Name] = m
	}
	for i, m := range c.Models {
		seen := map[string]bool{m.Name: true}
		if len(m.Fallback) > mostFallbacks {
			v.fail(fmt.Sprintf("models[%d].fallback", i), "%d models; at most %d are tried", len(m.Fallback), mostFallbacks)
		}
		for j, name := range m.Fallback {
			key := fmt.Sprintf("models[%d].fallback[%d]", i, j)
			other, ok := byName[name]
			_, wild := other.Wildcard()
			switch from, to := c.Providers[m.Provider], c.Providers[other.Provider]; {
			case !ok:
				v.oneOf(key, name, slices.Sorted(maps.Keys(byName))...)
			case seen[name]:
				v.fail(key, "%s is tried already", name)
			case wild:
				v.fail(key, "%s stands for many models; name one", name)
			case from.Protocol != to.Protocol:
				v.fail(key, "%s speaks %s and %s speaks %s: a call is not translated; name a model of the same protocol", m.Name, from.Protocol,
					name, to.Protocol)
			case m.Kind != other.Kind:
				v.fail(key, "%s is of kind %s and %s of kind %s", m.Name, m.Kind, name, other.Kind)
			}
			seen[name] = true
		}
	}
}
