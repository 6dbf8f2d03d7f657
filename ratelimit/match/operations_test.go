package match_test

import (
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/match"
)

// TestEachAPIHasItsBounds: the member that states the maximum, what an open one is filled with, and
// whether a stream's usage is to be asked for.
func TestEachAPIHasItsBounds(t *testing.T) {
	t.Parallel()
	set, err := limits.Load("")
	if err != nil {
		t.Fatal(err)
	}
	p := match.NewPolicy(match.Config{Limits: set, Tiers: config.Tiers{Default: "USER"},
		Providers: map[string]config.Provider{"openai": {Protocol: config.ProtocolOpenAI}, "anthropic": {Protocol: config.ProtocolAnthropic},
			"gemini": {Protocol: config.ProtocolGemini}},
		Models: []config.Model{{Name: "gpt-5", Provider: "openai", MaxOutput: 1000}, {Name: "claude-haiku-4-5", Provider: "anthropic"},
			{Name: "pictures", Provider: "openai", Kind: config.KindImage, MaxOutput: 400},
			{Name: "vec", Provider: "gemini", Kind: config.KindEmbedding}}}, &match.State{})
	for name, tc := range map[string]struct {
		provider, model, route, most, n, parts string
		maximum, renames                       string
		output, fill, input                    int64
		asks                                   bool
	}{
		"chat of a reasoning model":       {"openai", "gpt-5", "openai-chat", "7", "-", "-", "max_completion_tokens", "max_tokens", 7, 0, 100, true},
		"responses":                       {"openai", "gpt-5", "openai-responses", "7", "-", "-", "max_output_tokens", "", 7, 0, 100, false},
		"responses, open":                 {"openai", "gpt-5", "openai-responses", "-", "-", "-", "max_output_tokens", "", 0, 1000, 100, false},
		"completions":                     {"openai", "gpt-5", "openai-completions", "7", "12", "-", "max_tokens", "", 84, 0, 100, true},
		"completions, open":               {"openai", "gpt-5", "openai-completions", "-", "3", "-", "max_tokens", "", 0, 48, 100, true},
		"messages":                        {"anthropic", "claude-haiku-4-5", "anthropic-messages", "7", "-", "-", "max_tokens", "", 7, 0, 100, false},
		"messages with tools":             {"anthropic", "claude-haiku-4-5", "anthropic-messages", "7", "-", "tool_prompt:2:2:0", "max_tokens", "", 7, 0, 100 + 2*735, false},
		"messages with a picture":         {"anthropic", "claude-haiku-4-5", "anthropic-messages", "7", "-", "image:1:0:90", "max_tokens", "", 7, 0, 10 + 1600, false},
		"pictures":                        {"openai", "pictures", "openai-images", "-", "3", "-", "max_tokens", "", 1200, 0, 100, false},
		"a maximum says nothing of them":  {"openai", "pictures", "openai-images", "9", "-", "-", "max_tokens", "", 400, 0, 100, false},
		"an embedding has no output":      {"gemini", "vec", "gemini-embed-batch", "9", "-", "-", "maxOutputTokens", "", 0, 0, 100, false},
		"a picture's embedding is priced": {"gemini", "vec", "gemini-embed", "-", "-", "image:1:0:90", "maxOutputTokens", "", 0, 0, 10 + 3096, false},
	} {
		c, err := p.ReadCall(match.Descriptor{{Key: attributes.Hold, Value: "id"}, {Key: attributes.Route, Value: tc.route},
			{Key: attributes.Provider, Value: tc.provider}, {Key: attributes.Model, Value: tc.model}, {Key: attributes.MaxTokens, Value: tc.most},
			{Key: attributes.N, Value: tc.n}, {Key: attributes.Stream, Value: "true"}, {Key: attributes.Bytes, Value: "100"},
			{Key: attributes.Parts, Value: tc.parts}})
		if err != nil || c.Maximum != tc.maximum || c.Renames != tc.renames || c.Output != tc.output || c.Fill != tc.fill || c.AsksUsage != tc.asks ||
			c.Input != tc.input {
			t.Errorf("%s: want %+v, got maximum %q, renames %q, output %d, fill %d, input %d, asks %v, %v", name, tc, c.Maximum, c.Renames, c.Output,
				c.Fill, c.Input, c.AsksUsage, err)
		}
	}
}
