package config

import (
	"fmt"
	"maps"
	"slices"
)

// Kinds of parts: what a request's content names and its bytes do not tell.
const (
	PartImage    = "image"
	PartAudio    = "audio"
	PartVideo    = "video"
	PartFile     = "file"     // a document, in the body or by reference
	PartCached   = "cached"   // content that the provider has in a cache
	PartPrevious = "previous" // an earlier answer or conversation that the provider remembers
	PartTool     = "tool"     // a tool that the provider runs itself: search, code, ...
	// PartToolPrompt is what a provider writes around the tools of a request: one for the request
	// and one more for each tool that the provider itself describes.
	PartToolPrompt = "tool_prompt"
)

// PartKinds lists the kinds.
func PartKinds() []string {
	return []string{PartImage, PartAudio, PartVideo, PartFile, PartCached, PartPrevious, PartTool, PartToolPrompt}
}

// Part is what one part of a request is held at; in leaky.yaml a number of tokens, or refuse.
type Part struct {
	// Tokens are of each part, whatever its size: its bytes are not counted as text then.
	Tokens int64
	// PerByte are tokens for each byte of base64 beside them. A part by reference is refused,
	// as nobody knows its length.
	PerByte float64
	// Refuse says that nothing bounds such a part.
	Refuse bool
}

const partRefuse = "refuse"

// UnmarshalYAML reads a number of tokens, or refuse.
func (p *Part) UnmarshalYAML(read func(any) error) error {
	var text string
	if err := read(&text); err == nil && text == partRefuse {
		*p = Part{Refuse: true}
		return nil
	}
	if err := read(&p.Tokens); err != nil {
		return fmt.Errorf("write a number of tokens, or refuse: %w", err)
	}
	return nil
}

// protocolParts are the bounds of models that the table of models does not know.
func protocolParts(protocol Protocol) map[string]Part {
	parts := map[string]Part{}
	for _, kind := range PartKinds() {
		parts[kind] = Part{Refuse: true}
	}
	parts[PartToolPrompt] = Part{} // what the others write around a tool is shorter than its JSON
	switch protocol {
	case ProtocolGemini:
		parts[PartImage] = Part{Tokens: geminiImage}
		parts[PartAudio] = Part{PerByte: geminiAudio}
	case ProtocolAnthropic:
		parts[PartImage] = Part{Tokens: anthropicImage}
		parts[PartToolPrompt] = Part{Tokens: anthropicTools}
	default:
		parts[PartImage] = Part{Tokens: openAIImage}
		parts[PartAudio] = Part{PerByte: openAIAudio}
	}
	return parts
}

func validateParts(v *validator, key string, parts map[string]Part) {
	for _, kind := range slices.Sorted(maps.Keys(parts)) {
		v.oneOf(key+".parts", kind, PartKinds()...)
		if p := parts[kind]; !p.Refuse {
			between(v, key+".parts."+kind, p.Tokens, 0, 1<<31-1)
		}
	}
}
