package config

import (
	"maps"
	"slices"
	"time"
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

	LeaseTokens   int64         `yaml:"lease_tokens"`   // most tokens that a replica leases for an account's calls of one kind, default 4096
	LeaseRequests int64         `yaml:"lease_requests"` // the same of requests, default 32
	LeaseFor      time.Duration `yaml:"lease_for"`      // an unused lease is given back after this, default 30s

	DialTimeout time.Duration `yaml:"dial_timeout"` // to connect to Redis, 1ms to 5s, default 20ms
	Timeout     time.Duration `yaml:"timeout"`      // for an answer of Redis, 1ms to 5s, default 100ms
}

func defaultOutage() Outage {
	return Outage{Default: OutageClosed, LeaseTokens: 4096, LeaseRequests: 32, LeaseFor: 30 * time.Second,
		DialTimeout: 20 * time.Millisecond, Timeout: 100 * time.Millisecond}
}

// Leases reports whether some route lives on leases in an outage.
func (o Outage) Leases() bool {
	return o.Default == OutageLease || slices.Contains(slices.Collect(maps.Values(o.Routes)), OutageLease)
}

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
	between(v, "limits.outage.lease_tokens", o.LeaseTokens, 16, 1<<40)
	between(v, "limits.outage.lease_requests", o.LeaseRequests, 16, 1<<30)
	between(v, "limits.outage.lease_for", o.LeaseFor, time.Second, 10*time.Minute)
	between(v, "limits.outage.dial_timeout", o.DialTimeout, time.Millisecond, 5*time.Second)
	between(v, "limits.outage.timeout", o.Timeout, time.Millisecond, 5*time.Second)
	for _, route := range slices.Sorted(maps.Keys(o.Routes)) {
		v.oneOf("limits.outage.routes."+route, string(o.Routes[route]), modes...)
	}
}
