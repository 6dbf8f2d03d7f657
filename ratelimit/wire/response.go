package wire

import (
	"math"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
)

// Fields of envoy.service.ratelimit.v3.RateLimitResponse and of what it contains.
const (
	responseCode     = 1
	responseStatuses = 2
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

// Codes of envoy.service.ratelimit.v3.RateLimitResponse.
const (
	codeOK        = 1
	codeOverLimit = 2
)

// Response is a RateLimitResponse under construction.
type Response struct {
	wire     []byte
	metadata []byte
}

// newResponse begins with room for all a decision has to say.
func newResponse(code uint64) *Response {
	b := make([]byte, 0, 1536)
	b = protowire.AppendTag(b, responseCode, protowire.VarintType)
	return &Response{wire: protowire.AppendVarint(b, code)}
}

// addHeader adds a response header. A value that is no header text is made one.
func (r *Response) addHeader(key, value string) {
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

// setBody sets the body of the refusal.
func (r *Response) setBody(b []byte) {
	r.wire = protowire.AppendTag(r.wire, responseBody, protowire.BytesType)
	r.wire = protowire.AppendBytes(r.wire, b)
}

// addText puts a string into the dynamic metadata. What is no UTF-8 is repaired, since
// Envoy would refuse the whole message.
func (r *Response) addText(key, value string) {
	value = valid(value)
	r.beginField(key, protowire.SizeTag(valueString)+protowire.SizeBytes(len(value)))
	r.metadata = protowire.AppendTag(r.metadata, valueString, protowire.BytesType)
	r.metadata = protowire.AppendString(r.metadata, value)
}

// valid repairs what is no UTF-8.
func valid(text string) string { return strings.ToValidUTF8(text, "\uFFFD") }

// addNumber puts a number into the dynamic metadata.
func (r *Response) addNumber(key string, value float64) {
	r.beginField(key, protowire.SizeTag(valueNumber)+protowire.SizeFixed64())
	r.metadata = protowire.AppendTag(r.metadata, valueNumber, protowire.Fixed64Type)
	r.metadata = protowire.AppendFixed64(r.metadata, math.Float64bits(value))
}

// beginField begins a member of the metadata's struct whose value takes size bytes.
func (r *Response) beginField(key string, size int) {
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

// Message is the whole, encoded.
func (r *Response) Message() []byte {
	if len(r.metadata) > 0 {
		r.wire = protowire.AppendTag(r.wire, responseMetadata, protowire.BytesType)
		r.wire = protowire.AppendBytes(r.wire, r.metadata)
		r.metadata = nil
	}
	return r.wire
}
