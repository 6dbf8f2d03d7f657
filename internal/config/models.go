package config

import (
	"cmp"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
)

// Members that state a maximum of output tokens to a provider of protocol openai.
const (
	MaxTokensMember           = "max_tokens"
	MaxCompletionTokensMember = "max_completion_tokens"
)

// defaultMaxOutput is max_output of a model that the table does not know.
const defaultMaxOutput = 16384

// What a part takes at most, by the providers' public rules as they were read in November 2026.
//
// OpenAI (platform.openai.com/docs/guides/images-vision, "Calculating costs"): a picture in high
// detail is fit into 2048 x 2048 and then to a shorter side of 768, so that it has at most 2 x 4
// tiles of 512: base + 8 x tile. Models that count patches of 32 x 32 take 1536 of them at most,
// times 1.62 (gpt-4.1-mini, gpt-5-mini), 2.46 (the nano ones) or 1.72 (o4-mini). gpt-5.4 takes
// 10 000 in the original detail. Users measured 1.2 for gpt-5.2 and later, and 2500 patches where
// the guide says 1536 (community.openai.com/t/1377015): of what is told and what is measured the
// larger counts here. Sound is 10 tokens a second, and no format they take has less than
// 8 kbit/s: 0.01 a byte, 0.0075 a byte of base64.
//
// Gemini (ai.google.dev/gemini-api/docs/tokens and .../media-resolution): 258 tokens for each
// tile of a picture. A tile's side is two thirds of the shorter side, so 4:3 is 4 tiles, 16:9 is 6
// and 12 is one that is five times as long as high. Gemini 3 takes at most 2240. Sound is 32
// tokens a second: at 8 kbit/s 0.024 a byte of base64.
//
// Qwen (help.aliyun.com/zh/model-studio/vision, huggingface.co/Qwen/Qwen2-VL-7B-Instruct): at most
// 16 384 tokens, in high resolution. Models without VL in their names read pictures too.
//
// Anthropic (docs.anthropic.com/en/docs/build-with-claude/vision, .../tool-use): a picture is fit
// into 1568 x 1568 and 1.15 megapixels, width x height / 750 tokens, so 1600; models since Opus 4.7
// take up to 2576 pixels and 4784 tokens. A request with tools gets 346 tokens of instructions
// (530 with Claude 3 Opus), 499 more with the computer's, whose description is 735; the others that
// Anthropic describes are 245 (shell) and 700 (text editor).
const (
	openAIImage    = 85 + 8*170
	openAIAudio    = 0.0075
	geminiImage    = 12 * 258
	geminiAudio    = 0.024
	anthropicImage = 4784
	anthropicTools = 735
	claudeImage    = 1600
)

// knownModel is what is known of the models whose names match.
type knownModel struct {
	pattern   string // as path.Match has it
	maxOutput int64
	image     int64  // most tokens of a picture; 0: as the protocol has it
	maximum   string // the member that states the maximum; empty: the client's choice
}

// knownModels is what providers tell of their models; the first that matches counts.
// Maxima of output: platform.openai.com/docs/models, ai.google.dev/gemini-api/docs/models,
// help.aliyun.com/zh/model-studio/models, platform.openai.com/docs/guides/image-generation ("Cost and
// latency": a picture of 1024 x 1536 in high quality takes 6240 tokens), docs.anthropic.com/en/docs/about-claude/models. That reasoning models take max_completion_tokens alone:
// platform.openai.com/docs/api-reference/chat/create.
func knownModels() []knownModel {
	return []knownModel{
		{"gpt-image-*", 6240, 0, ""},
		{"gpt-5*-chat*", 16_384, 12_000, MaxCompletionTokensMember},
		{"gpt-5-mini*", 128_000, 2489, MaxCompletionTokensMember},
		{"gpt-5-nano*", 128_000, 3779, MaxCompletionTokensMember},
		{"gpt-5.[23]*", 128_000, 3000, MaxCompletionTokensMember},
		{"gpt-5.[4-9]*", 128_000, 12_000, MaxCompletionTokensMember},
		{"gpt-5*", 128_000, 70 + 8*140, MaxCompletionTokensMember},
		{"gpt-[6-9]*", 128_000, 12_000, MaxCompletionTokensMember},
		{"o4-mini*", 100_000, 2642, MaxCompletionTokensMember},
		{"o[134]", 100_000, 75 + 8*150, MaxCompletionTokensMember},
		{"o1-preview*", 32_768, 0, MaxCompletionTokensMember},
		{"o1-mini*", 65_536, 0, MaxCompletionTokensMember},
		{"o[134]-*", 100_000, 75 + 8*150, MaxCompletionTokensMember},
		{"gpt-4.1-mini*", 32_768, 2489, ""},
		{"gpt-4.1-nano*", 32_768, 3779, ""},
		{"gpt-4.1*", 32_768, 0, ""},
		{"gpt-4o-mini*", 16_384, 2833 + 8*5667, ""},
		{"gpt-4o*", 16_384, 0, ""},
		{"gpt-4-turbo*", 4096, 0, ""},
		{"gpt-4*", 8192, 0, ""},
		{"gpt-3.5*", 4096, 0, ""},
		{"claude-3-[05]*", 8192, claudeImage, ""},
		{"claude-3-7*", 64_000, claudeImage, ""},
		{"claude-3*", 4096, claudeImage, ""},
		{"claude-opus-4-[01]*", 32_000, claudeImage, ""},
		{"claude-opus-4-20*", 32_000, claudeImage, ""},
		{"claude-*-4-[2-5]*", 64_000, claudeImage, ""},
		{"claude-sonnet-4-[0-6]*", 64_000, claudeImage, ""},
		{"claude-*", 128_000, 0, ""},
		{"gemini-1.5*", 8192, 0, ""},
		{"gemini-2.0*", 8192, 0, ""},
		{"gemini-*", 65_536, 0, ""},
		{"qwen*vl*", 8192, 16_384, MaxTokensMember},
		{"qwen-max*", 8192, 16_384, MaxTokensMember},
		{"qwen-plus*", 32_768, 16_384, MaxTokensMember},
		{"qwen*", 8192, 16_384, MaxTokensMember},
	}
}

// Upstream is the model's name as its provider calls it.
func (m Model) Upstream() string { return cmp.Or(m.Model, m.Name) }

// known is the entry of a model's name. A path before it, as brokers write, does not count.
func known(name string) knownModel {
	name = strings.ToLower(name[strings.LastIndexByte(name, '/')+1:])
	for _, k := range knownModels() {
		if match, _ := path.Match(k.pattern, name); match {
			return k
		}
	}
	return knownModel{}
}

// Complete is the model with everything it leaves open: what the provider says, else what is
// known of a model of the name, else what holds for the protocol.
func (p Provider) Complete(m Model) Model {
	k := known(m.Upstream())
	setDefault(&m.Kind, KindChat)
	setDefault(&m.MaxOutput, k.maxOutput)
	setDefault(&m.MaxOutput, defaultMaxOutput)
	setDefault(&m.MaxTokensName, p.MaxTokensName)
	if p.Protocol == ProtocolOpenAI {
		setDefault(&m.MaxTokensName, k.maximum)
	}
	setDefault(&m.MaxTokens, p.MaxTokens)
	parts := protocolParts(p.Protocol)
	if k.image > 0 {
		parts[PartImage] = Part{Tokens: k.image}
	}
	maps.Copy(parts, p.Parts)
	maps.Copy(parts, m.Parts)
	m.Parts = parts
	return m
}

// Protocols are what the providers speak, by their names.
func (c *Config) Protocols() map[string]Protocol {
	all := map[string]Protocol{}
	for name, p := range c.Providers {
		all[name] = p.Protocol
	}
	return all
}

// AsksUsage reports whether the provider takes stream_options, so that it can be asked for
// the usage of a stream.
func (p Provider) AsksUsage() bool { return p.StreamOptions == nil || *p.StreamOptions }

var (
	headerName = regexp.MustCompile(`^[a-z0-9-]{1,64}$`)
	queryName  = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)
)

// neverPassed are headers that no provider may get from a client: credentials, where a client
// is, and what would make the answer or the call another than the gateway reads.
func neverPassed(name string) bool {
	for _, prefix := range []string{"x-leaky-", "x-user-", "x-org-", "x-envoy-", "x-forwarded-", "proxy-"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return slices.Contains([]string{"authorization", "x-api-key", "x-goog-api-key", "api-key", "cookie", "forwarded", "x-real-ip", "via",
		"host", "accept-encoding", "content-encoding", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer",
		"keep-alive", "x-http-method-override", "x-goog-fieldmask"}, name)
}

func (p Provider) validateRequests(v *validator, key string) {
	if p.MaxTokensName != "" {
		v.oneOf(key+".max_tokens_name", p.MaxTokensName, MaxTokensMember, MaxCompletionTokensMember)
	}
	p.MaxTokens.validateStated(v, key+".max_tokens")
	validateParts(v, key, p.Parts)
	for _, name := range p.Headers {
		switch {
		case !headerName.MatchString(name):
			v.fail(key+".headers", "%q: write a header's name in lower case, without underscores", name)
		case neverPassed(name):
			v.fail(key+".headers", "%s must not reach a provider: it would tell who calls, or change what the gateway counts", name)
		}
	}
	for _, name := range p.Query {
		if !queryName.MatchString(name) || name == "key" {
			v.fail(key+".query", "%q: write a parameter's name (letters, digits and . _ -), and not key", name)
		}
	}
}

func (m Model) validateRequests(v *validator, key string) {
	if m.MaxTokensName != "" {
		v.oneOf(key+".max_tokens_name", m.MaxTokensName, MaxTokensMember, MaxCompletionTokensMember)
	}
	m.MaxTokens.validateStated(v, key+".max_tokens")
	validateParts(v, key, m.Parts)
}
