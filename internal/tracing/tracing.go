// Package tracing is what the parts on the path of a request share about spans: the trace context
// that they hand to each other (W3C Trace Context), and which calls Envoy has chosen. What sends
// spans to a collector is package telemetry's.
package tracing

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math"
	"strings"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// scope names who made a span, within its service.
const scope = "github.com/leaky-tokens/leaky-tokens"

// Tracer makes the spans of a package. Without a provider nobody keeps them.
func Tracer(from trace.TracerProvider) trace.Tracer {
	if from == nil {
		from = noop.NewTracerProvider()
	}
	return from.Tracer(scope)
}

// Header is the name of W3C Trace Context's header, in HTTP, gRPC and NATS.
const Header = "traceparent"

// Of which part of a trace context each text is (W3C Trace Context, 3.2.2): 00-TRACE-SPAN-FLAGS.
const (
	length  = 55
	flagsAt = 53
)

// Sampled reports whether the spans of a trace context are kept. It is asked of every call, so it
// looks at the flags alone.
func Sampled(traceParent string) bool {
	return len(traceParent) == length && strings.IndexByte("13579bdf", traceParent[length-1]) >= 0 && traceParent[flagsAt-1] == '-'
}

// Parent is ctx below the span of a traceparent, or ctx if that is none.
func Parent(ctx context.Context, traceParent string) context.Context {
	return propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{Header: traceParent})
}

// Text is the traceparent of a span.
func Text(sc trace.SpanContext) string {
	if !sc.IsValid() {
		return ""
	}
	return "00-" + sc.TraceID().String() + "-" + sc.SpanID().String() + "-" + sc.TraceFlags().String()
}

// Million is the denominator of the share of calls that Envoy chooses.
const Million = 1_000_000

// Share is a part of 1 in millionths.
func Share(sample float64) uint32 { return uint32(math.Round(min(1, max(0, sample)) * Million)) }

// Chosen reports whether Envoy keeps the spans of a trace: what its sampler trace_id_ratio_based
// makes of the trace's id and a share in millionths. So the meter knows it of calls whose context
// nobody told it, as that of a refused one.
func Chosen(id trace.TraceID, share uint32) bool {
	return binary.LittleEndian.Uint64(id[:8])%Million < uint64(share)
}

// IDs are those of one span.
type IDs struct {
	Trace trace.TraceID
	Span  trace.SpanID
}

// IDsOf reads the ids that Envoy gave a call; false where it gave none.
func IDsOf(traceID, spanID string) (IDs, bool) {
	var ids IDs
	var err, spanErr error
	ids.Trace, err = trace.TraceIDFromHex(traceID)
	ids.Span, spanErr = trace.SpanIDFromHex(spanID)
	return ids, err == nil && spanErr == nil
}

// Derived are ids that follow from a request's and from what happens to it: who does it again, after
// a crash, makes the same span.
func Derived(requestID, what string) IDs {
	sum := sha256.Sum256([]byte(what + " " + requestID))
	var ids IDs
	copy(ids.Trace[:], sum[:])
	copy(ids.Span[:], sum[len(ids.Trace):])
	if id, err := hex.DecodeString(strings.ReplaceAll(requestID, "-", "")); err == nil && len(id) == len(ids.Trace) {
		copy(ids.Trace[:], id) // a UUID is one
	}
	return ids
}

type idsKey struct{}

// WithIDs is ctx for a span that has these ids and is kept whatever was decided before; the trace's
// counts where the span has no parent.
func WithIDs(ctx context.Context, ids IDs) context.Context {
	return context.WithValue(ctx, idsKey{}, ids)
}

// GivenIDs are what WithIDs put into ctx.
func GivenIDs(ctx context.Context) (IDs, bool) {
	ids, ok := ctx.Value(idsKey{}).(IDs)
	return ids, ok
}
