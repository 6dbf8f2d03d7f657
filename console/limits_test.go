package console

import (
	"testing"

	"github.com/leaky-tokens/leaky-tokens/client/api"
)

// TestTheTightestLimit is the one that a call meets first: no shadow rule, and no rule of another route.
func TestTheTightestLimit(t *testing.T) {
	t.Parallel()
	got := branches([]api.Limit{
		{Rule: "wide", Unit: "tokens", Provider: "openai", Remaining: 100},
		{Rule: "tight", Unit: "tokens", Provider: "openai", Remaining: 10},
		{Rule: "shadow", Unit: "tokens", Provider: "openai", Remaining: 1, Shadow: true},
		{Rule: "of consume", Unit: "tokens", Provider: "openai", Route: "consume", Remaining: 2},
		{Rule: "everywhere", Unit: "tokens", Remaining: 5},
		{Rule: "asks", Unit: "requests", Route: "identity", Remaining: 5},
	}, "tokens")
	if len(got) != 2 || got[0].Name != "" || got[0].Tightest.Rule != "everywhere" || got[1].Name != "openai" || got[1].Tightest.Rule != "tight" {
		t.Errorf("want everywhere, then openai bound by tight, got %+v", got)
	}
	if asks := branches([]api.Limit{{Rule: "asks", Unit: "requests", Route: "identity", Remaining: 5}}, "requests"); asks[0].Tightest.Rule != "asks" {
		t.Errorf("want the route's own rule, got %+v", asks)
	}
}
