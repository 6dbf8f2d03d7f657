// Package wire reads Envoy's question and writes the answer, at both ends of a decision:
// envoy.service.ratelimit.v3's RateLimitRequest becomes a match.Request, and what was
// decided becomes a RateLimitResponse with the headers, the body and the metadata that
// clients, SDKs and Envoy's filters act on. It knows nothing of Redis.
//
// The messages are read and written by hand: an LLM request carries some twenty entries,
// and the generated code makes three objects of each, which cost as much as all else this
// service does. Tests and a fuzzer compare with the generated types.
package wire

import (
	"math"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
	"github.com/leaky-tokens/leaky-tokens/internal/grpcbatch"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/match"
)

// Method is what Envoy calls.
const Method = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"

// Fields of envoy.service.ratelimit.v3.RateLimitRequest, its descriptors and entries.
const (
	requestDomain      = 1
	requestDescriptors = 2
	requestHits        = 3
	descriptorEntries  = 1
	descriptorLimit    = 2 // RateLimitOverride
	descriptorHits     = 3 // google.protobuf.UInt64Value
	descriptorNegative = 4
	uint64Value        = 1
	overrideRequests   = 1
	overrideUnit       = 2
	entryKey           = 1
	entryValue         = 2
)

// ParseRequest reads the message. Its strings are parts of the message.
func ParseRequest(message string) (match.Request, error) {
	p := parser{Request: match.Request{Descriptors: make([]match.Descriptor, 0, 8)}}
	entries := make([]limits.Entry, 0, 32) // room for all descriptors' entries
	f := grpcbatch.FieldsOf(message)
	for f.Next() {
		switch {
		case f.Is(requestDomain, protowire.BytesType):
			p.Domain = f.Value
		case f.Is(requestHits, protowire.VarintType):
			p.Hits = uint32(f.Number)
		case f.Is(requestDescriptors, protowire.BytesType):
			begin := len(entries)
			var own stated
			var err error
			if entries, own, err = parseDescriptor(f.Value, entries); err != nil {
				return p.Request, err
			}
			if own.hitsStated || own.negative {
				p.state(own)
			}
			if own.override.Stated {
				p.Overrides = append(p.Overrides, make([]match.Override, len(p.Descriptors)-len(p.Overrides))...)
				p.Overrides = append(p.Overrides, own.override)
			}
			if len(p.Descriptors) == match.MaxDescriptorsAny {
				return p.Request, match.ErrTooMany
			}
			p.Descriptors = append(p.Descriptors, entries[begin:len(entries):len(entries)])
		}
	}
	p.negate()
	return p.Request, f.Err
}

// parser is a request that is being read.
type parser struct {
	match.Request
	negative []int // descriptors that only say their hits are negative
}

// stated is what a descriptor states beside its entries.
type stated struct {
	hitsStated, negative bool
	hits                 int64
	override             match.Override
}

// state notes the addend of the descriptor that comes next. One that is only negative
// waits for the request's hits, which may come after it.
func (p *parser) state(own stated) {
	for len(p.Addends) < len(p.Descriptors) {
		p.Addends = append(p.Addends, match.Addend{})
	}
	a := match.Addend{Stated: own.hitsStated, Hits: own.hits}
	if own.negative {
		a.Hits = -own.hits
		if !own.hitsStated {
			p.negative = append(p.negative, len(p.Addends))
		}
	}
	p.Addends = append(p.Addends, a)
}

// negate gives the request's hits to descriptors that only say they are negative.
func (p *parser) negate() {
	for _, i := range p.negative {
		p.Addends[i] = match.Addend{Stated: true, Hits: -int64(max(1, p.Hits))}
	}
}

// parseDescriptor appends the entries of a descriptor.
func parseDescriptor(message string, entries []limits.Entry) ([]limits.Entry, stated, error) {
	begin := len(entries)
	var own stated
	f := grpcbatch.FieldsOf(message)
	for f.Next() {
		switch {
		case f.Is(descriptorNegative, protowire.VarintType):
			own.negative = f.Number != 0
		case f.Is(descriptorHits, protowire.BytesType):
			hits, err := parseHits(f.Value, uint64(own.hits))
			if err != nil {
				return nil, own, err
			}
			own.hitsStated, own.hits = true, hits
		case f.Is(descriptorLimit, protowire.BytesType):
			if err := parseOverride(f.Value, &own.override); err != nil {
				return nil, own, err
			}
		case f.Is(descriptorEntries, protowire.BytesType):
			if len(entries)-begin == match.MaxEntries {
				return nil, own, match.ErrTooMany
			}
			e, err := parseEntry(f.Value)
			if err != nil {
				return nil, own, err
			}
			entries = append(entries, e)
		}
	}
	return entries, own, f.Err
}

// parseOverride reads a RateLimitOverride; a message that comes in pieces is merged.
func parseOverride(message string, o *match.Override) error {
	o.Stated = true
	f := grpcbatch.FieldsOf(message)
	for f.Next() {
		switch {
		case f.Is(overrideRequests, protowire.VarintType):
			o.Requests = uint32(f.Number)
		case f.Is(overrideUnit, protowire.VarintType):
			o.Unit = match.Unit(min(f.Number, math.MaxUint8))
		}
	}
	return f.Err
}

func parseEntry(message string) (e limits.Entry, err error) {
	f := grpcbatch.FieldsOf(message)
	for f.Next() {
		switch {
		case f.Is(entryKey, protowire.BytesType):
			e.Key = f.Value
		case f.Is(entryValue, protowire.BytesType):
			e.Value = f.Value
		}
	}
	return e, f.Err
}

// parseHits reads a google.protobuf.UInt64Value; a message that comes in pieces is merged.
func parseHits(message string, hits uint64) (int64, error) {
	f := grpcbatch.FieldsOf(message)
	for f.Next() {
		if f.Is(uint64Value, protowire.VarintType) {
			hits = f.Number
		}
	}
	if hits > match.MaxHits {
		return 0, match.ErrHits
	}
	return int64(hits), f.Err
}
