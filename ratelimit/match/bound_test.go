package match

import (
	"encoding/json"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
)

// TestInputBoundHolds builds random requests and counts their input as a tokenizer of
// four bytes a token that rounds up for each text: the bound is never below it, and for
// one plain message it is exact.
func TestInputBoundHolds(t *testing.T) {
	t.Parallel()
	p := &Policy{pricing: pricing{providers: map[string]config.Provider{"openai": {Protocol: config.ProtocolOpenAI, TokensPerByte: 0.25},
		"gemini": {Protocol: config.ProtocolGemini, TokensPerByte: 0.25}},
		models: map[string]config.Model{"embed": {Name: "embed", Provider: "openai", Kind: "embedding"}}}}
	rapid.Check(t, func(t *rapid.T) {
		texts := rapid.SliceOfN(rapid.OneOf(rapid.StringMatching(`[a-z ]{0,40}`), rapid.String()), 1, 20).Draw(t, "texts")
		kind := rapid.SampledFrom([]string{"chat", "parts", "gemini", "embedding"}).Draw(t, "kind")
		provider, model, body := "openai", "gpt-4o", map[string]any{}
		stated := d{attributes.Hold: "id"}
		switch kind {
		case "gemini":
			provider = "gemini"
			var parts []any
			for _, text := range texts {
				parts = append(parts, map[string]any{"text": text})
			}
			body["contents"] = []any{map[string]any{"parts": parts}}
			if rapid.Bool().Draw(t, "maximum") {
				body["generationConfig"] = map[string]any{"maxOutputTokens": 77}
				stated[attributes.MaxTokens] = "77"
			}
		case "embedding":
			model = "embed"
			body["model"], body["input"] = model, texts
			if len(texts) == 1 {
				body["input"] = texts[0]
			}
		default:
			var messages []any
			for _, text := range texts {
				if kind == "parts" {
					messages = append(messages, map[string]any{"role": "user", "content": []any{map[string]any{"type": "text", "text": text}}})
				} else {
					messages = append(messages, map[string]any{"role": "user", "content": text})
				}
			}
			body["model"], body["messages"] = model, messages
			stated.draw(t, body)
		}
		wire, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		stated[attributes.Provider], stated[attributes.Model], stated[attributes.Bytes] = provider, model, strconv.Itoa(len(wire))
		c, err := p.ReadCall(stated.descriptor())
		if err != nil {
			t.Fatal(err)
		}
		var want int64
		for _, text := range texts {
			var decoded string // what the provider sees of a text that is not UTF-8
			quoted, _ := json.Marshal(text)
			_ = json.Unmarshal(quoted, &decoded)
			want += int64(len(decoded)+3) / 4
		}
		if c.Input < want {
			t.Fatalf("bound %d, really %d, of %s", c.Input, want, wire)
		}
	})
}

// d are facts by name.
type d map[string]string

// draw adds members that may be stated, to the body and to the facts.
func (stated d) draw(t *rapid.T, body map[string]any) {
	for name, value := range map[string]any{attributes.MaxTokens: 50, attributes.MaxCompletionTokens: 50, attributes.N: 2,
		attributes.Stream: true} {
		if rapid.Bool().Draw(t, name) {
			body[name] = value
			text, _ := json.Marshal(value)
			stated[name] = string(text)
		}
	}
	if rapid.Bool().Draw(t, "usage") {
		body["stream_options"] = map[string]any{"include_usage": true}
		stated[attributes.IncludeUsage] = "true"
	}
}

func (stated d) descriptor() Descriptor {
	var out Descriptor
	for key, value := range stated {
		out = append(out, limits.Entry{Key: key, Value: value})
	}
	return out
}
