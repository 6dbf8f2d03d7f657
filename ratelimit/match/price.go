package match

import (
	"math"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
)

// pricing is what bounds the tokens of a call.
type pricing struct {
	providers map[string]config.Provider
	models    map[string]config.Model
	maxTokens config.MaxTokens
	ratios    *Ratios
}

// price bounds what the call may use, by its provider and model. The error says that it
// had to state its maximum.
func (p *pricing) price(c *Call) error {
	provider := p.providers[c.Provider]
	perByte, fill := provider.TokensPerByte, provider.OutputFill
	if perByte <= 0 {
		perByte = 1
	}
	if fill <= 0 {
		fill = 1024
	}
	model := p.models[c.Model]
	if model.Kind == "embedding" {
		c.frame = min(c.frame, int64(len(embedFrame)+len(c.Model)))
	}
	text := c.Bytes
	if perByte < 1 {
		text = max(0, text-c.frame)
	}
	c.Input = int64(math.Ceil(float64(text) * perByte))
	if provider.LearnInput {
		c.Input = min(c.Input, p.ratios.bound(c.Provider, c.Model, c.Bytes, perByte))
	}
	if model.Kind == "embedding" {
		c.stated = 0
		return nil
	}
	if c.stated > 0 {
		c.Output = c.stated * c.Choices
		return nil
	}
	switch mode := p.maxTokens.For(c.Route); {
	case mode == config.MaxTokensReject:
		return errUnstated
	case mode == config.MaxTokensModel && model.MaxOutput > 0:
		c.Output = model.MaxOutput * c.Choices
		return nil
	}
	if model.MaxOutput > 0 {
		fill = min(fill, model.MaxOutput)
	}
	c.Fill = fill * c.Choices
	return nil
}

// The least JSON that a request of each kind has around its first text.
const (
	chatFrame   = `{"model":"","messages":[{"role":"user","content":""}]}`
	embedFrame  = `{"model":"","input":}`
	geminiFrame = `{"contents":[{"parts":[{"text":""}]}]}`
)

// framed counts bytes of the body that the attributes prove to be JSON and no text: a
// ratio that is stated for a provider is one of its tokenizer, which gets the text alone.
// Every further message has more JSON around it than its tokens can round up. At the
// ceiling of a token for each byte nothing is taken off, since templates add tokens of
// their own.
func (c *Call) framed(stated statedNumbers) int64 {
	member := func(name, value string) int {
		if value == "" {
			return 0
		}
		return len(`"":,`) + len(name) + len(value)
	}
	if c.Protocol == config.ProtocolGemini {
		n := len(geminiFrame)
		if stated.most != "" {
			n += len(`"generationConfig":{"maxOutputTokens":},`) + len(stated.most)
		}
		return int64(n)
	}
	n := len(chatFrame) + len(c.Model) + member("max_tokens", stated.most) + member("max_completion_tokens", stated.completion) +
		member("n", stated.choices)
	if c.Stream {
		n += member("stream", "true")
	}
	if c.Usage {
		n += member("stream_options", `{"include_usage":true}`)
	}
	return int64(n)
}
