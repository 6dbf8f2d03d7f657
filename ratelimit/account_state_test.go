package ratelimit_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/balance"
	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/ratelimit"
)

// pools answers for the token service.
type pools map[string]int64 // credits by provider

func (p pools) Ask(_ context.Context, account, provider string) (balance.State, error) {
	credits, ok := p[provider]
	if !ok {
		return balance.State{}, errors.New("no answer")
	}
	return balance.State{Account: account, Provider: provider, Present: credits > 0, Credits: credits, Version: 1}, nil
}

// TestLookForACaller finds every bucket and pool that their calls can fall under.
func TestLookForACaller(t *testing.T) {
	t.Parallel()
	e := start(t, `
domain: leaky
descriptors:
  - key: count
    value: tokens
    descriptors:
      - key: user
        rate_limit: {name: user-tokens, unit: day, requests_per_unit: 1}
        metadata: {rate_limit_policy: {algorithm: leaky_bucket, burst: 1000, unit: tokens, scale: tier}}
        descriptors:
          - {key: provider, shadow_mode: true, rate_limit: {name: at-provider, unit: day, requests_per_unit: 500}, metadata: {rate_limit_policy: {unit: tokens}}}
      - {key: org, rate_limit: {name: org-tokens, unit: minute, requests_per_unit: 200}, metadata: {rate_limit_policy: {unit: tokens}}}
      - {key: model, rate_limit: {name: model-tokens, unit: minute, requests_per_unit: 200}, metadata: {rate_limit_policy: {unit: tokens}}}
  - key: count
    value: requests
    descriptors:
      - {key: user, rate_limit: {name: user-requests, unit: minute, requests_per_unit: 6000}}
      - {key: remote_address, rate_limit: {name: per-address, unit: hour, requests_per_unit: 3}}
      - key: route
        value: tokensvc
        descriptors:
          - {key: user, rate_limit: {name: tokensvc-requests, unit: minute, requests_per_unit: 200}}
`, func(c *ratelimit.Config) { c.Balances = pools{"openai": 700, "gemini": 0} })
	e.ask(t, ask{id: "a", maxTokens: "100"})
	r, err := e.limiter.GetAccountState(t.Context(), &limitpb.GetAccountStateRequest{Facts: &limitpb.Facts{User: "ann", Tier: "GOLD"},
		Providers: []string{"openai", "gemini", "silent"}})
	if err != nil {
		t.Fatal(err)
	}
	levels := map[string]float64{}
	for _, b := range r.GetBuckets() {
		name := b.GetRule()
		for _, one := range b.GetFound().GetEntries() {
			if one.GetKey() == "provider" || one.GetKey() == "route" {
				name += " " + one.GetValue()
			}
		}
		levels[name] = b.GetLevel()
		if b.GetShadow() != strings.HasPrefix(name, "at-provider") || name == "user-tokens" && b.GetCapacity() != 4000 {
			t.Errorf("bucket %v", b)
		}
	}
	want := []string{"at-provider gemini", "at-provider openai", "at-provider silent", "tokensvc-requests tokensvc", "user-requests",
		"user-tokens"}
	if got := slices.Sorted(maps.Keys(levels)); !slices.Equal(got, want) || levels["user-tokens"] != 100 {
		t.Errorf("want buckets %v with 100 of user-tokens, got %v", want, levels)
	}
	b := r.GetBalances()
	if len(b) != 3 || !b[0].GetPresent() || b[0].GetCredits() != 700 || b[0].GetHeld() != 100 || b[1].GetPresent() || b[1].GetUnknown() ||
		!b[2].GetUnknown() {
		t.Errorf("want a pool, none and one nobody knows, got %v", b)
	}
}
