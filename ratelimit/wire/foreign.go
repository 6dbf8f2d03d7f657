package wire

import (
	"math"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/errorbody"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/match"
)

// Fields of RateLimitResponse.DescriptorStatus and RateLimitResponse.RateLimit.
const (
	statusCode      = 1
	statusLimit     = 2
	statusRemaining = 3
	statusReset     = 4 // google.protobuf.Duration
	limitRequests   = 1
	limitUnit       = 2
	limitName       = 3
	durationSeconds = 1
)

// Foreign is what was decided of a request of another Envoy.
type Foreign struct {
	Request  *match.Request
	Verdicts []match.Verdict
	States   []bucket.State // of each bucket
	Now      int64          // microseconds
	Refused  bool
	Wait     int64 // until a refused request may fit, in microseconds; bucket.Never: it cannot ever
	// Silent says that the client is told nothing: only Envoy is.
	Silent bool
	// Headers are the only ones that the client gets then, and no body; nil: x-ratelimit-*, and
	// of a refusal retry-after and a body.
	Headers *Headers
	// Metadata says that the metadata of rules that have room is told.
	Metadata bool
}

// Headers are the names of what a client is told of the tightest limit; an empty one is not
// sent.
type Headers struct{ Limit, Remaining, Reset string }

// AnswerForeign answers another Envoy: how each descriptor stands, as
// envoyproxy/ratelimit does it.
func AnswerForeign(f *Foreign) *Response {
	code := uint64(codeOK)
	if f.Refused {
		code = codeOverLimit
	}
	r := newResponse(code)
	for i := range f.Verdicts {
		r.addStatus(f, &f.Verdicts[i])
	}
	if !f.Silent {
		r.tellClient(f)
	}
	if f.Metadata {
		r.addForeignMetadata(f)
	}
	return r
}

// addStatus adds a DescriptorStatus.
func (r *Response) addStatus(f *Foreign, v *match.Verdict) {
	var room [256]byte
	b := protowire.AppendTag(room[:0], statusCode, protowire.VarintType)
	switch {
	case v.Unlimited:
		b = protowire.AppendVarint(b, codeOK)
		b = protowire.AppendTag(b, statusRemaining, protowire.VarintType)
		b = protowire.AppendVarint(b, math.MaxUint32)
	case v.Limit == nil:
		b = protowire.AppendVarint(b, codeOK)
	default:
		code := uint64(codeOK)
		if v.Over && !v.Limit.Rule.Shadow {
			code = codeOverLimit
		}
		b = protowire.AppendVarint(b, code)
		b = protowire.AppendTag(b, statusLimit, protowire.BytesType)
		b = appendLimit(b, v.Limit)
		if v.Remaining > 0 {
			b = protowire.AppendTag(b, statusRemaining, protowire.VarintType)
			b = protowire.AppendVarint(b, uint64(min(v.Remaining, math.MaxUint32)))
		}
		reset := uint64(f.resetSeconds(v))
		b = protowire.AppendTag(b, statusReset, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(protowire.SizeTag(durationSeconds)+protowire.SizeVarint(reset)))
		b = protowire.AppendTag(b, durationSeconds, protowire.VarintType)
		b = protowire.AppendVarint(b, reset)
	}
	r.wire = protowire.AppendTag(r.wire, responseStatuses, protowire.BytesType)
	r.wire = protowire.AppendBytes(r.wire, b)
}

// appendLimit appends a RateLimitResponse.RateLimit, with its length: what fits at most, and
// in which unit. Upstream's requests_per_unit is what fits; of a bucket that is its burst.
func appendLimit(b []byte, l *match.Limit) []byte {
	requests, unit, name := uint64(min(l.Params.Capacity, math.MaxUint32)), uint64(match.UnitOf(l.Rule.Period)), valid(l.Rule.Given)
	n := 0
	if requests > 0 {
		n += protowire.SizeTag(limitRequests) + protowire.SizeVarint(requests)
	}
	n += protowire.SizeTag(limitUnit) + protowire.SizeVarint(unit)
	if name != "" {
		n += protowire.SizeTag(limitName) + protowire.SizeBytes(len(name))
	}
	b = protowire.AppendVarint(b, uint64(n))
	if requests > 0 {
		b = protowire.AppendTag(b, limitRequests, protowire.VarintType)
		b = protowire.AppendVarint(b, requests)
	}
	b = protowire.AppendTag(b, limitUnit, protowire.VarintType)
	b = protowire.AppendVarint(b, unit)
	if name != "" {
		b = protowire.AppendTag(b, limitName, protowire.BytesType)
		b = protowire.AppendString(b, name)
	}
	return b
}

// resetSeconds is how long until the limit's window ends, or until its bucket is empty.
func (f *Foreign) resetSeconds(v *match.Verdict) int64 {
	p := v.Limit.Params
	if p.Window > 0 {
		return up(p.Anew(f.Now), second)
	}
	return up(p.Reset(f.States[v.Bucket], f.Now), second)
}

// tellClient adds headers of the limit with the least left, or of one that refused, and in
// our own way when to come back from a refusal and a body.
func (r *Response) tellClient(f *Foreign) {
	names := f.Headers
	if names == nil {
		names = &Headers{Limit: "x-ratelimit-limit", Remaining: "x-ratelimit-remaining", Reset: "x-ratelimit-reset"}
	}
	if v := f.tightest(); v != nil {
		for _, h := range [][2]string{{names.Limit, v.Limit.Capacity}, {names.Remaining, strconv.FormatInt(v.Remaining, 10)},
			{names.Reset, strconv.FormatInt(f.resetSeconds(v), 10)}} {
			if h[0] != "" {
				r.addHeader(h[0], h[1])
			}
		}
	}
	if !f.Refused || f.Headers != nil {
		return
	}
	var seconds int64
	if f.Wait >= 0 {
		seconds = max(1, up(f.Wait, second))
		r.addHeader("retry-after", strconv.FormatInt(seconds, 10))
	}
	body, contentType := errorbody.Body(attributes.FamilyProblem, errorbody.Refusal{Status: 429, Message: "rate limit exceeded",
		RetryAfterSeconds: int(seconds)})
	r.addHeader("content-type", contentType)
	r.setBody(body)
}

// tightest is the verdict with the least left, of a refusal one that refused.
func (f *Foreign) tightest() *match.Verdict {
	var least *match.Verdict
	for i := range f.Verdicts {
		v := &f.Verdicts[i]
		if v.Limit == nil || least != nil && least.Remaining <= v.Remaining && !(f.Refused && v.Over && !v.Limit.Rule.Counts()) {
			continue
		}
		least = v
	}
	return least
}

// addForeignMetadata adds what envoyproxy/ratelimit tells with RESPONSE_DYNAMIC_METADATA: the
// domain, the descriptors, and the metadata of those that are within their limits, merged;
// of two that say the same the first wins.
func (r *Response) addForeignMetadata(f *Foreign) {
	list := make([]any, len(f.Request.Descriptors))
	for i, d := range f.Request.Descriptors {
		entries := make([]any, len(d))
		for k, e := range d {
			entries[k] = valid(e.Key + "=" + e.Value)
		}
		one := map[string]any{"entries": entries}
		if i < len(f.Request.Addends) && f.Request.Addends[i].Stated {
			one["hitsAddend"] = float64(f.Request.Addends[i].Hits)
		}
		list[i] = one
	}
	all := map[string]any{"domain": valid(f.Request.Domain), "descriptors": list}
	if f.Request.Hits != 0 {
		all["hitsAddend"] = float64(f.Request.Hits)
	}
	passed := map[string]any{}
	for _, v := range f.Verdicts {
		if v.Limit != nil && (!v.Over || v.Limit.Rule.Shadow) {
			merge(passed, v.Limit.Rule.Metadata)
		}
	}
	if len(passed) > 0 {
		all["metadata"] = passed
	}
	s, err := structpb.NewStruct(all)
	if err != nil { // metadata is JSON's types since it was read
		return
	}
	b, err := proto.Marshal(s)
	if err != nil {
		return
	}
	r.wire = protowire.AppendTag(r.wire, responseMetadata, protowire.BytesType)
	r.wire = protowire.AppendBytes(r.wire, b)
}

// merge adds what is not there yet, mappings in mappings.
func merge(into, from map[string]any) {
	for key, value := range from {
		have, there := into[key].(map[string]any)
		more, mapping := value.(map[string]any)
		switch _, taken := into[key]; {
		case there && mapping:
			merge(have, more)
		case !taken && mapping: // a copy, since later ones are merged into it
			copied := map[string]any{}
			merge(copied, more)
			into[key] = copied
		case !taken:
			into[key] = value
		}
	}
}
