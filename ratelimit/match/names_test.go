package match_test

import (
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/match"
)

// TestModelsAreKnownByEachOfTheirNames: as configured, with the provider before it, with slashes of
// its own, and by an alias; the provider gets its own name.
func TestModelsAreKnownByEachOfTheirNames(t *testing.T) {
	t.Parallel()
	set, err := limits.Load("")
	if err != nil {
		t.Fatal(err)
	}
	p := match.NewPolicy(match.Config{Limits: set, Tiers: config.Tiers{Default: "USER"},
		Providers: map[string]config.Provider{"openai": {}, "deepseek": {}, "gemini": {Protocol: config.ProtocolGemini}},
		Models: []config.Model{{Name: "gpt-4o", Provider: "openai"}, {Name: "fast", Provider: "openai", Model: "gpt-4o-mini"},
			{Name: "deepseek/chat", Provider: "deepseek"}, {Name: "openai/odd", Provider: "deepseek", Model: "odd-1"},
			{Name: "flash", Provider: "gemini", Model: "gemini-2.5-flash"}}}, &match.State{})
	for asked, want := range map[string]struct{ provider, model, upstream string }{
		"gpt-4o":                 {"openai", "gpt-4o", ""},
		"openai/gpt-4o":          {"openai", "gpt-4o", "gpt-4o"},
		"fast":                   {"openai", "fast", "gpt-4o-mini"},
		"openai/fast":            {"openai", "fast", "gpt-4o-mini"},
		"deepseek/chat":          {"deepseek", "deepseek/chat", ""},
		"deepseek/deepseek/chat": {"deepseek", "deepseek/chat", "deepseek/chat"},
		"openai/odd":             {"deepseek", "openai/odd", "odd-1"},
		"flash":                  {"gemini", "flash", ""}, // its path has the name
	} {
		c, err := p.ReadCall(match.Descriptor{{Key: attributes.Hold, Value: "id"}, {Key: attributes.Provider, Value: want.provider},
			{Key: attributes.Model, Value: asked}, {Key: attributes.Bytes, Value: "100"}, {Key: attributes.Route, Value: "openai-chat"}})
		if err != nil || c.Model != want.model || c.Upstream != want.upstream {
			t.Errorf("%s: want %+v, got %q and %q, %v", asked, want, c.Model, c.Upstream, err)
		}
	}
}
