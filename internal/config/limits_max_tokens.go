package config

import (
	"maps"
	"slices"
)

// MaxTokensMode is what happens to a call that states no maximum of output tokens.
type MaxTokensMode string

// Modes.
const (
	MaxTokensFill   MaxTokensMode = "fill"      // one is written into the request: the model's max_output, or what is left
	MaxTokensModel  MaxTokensMode = "model_max" // the request stays as it is, and the model's max_output is held
	MaxTokensReject MaxTokensMode = "reject"    // refused with 400
)

// MaxTokens says it for each route, by the name that limits use.
type MaxTokens struct {
	Default MaxTokensMode            `yaml:"default"` // default fill
	Routes  map[string]MaxTokensMode `yaml:"routes"`
}

// For is the mode of one route.
func (m MaxTokens) For(route string) MaxTokensMode {
	if mode, ok := m.Routes[route]; ok {
		return mode
	}
	return m.Default
}

func (m MaxTokens) validate(v *validator) {
	m.Default.validate(v, "limits.max_tokens.default")
	for _, route := range slices.Sorted(maps.Keys(m.Routes)) {
		m.Routes[route].validate(v, "limits.max_tokens.routes."+route)
	}
}

func (m MaxTokensMode) validate(v *validator, key string) {
	v.oneOf(key, string(m), string(MaxTokensFill), string(MaxTokensModel), string(MaxTokensReject))
}

// validateStated is validate where nothing may be said.
func (m MaxTokensMode) validateStated(v *validator, key string) {
	if m != "" {
		m.validate(v, key)
	}
}
