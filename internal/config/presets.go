package config

import (
	"maps"
	"slices"
	"strings"
)

// preset is what is known of a provider that many use: where it is and what it takes. Adding one is
// one line of presets.
type preset struct {
	protocol Protocol // default openai
	url      string   // empty: everybody has an address of their own
	header   string   // that carries the key; default as the protocol has it
	maximum  string   // member that states the maximum; empty: the client's choice
	refuses  bool     // it refuses stream_options
}

// presets are the providers by name, as their public references have them in November 2026. What
// tells the usage of each stream without being asked needs no stream_options; Mistral refuses
// members that it does not know. Azure's address is https://RESOURCE.openai.azure.com/openai/v1.
func presets() map[string]preset {
	return map[string]preset{
		"azure":      {header: "api-key"},
		"cerebras":   {url: "https://api.cerebras.ai/v1", maximum: MaxCompletionTokensMember},
		"deepinfra":  {url: "https://api.deepinfra.com/v1/openai", maximum: MaxTokensMember},
		"deepseek":   {url: "https://api.deepseek.com/v1", maximum: MaxTokensMember},
		"fireworks":  {url: "https://api.fireworks.ai/inference/v1", maximum: MaxTokensMember},
		"gemini":     {protocol: ProtocolGemini, url: "https://generativelanguage.googleapis.com"},
		"groq":       {url: "https://api.groq.com/openai/v1", maximum: MaxCompletionTokensMember},
		"lmstudio":   {url: "http://127.0.0.1:1234/v1", maximum: MaxTokensMember},
		"mistral":    {url: "https://api.mistral.ai/v1", maximum: MaxTokensMember, refuses: true},
		"moonshot":   {url: "https://api.moonshot.ai/v1", maximum: MaxTokensMember},
		"nvidia":     {url: "https://integrate.api.nvidia.com/v1", maximum: MaxTokensMember},
		"ollama":     {url: "http://127.0.0.1:11434/v1", maximum: MaxTokensMember},
		"openai":     {url: "https://api.openai.com/v1"},
		"openrouter": {url: "https://openrouter.ai/api/v1", maximum: MaxTokensMember},
		"qwen":       {url: "https://dashscope-intl.aliyuncs.com/compatible-mode/v1", maximum: MaxTokensMember},
		"sambanova":  {url: "https://api.sambanova.ai/v1", maximum: MaxTokensMember},
		"together":   {url: "https://api.together.xyz/v1", maximum: MaxTokensMember},
		"vllm":       {url: "http://127.0.0.1:8000/v1", maximum: MaxTokensMember},
		"xai":        {url: "https://api.x.ai/v1", maximum: MaxCompletionTokensMember},
	}
}

// PresetNames are the names that a provider's preset may have, sorted.
func PresetNames() []string { return slices.Sorted(maps.Keys(presets())) }

// fillPreset takes over what the preset says and the file does not.
func (p *Provider) fillPreset() {
	known, ok := presets()[p.Preset]
	if !ok {
		return // validatePreset says so
	}
	setDefault(&p.Protocol, known.protocol)
	setDefault(&p.URL, known.url)
	setDefault(&p.APIKeyHeader, known.header)
	setDefault(&p.MaxTokensName, known.maximum)
	if known.refuses && p.StreamOptions == nil {
		p.StreamOptions = new(false)
	}
}

func (p Provider) validatePreset(v *validator, key string) {
	if p.Preset != "" {
		v.oneOf(key+".preset", p.Preset, PresetNames()...)
	}
	if name := p.APIKeyHeader; name != "" && (!headerName.MatchString(name) ||
		strings.HasPrefix(name, "x-leaky-") || slices.Contains([]string{"host", "content-length", "content-type", "connection"}, name)) {
		v.fail(key+".api_key_header", "%q: write the header that carries the provider's key in lower case, such as api-key", name)
	}
}
