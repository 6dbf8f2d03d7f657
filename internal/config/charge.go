package config

import (
	"maps"
	"slices"
)

// ChargeMode is what a call is charged that reached the provider and ended early: its client
// left, it took too long, or the provider broke off.
type ChargeMode string

// Modes.
const (
	ChargeInput   ChargeMode = "input"   // the input, estimated, and the output that passed
	ChargeHold    ChargeMode = "hold"    // all that was held
	ChargeNothing ChargeMode = "nothing" // nothing
)

// Charge is what calls cost that nobody counted.
type Charge struct {
	Aborted ChargeMode `yaml:"aborted"` // default input
	// Routes say it for single routes, by the name that limits use.
	Routes map[string]ChargeMode `yaml:"routes"`
}

// For is the mode of one route.
func (c Charge) For(route string) ChargeMode {
	if mode, ok := c.Routes[route]; ok {
		return mode
	}
	return c.Aborted
}

func (c Charge) validate(v *validator) {
	modes := []string{string(ChargeInput), string(ChargeHold), string(ChargeNothing)}
	v.oneOf("charge.aborted", string(c.Aborted), modes...)
	for _, route := range slices.Sorted(maps.Keys(c.Routes)) {
		v.oneOf("charge.routes."+route, string(c.Routes[route]), modes...)
	}
}
