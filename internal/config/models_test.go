package config_test

import (
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
)

// TestWhatAPictureTakes by the names that providers give their models.
func TestWhatAPictureTakes(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]int64{
		"gpt-4o": 1445, "gpt-4o-mini-2024-07-18": 48_169, "gpt-4.1": 1445, "gpt-4.1-mini": 2489, "gpt-4.1-nano": 3779, "gpt-5": 1190,
		"gpt-5-mini": 2489, "gpt-5-nano": 3779, "gpt-5.2": 3000, "gpt-5.3-codex": 3000, "gpt-5.4": 12_000, "gpt-5.4-mini": 12_000,
		"gpt-5-chat-latest": 12_000, "o3": 1275, "o4-mini": 2642, "openai/gpt-4o": 1445, "somebody-else": 1445, "qwen-plus": 16_384,
		"qwen3-vl-max": 16_384,
	} {
		p := config.Provider{Protocol: config.ProtocolOpenAI}
		if got := p.Complete(config.Model{Name: name}).Parts[config.PartImage]; got.Tokens != want || got.Refuse {
			t.Errorf("%s: want %d tokens, got %+v", name, want, got)
		}
	}
	p := config.Provider{Protocol: config.ProtocolGemini}
	if got := p.Complete(config.Model{Name: "gemini-3-pro"}).Parts[config.PartImage].Tokens; got != 3096 {
		t.Errorf("gemini: want 3096 tokens, got %d", got)
	}
}
