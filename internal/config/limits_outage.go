package config

import (
	"maps"
	"slices"
)

// OutageMode is what happens to a route's requests while limits can't be decided.
type OutageMode string

// Outage modes.
const (
	OutageClosed OutageMode = "closed" // refused with 503
	OutageOpen   OutageMode = "open"   // admitted, counted, and settled later
	OutageLease  OutageMode = "lease"  // admitted while what was leased before lasts
)

// Outage says it for each route, by the name that limits use: openai-chat,
// openai-embeddings, gemini-generate, gemini-stream, qwen-chat, or a service's name.
// With the rate limit service itself away, Envoy decides: open admits, the others refuse.
type Outage struct {
	Default OutageMode            `yaml:"default"` // default closed
	Routes  map[string]OutageMode `yaml:"routes"`
}

func defaultOutage() Outage { return Outage{Default: OutageClosed} }

// For is the mode of one route.
func (o Outage) For(route string) OutageMode {
	if mode, ok := o.Routes[route]; ok {
		return mode
	}
	return o.Default
}

func (o Outage) validate(v *validator) {
	modes := []string{string(OutageClosed), string(OutageOpen), string(OutageLease)}
	v.oneOf("limits.outage.default", string(o.Default), modes...)
	for _, route := range slices.Sorted(maps.Keys(o.Routes)) {
		v.oneOf("limits.outage.routes."+route, string(o.Routes[route]), modes...)
	}
}
