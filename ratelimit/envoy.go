package ratelimit

import (
	"errors"
	"fmt"
	"math"
	"strings"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/leaky-tokens/leaky-tokens/internal/limits"
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
)

var errTooMany = errors.New("too many descriptors or entries")

// request is a RateLimitRequest. Its strings share one copy of the message.
type request struct {
	domain      string
	descriptors []descriptor
	hits        uint32
}

// descriptor is the entries of one descriptor.
type descriptor []limits.Entry

// parse reads the message.
func (r *request) parse(wire []byte) error {
	text := string(wire)
	r.descriptors = make([]descriptor, 0, 8)
	return fields(text, func(number protowire.Number, value string, n uint64) error {
		switch number {
		case requestDomain:
			r.domain = value
		case requestHits:
			r.hits = uint32(min(n, math.MaxUint32))
		case requestDescriptors:
			if len(r.descriptors) == maxDescriptors {
				return errTooMany
			}
			d, err := parseDescriptor(value)
			r.descriptors = append(r.descriptors, d)
			return err
		}
		return nil
	})
}

func parseDescriptor(text string) (descriptor, error) {
	size := 4
	if len(text) > 256 {
		size = 16
	}
	d := make(descriptor, 0, size)
	err := fields(text, func(number protowire.Number, value string, _ uint64) error {
		if number != descriptorEntries {
			return nil // limit and hits_addend: we decide both
		}
		if len(d) == maxEntries {
			return errTooMany
		}
		var e limits.Entry
		err := fields(value, func(number protowire.Number, value string, _ uint64) error {
			switch number {
			case entryKey:
				e.Key = value
			case entryValue:
				e.Value = value
			}
			return nil
		})
		d = append(d, e)
		return err
	})
	return d, err
}

// fields calls visit for each field of a message: with value for a length-delimited
// one, with n for a varint. Others are skipped.
func fields(text string, visit func(number protowire.Number, value string, n uint64) error) error {
	for len(text) > 0 {
		tag, used := varint(text)
		if used < 0 {
			return protowire.ParseError(used)
		}
		text = text[used:]
		number, kind := protowire.DecodeTag(tag)
		if number < protowire.MinValidNumber {
			return fmt.Errorf("field number %d", number)
		}
		var n uint64
		value := ""
		switch kind {
		case protowire.VarintType:
			if n, used = varint(text); used < 0 {
				return protowire.ParseError(used)
			}
		case protowire.BytesType:
			if n, used = varint(text); used < 0 {
				return protowire.ParseError(used)
			}
			if n > uint64(len(text)-used) {
				return errors.New("a field is longer than its message")
			}
			value = text[used : used+int(n)]
			used += int(n)
		default:
			if used = protowire.ConsumeFieldValue(number, kind, []byte(text)); used < 0 {
				return protowire.ParseError(used)
			}
		}
		text = text[used:]
		if err := visit(number, value, n); err != nil {
			return err
		}
	}
	return nil
}

// varint is protowire.ConsumeVarint for a string.
func varint(text string) (uint64, int) {
	var v uint64
	for i := range min(len(text), 10) {
		c := text[i]
		if i == 9 && c > 1 {
			return 0, -3 // overflow, as protowire codes it
		}
		v |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			return v, i + 1
		}
	}
	return 0, -1 // truncated
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

// codec speaks request and response by hand and every other message as gRPC does.
type codec struct {
	encoding.CodecV2
}

func newCodec() codec { return codec{encoding.GetCodecV2(proto.Name)} }

// Marshal implements encoding.CodecV2.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if r, ok := v.(*response); ok {
		return mem.BufferSlice{mem.SliceBuffer(r.message())}, nil
	}
	return c.CodecV2.Marshal(v)
}

// Unmarshal implements encoding.CodecV2.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	r, ok := v.(*request)
	if !ok {
		return c.CodecV2.Unmarshal(data, v)
	}
	if len(data) == 1 {
		return r.parse(data[0].ReadOnlyData())
	}
	return r.parse(data.Materialize())
}
