package match_test

import (
	"fmt"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/match"
)

// A descriptor falls under the rule of its exact path; a fixed value wins over none. Two
// descriptors are two limits, each with a bucket of the caller's.
func Example() {
	set, err := limits.Parse([]byte(`
domain: leaky
descriptors:
  - key: count
    value: tokens
    descriptors:
      - key: user
        rate_limit: {name: per-user, unit: minute, requests_per_unit: 60000}
      - key: model
        value: gpt-4*
        rate_limit: {name: gpt-4, unit: minute, requests_per_unit: 1000}
`))
	if err != nil {
		fmt.Println(err)
		return
	}
	p := match.NewPolicy(match.Config{Limits: set, Tiers: config.Tiers{Default: "USER"}}, &match.State{})
	m := p.Match([]match.Descriptor{
		{{Key: "count", Value: "tokens"}, {Key: "user", Value: "ann"}},
		{{Key: "count", Value: "tokens"}, {Key: "model", Value: "gpt-4o"}},
		{{Key: "count", Value: "tokens"}, {Key: "model", Value: "o1"}},
	}, "user:ann", "USER", match.OneCall())
	for i, l := range m.Limits {
		fmt.Printf("%s: %s of %s in %s\n", l.Rule.Name, l.Capacity, l.Rule.Unit, m.Buckets[i].Key)
	}
	// Output:
	// per-user: 60000 of tokens in {user:ann}:b:count_tokens.user_@
	// gpt-4: 1000 of tokens in b:count_tokens.model_gpt-4o
}
