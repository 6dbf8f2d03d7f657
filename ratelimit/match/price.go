package match

import (
	"math"
	"slices"
	"strings"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/operation"
)

// pricing is what bounds the tokens of a call.
type pricing struct {
	providers  map[string]config.Provider
	models     map[string]config.Model
	wildcards  []config.Model                 // not completed
	operations map[string]operation.Operation // by route
	maxTokens  config.MaxTokens
	ratios     *Ratios
}

// find gives what is configured for the call's provider and model, and for a model that is
// not, what holds for the provider. It takes the provider's prefix from the model's name; what
// another calls exactly so is no prefix. A call of a wildcard is one of the wildcard's, in limits
// and books alike, so that callers cannot make up as many names as they like.
func (p *pricing) find(c *Call) (config.Provider, config.Model) {
	provider := p.providers[c.Provider]
	bare := strings.TrimPrefix(c.Model, c.Provider+"/")
	for _, name := range []string{c.Model, bare} {
		if model, ok := p.models[name]; ok && model.Provider == c.Provider {
			c.Model = name
			return provider, model
		}
	}
	for _, model := range p.wildcards {
		for _, name := range []string{c.Model, bare} {
			if upstream, ok := model.Stands(name); ok && model.Provider == c.Provider {
				c.Model, model.Name = model.Name, upstream
				if model.Kind == config.KindAny && c.Route == config.RouteEmbeddings {
					model.Kind = config.KindEmbedding
				}
				return provider, provider.Complete(model)
			}
		}
	}
	c.Model = bare
	return provider, provider.Complete(config.Model{Name: bare, Provider: c.Provider})
}

// asksUsage reports whether streams of the model are asked for their usage: where its provider
// takes the question and those of its fallbacks do, as the body is written before it is known who
// gets it.
func (p *pricing) asksUsage(provider config.Provider, model config.Model) bool {
	return provider.AsksUsage() && !slices.ContainsFunc(model.Fallback, func(name string) bool {
		return !p.providers[p.models[name].Provider].AsksUsage()
	})
}

// price bounds what the call may use. The error says that it had to state its maximum, or
// that nothing bounds its input.
func (p *pricing) price(c *Call, provider config.Provider, model config.Model) error {
	if err := p.priceInput(c, provider, model); err != nil {
		return err
	}
	asked := p.operations[c.Route]
	if asked.PerItem {
		c.stated, c.Output = 0, min(model.MaxOutput*c.Choices, MaxHits)
		return nil
	}
	if model.Kind == config.KindEmbedding || asked.NoOutput {
		c.stated = 0
		return nil
	}
	if c.stated > 0 {
		c.Output = c.stated * c.Choices
		return nil
	}
	fill := model.MaxOutput
	if asked.Default > 0 {
		fill = min(fill, asked.Default)
	}
	mode := model.MaxTokens
	if mode == "" {
		mode = p.maxTokens.For(c.Route)
	}
	switch mode {
	case config.MaxTokensReject:
		return errUnstated
	case config.MaxTokensModel:
		c.Output = fill * c.Choices
		return nil
	}
	if provider.OutputFill > 0 {
		fill = min(fill, provider.OutputFill)
	}
	c.Fill = fill * c.Choices
	return nil
}

// priceInput bounds the input: the text by its bytes, and what is none by its price.
func (p *pricing) priceInput(c *Call, provider config.Provider, model config.Model) error {
	perByte := provider.TokensPerByte
	if perByte <= 0 {
		perByte = 1
	}
	named, bytes, err := priceParts(c.parts, model.Parts, c.Model)
	if err != nil {
		return err
	}
	if model.Kind == config.KindEmbedding {
		c.frame = min(c.frame, int64(len(embedFrame)+len(c.Model)))
	}
	body := max(0, c.Bytes-bytes)
	text := body
	if perByte < 1 {
		text = max(0, text-c.frame)
	}
	c.Input = int64(math.Ceil(float64(text) * perByte))
	if provider.LearnInput {
		c.Input = min(c.Input, p.ratios.bound(c.Provider, c.Model, body, perByte))
	}
	c.Input += named
	return nil
}

// The least JSON that a request of each kind has around its first text.
const (
	chatFrame   = `{"model":"","messages":[{"role":"user","content":""}]}`
	textFrame   = `{"model":"","input":""}` // of Responses, and of prompts
	embedFrame  = `{"model":"","input":}`
	geminiFrame = `{"contents":[{"parts":[{"text":""}]}]}`
	geminiEmbed = `{"content":{"parts":[{"text":""}]}}`
)

// framed counts bytes of the body that the attributes prove to be JSON and no text: a
// ratio that is stated for a provider is one of its tokenizer, which gets the text alone.
// Every further message has more JSON around it than its tokens can round up. At the
// ceiling of a token for each byte nothing is taken off, since templates add tokens of
// their own.
func (p *pricing) framed(c *Call, stated statedNumbers) int64 {
	member := func(name, value string) int {
		if value == "" {
			return 0
		}
		return len(`"":,`) + len(name) + len(value)
	}
	if c.Protocol == config.ProtocolGemini {
		if p.operations[c.Route].NoOutput {
			return int64(len(geminiEmbed))
		}
		n := len(geminiFrame)
		if stated.most != "" {
			n += len(`"generationConfig":{"maxOutputTokens":},`) + len(stated.most)
		}
		return int64(n)
	}
	frame := chatFrame
	does := p.operations[c.Route]
	if does.PerItem || does.Dialect == operation.DialectResponses || does.Dialect == operation.DialectCompletions {
		frame = textFrame
	}
	n := len(frame) + len(c.Model) + member("max_tokens", stated.most) + member("max_completion_tokens", stated.completion) +
		member("n", stated.choices)
	if c.Stream {
		n += member("stream", "true")
	}
	if c.Usage {
		n += member("stream_options", `{"include_usage":true}`)
	}
	return int64(n)
}
