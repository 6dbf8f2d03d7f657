package ratelimit

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
)

// Envoy's messages are read and written by hand here: an LLM request carries some
// twenty entries, and the generated code makes three objects of each, which cost as
// much as all else this service does. A test compares with the generated types.

// Fields of envoy.service.ratelimit.v3.RateLimitRequest, its descriptors and entries.
const (
	requestDomain      = 1
	requestDescriptors = 2
	requestHits        = 3
	descriptorEntries  = 1
	descriptorHits     = 3 // google.protobuf.UInt64Value
	descriptorNegative = 4
	uint64Value        = 1
	entryKey           = 1
	entryValue         = 2
)

// Fields of envoy.service.ratelimit.v3.RateLimitResponse and of what it contains.
const (
	responseCode     = 1
	responseHeaders  = 3
	responseBody     = 5
	responseMetadata = 6
	headerKey        = 1
	headerValue      = 2
	structFields     = 1
	fieldKey         = 1
	fieldValue       = 2
	valueNumber      = 2
	valueString      = 3
)

// Bounds on what a request may bring.
const (
	maxDescriptors = 64
	maxEntries     = 32
	// maxHits is the most that a descriptor adds or gives back.
	maxHits = maxHeld
)

var (
	errTooMany = errors.New("too many descriptors or entries")
	errHits    = fmt.Errorf("a descriptor's hits_addend is above %d", int64(maxHits))
)

// addend is what one descriptor takes of its limit instead of what the request says.
type addend struct {
	stated bool
	hits   int64 // 0 takes nothing and asks whether there is room; negative gives back
}

// of is the addend of a descriptor.
func (c counting) of(i int) addend {
	if i < len(c.own) {
		return c.own[i]
	}
	return addend{}
}

// request is a RateLimitRequest. Its strings are parts of the message.
type request struct {
	domain      string
	descriptors []descriptor
	hits        uint32
	own         []addend // by descriptor, nil when none states its own; the last ones may be missing
	negative    []int    // descriptors that only say their hits are negative
}

// descriptor is the entries of one descriptor.
type descriptor []limits.Entry

// parse reads the message.
func (r *request) parse(wire string) error {
	r.descriptors = make([]descriptor, 0, 8)
	entries := make([]limits.Entry, 0, 32) // room for all descriptors' entries
	c := cursor{rest: wire}
	for c.next() {
		switch {
		case c.is(requestDomain, protowire.BytesType):
			r.domain = c.value
		case c.is(requestHits, protowire.VarintType):
			r.hits = uint32(c.n)
		case c.is(requestDescriptors, protowire.BytesType):
			begin := len(entries)
			var own wireAddend
			var err error
			if entries, own, err = parseDescriptor(c.value, entries); err != nil {
				return err
			}
			if own.stated || own.negative {
				r.state(own)
			}
			if len(r.descriptors) == maxDescriptors {
				return errTooMany
			}
			r.descriptors = append(r.descriptors, entries[begin:len(entries):len(entries)])
		}
	}
	r.negate()
	return c.err
}

// wireAddend is a descriptor's addend as the message has it.
type wireAddend struct {
	stated, negative bool
	hits             int64
}

// state notes the addend of the descriptor that comes next. One that is only negative
// waits for the request's hits, which may come after it.
func (r *request) state(own wireAddend) {
	for len(r.own) < len(r.descriptors) {
		r.own = append(r.own, addend{})
	}
	a := addend{stated: own.stated, hits: own.hits}
	if own.negative {
		a.hits = -own.hits
		if !own.stated {
			r.negative = append(r.negative, len(r.own))
		}
	}
	r.own = append(r.own, a)
}

// negate gives the request's hits to descriptors that only say they are negative.
func (r *request) negate() {
	for _, i := range r.negative {
		r.own[i] = addend{stated: true, hits: -int64(max(1, r.hits))}
	}
}

// parseDescriptor appends the entries of a descriptor; its limit is not read, as we
// decide that.
func parseDescriptor(text string, entries []limits.Entry) ([]limits.Entry, wireAddend, error) {
	begin := len(entries)
	var own wireAddend
	for c := (cursor{rest: text}); ; {
		if !c.next() {
			return entries, own, c.err
		}
		switch {
		case c.is(descriptorNegative, protowire.VarintType):
			own.negative = c.n != 0
		case c.is(descriptorHits, protowire.BytesType):
			hits, err := parseHits(c.value, uint64(own.hits))
			if err != nil {
				return nil, own, err
			}
			own.stated, own.hits = true, hits
		}
		if !c.is(descriptorEntries, protowire.BytesType) {
			continue
		}
		if len(entries)-begin == maxEntries {
			return nil, own, errTooMany
		}
		var e limits.Entry
		f := cursor{rest: c.value}
		for f.next() {
			switch {
			case f.is(entryKey, protowire.BytesType):
				e.Key = f.value
			case f.is(entryValue, protowire.BytesType):
				e.Value = f.value
			}
		}
		if f.err != nil {
			return nil, own, f.err
		}
		entries = append(entries, e)
	}
}

// parseHits reads a google.protobuf.UInt64Value; a message that comes in pieces is merged.
func parseHits(text string, hits uint64) (int64, error) {
	c := cursor{rest: text}
	for c.next() {
		if c.is(uint64Value, protowire.VarintType) {
			hits = c.n
		}
	}
	if hits > maxHits {
		return 0, errHits
	}
	return int64(hits), c.err
}

var errWire = errors.New("malformed message")

// cursor goes through the fields of a message.
type cursor struct {
	rest  string
	tag   uint64
	value string // of a length-delimited field
	n     uint64 // of a varint
	err   error
}

// is reports whether the field is this one.
func (c *cursor) is(number protowire.Number, kind protowire.Type) bool {
	return c.tag == uint64(number)<<3|uint64(kind)
}

// next moves to the next field; false at the end and on an error.
func (c *cursor) next() bool {
	if c.rest == "" || c.err != nil {
		return false
	}
	c.tag = c.varint()
	number, kind := protowire.DecodeTag(c.tag)
	if number < protowire.MinValidNumber {
		c.err = errWire
	}
	switch kind {
	case protowire.BytesType:
		if n := c.varint(); n <= uint64(len(c.rest)) {
			c.value, c.rest = c.rest[:n], c.rest[n:]
		} else {
			c.err = errWire
		}
	case protowire.VarintType:
		c.n = c.varint()
	default:
		n := protowire.ConsumeFieldValue(number, kind, []byte(c.rest))
		if n < 0 {
			c.err = errWire
			break
		}
		c.rest = c.rest[n:]
	}
	return c.err == nil
}

// varint reads a number. Nearly all tags and lengths here are of one byte.
func (c *cursor) varint() uint64 {
	if c.rest != "" && c.rest[0] < 0x80 {
		v := uint64(c.rest[0])
		c.rest = c.rest[1:]
		return v
	}
	v, used := protowire.ConsumeVarint([]byte(c.rest[:min(len(c.rest), binary.MaxVarintLen64)]))
	if used < 0 {
		c.err = errWire
		return 0
	}
	c.rest = c.rest[used:]
	return v
}

// Codes of envoy.service.ratelimit.v3.RateLimitResponse.
const (
	codeOK        = 1
	codeOverLimit = 2
)

// response is a RateLimitResponse under construction.
type response struct {
	wire     []byte
	metadata []byte
}

// newResponse begins with room for all a decision has to say.
func newResponse(code uint64) *response {
	b := make([]byte, 0, 1536)
	b = protowire.AppendTag(b, responseCode, protowire.VarintType)
	return &response{wire: protowire.AppendVarint(b, code)}
}

// header adds a response header. A value that is no header text is made one.
func (r *response) header(key, value string) {
	value = headerText(value)
	size := protowire.SizeTag(headerKey) + protowire.SizeBytes(len(key)) + protowire.SizeTag(headerValue) + protowire.SizeBytes(len(value))
	b := protowire.AppendTag(r.wire, responseHeaders, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(size))
	b = protowire.AppendTag(b, headerKey, protowire.BytesType)
	b = protowire.AppendString(b, key)
	b = protowire.AppendTag(b, headerValue, protowire.BytesType)
	r.wire = protowire.AppendString(b, value)
}

// headerText keeps what may stand in a header; Envoy rejects a message with more.
func headerText(s string) string {
	if strings.IndexFunc(s, func(c rune) bool { return c < ' ' || c > '~' }) < 0 {
		return s
	}
	return strings.Map(func(c rune) rune {
		if c < ' ' || c > '~' {
			return '?'
		}
		return c
	}, s)
}

// body sets the body of the refusal.
func (r *response) body(b []byte) {
	r.wire = protowire.AppendTag(r.wire, responseBody, protowire.BytesType)
	r.wire = protowire.AppendBytes(r.wire, b)
}

// text puts a string into the dynamic metadata. What is no UTF-8 is repaired, since
// Envoy would refuse the whole message.
func (r *response) text(key, value string) {
	value = strings.ToValidUTF8(value, "\uFFFD")
	r.field(key, protowire.SizeTag(valueString)+protowire.SizeBytes(len(value)))
	r.metadata = protowire.AppendTag(r.metadata, valueString, protowire.BytesType)
	r.metadata = protowire.AppendString(r.metadata, value)
}

// number puts a number into the dynamic metadata.
func (r *response) number(key string, value float64) {
	r.field(key, protowire.SizeTag(valueNumber)+protowire.SizeFixed64())
	r.metadata = protowire.AppendTag(r.metadata, valueNumber, protowire.Fixed64Type)
	r.metadata = protowire.AppendFixed64(r.metadata, math.Float64bits(value))
}

// field begins a member of the metadata's struct whose value takes size bytes.
func (r *response) field(key string, size int) {
	if r.metadata == nil {
		r.metadata = make([]byte, 0, 384)
	}
	entry := protowire.SizeTag(fieldKey) + protowire.SizeBytes(len(key)) + protowire.SizeTag(fieldValue) + protowire.SizeBytes(size)
	b := protowire.AppendTag(r.metadata, structFields, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(entry))
	b = protowire.AppendTag(b, fieldKey, protowire.BytesType)
	b = protowire.AppendString(b, key)
	b = protowire.AppendTag(b, fieldValue, protowire.BytesType)
	r.metadata = protowire.AppendVarint(b, uint64(size))
}

// message is the whole.
func (r *response) message() []byte {
	if len(r.metadata) > 0 {
		r.wire = protowire.AppendTag(r.wire, responseMetadata, protowire.BytesType)
		r.wire = protowire.AppendBytes(r.wire, r.metadata)
		r.metadata = nil
	}
	return r.wire
}
