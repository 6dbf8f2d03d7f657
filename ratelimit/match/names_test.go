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
		Providers: map[string]config.Provider{"openai": {}, "deepseek": {}, "broker": {Unlisted: true}, "gemini": {Protocol: config.ProtocolGemini}},
		Models: []config.Model{{Name: "gpt-4o", Provider: "openai"}, {Name: "fast", Provider: "openai", Model: "gpt-4o-mini"},
			{Name: "deepseek/chat", Provider: "deepseek"}, {Name: "openai/odd", Provider: "deepseek", Model: "odd-1"},
			{Name: "gpt-5*", Provider: "openai"}, {Name: "gpt-5-mini*", Provider: "openai"}, {Name: "meta/*", Provider: "deepseek"},
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
		"gpt-5.2":                {"openai", "gpt-5*", ""},
		"openai/gpt-5.2":         {"openai", "gpt-5*", "gpt-5.2"},
		"gpt-5-mini-2025":        {"openai", "gpt-5-mini*", ""},
		"meta/llama-3":           {"deepseek", "meta/*", ""},
		"broker/any/thing:free":  {"broker", "broker/*", "any/thing:free"},
	} {
		c, err := p.ReadCall(match.Descriptor{{Key: attributes.Hold, Value: "id"}, {Key: attributes.Provider, Value: want.provider},
			{Key: attributes.Model, Value: asked}, {Key: attributes.Bytes, Value: "100"}, {Key: attributes.Route, Value: "openai-chat"}})
		if err != nil || c.Model != want.model || c.Upstream != want.upstream {
			t.Errorf("%s: want %+v, got %q and %q, %v", asked, want, c.Model, c.Upstream, err)
		}
	}
}

// TestUnlistedModelsAreWhatTheirNamesTell: the most that they answer, and that embeddings answer
// nothing.
func TestUnlistedModelsAreWhatTheirNamesTell(t *testing.T) {
	t.Parallel()
	set, err := limits.Load("")
	if err != nil {
		t.Fatal(err)
	}
	p := match.NewPolicy(match.Config{Limits: set, Tiers: config.Tiers{Default: "USER"}, MaxTokens: config.MaxTokens{Default: config.MaxTokensModel},
		Providers: map[string]config.Provider{"broker": {Unlisted: true}}, Models: []config.Model{{Name: "gpt-*", Provider: "broker"}}},
		&match.State{})
	for name, c := range map[string]struct {
		route, asked string
		output       int64
	}{
		"a known one":   {"openai-chat", "gpt-4.1-nano", 32_768},
		"another":       {"openai-chat", "gpt-3.5-turbo", 4096},
		"unlisted":      {"openai-chat", "broker/o3", 100_000},
		"unlisted path": {"openai-embeddings", "broker/some-embedding", 0},
	} {
		got, err := p.ReadCall(match.Descriptor{{Key: attributes.Hold, Value: "id"}, {Key: attributes.Provider, Value: "broker"},
			{Key: attributes.Model, Value: c.asked}, {Key: attributes.Bytes, Value: "100"}, {Key: attributes.Route, Value: c.route}})
		if err != nil || got.Output != c.output {
			t.Errorf("%s: want %d, got %+v, %v", name, c.output, got, err)
		}
	}
}

// TestCallThatMoves is priced as the model that it goes on at, gets that one's name into its body
// whatever stands there, and is asked for its usage only where every model of the row takes that.
func TestCallThatMoves(t *testing.T) {
	t.Parallel()
	set, err := limits.Load("")
	if err != nil {
		t.Fatal(err)
	}
	p := match.NewPolicy(match.Config{Limits: set, Tiers: config.Tiers{Default: "USER"},
		Providers: map[string]config.Provider{"one": {}, "two": {}, "three": {StreamOptions: new(false)}},
		Models: []config.Model{{Name: "first", Provider: "one", Fallback: []string{"second"}}, {Name: "second", Provider: "two"},
			{Name: "other", Provider: "one", Fallback: []string{"third"}}, {Name: "third", Provider: "three"}}}, &match.State{})
	read := func(provider, model string, more ...string) *match.Call {
		t.Helper()
		d := match.Descriptor{{Key: attributes.Hold, Value: "id"}, {Key: attributes.Provider, Value: provider},
			{Key: attributes.Model, Value: model}, {Key: attributes.Bytes, Value: "100"}, {Key: attributes.Stream, Value: "true"},
			{Key: attributes.Route, Value: "openai-chat"}}
		for _, key := range more {
			d = append(d, limits.Entry{Key: key, Value: "true"})
		}
		c, err := p.ReadCall(d)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	if c := read("one", "first"); !c.AsksUsage || c.Moves || c.Upstream != "" {
		t.Errorf("want the first asked for its usage, got %+v", c)
	}
	if c := read("one", "other"); c.AsksUsage {
		t.Errorf("want no question that a fallback refuses, got %+v", c)
	}
	if c := read("two", "second", attributes.Moves); c.AsksUsage || !c.Moves || c.Upstream != "second" {
		t.Errorf("want the second's name written and nothing asked anew, got %+v", c)
	}
}
