package meter

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/time/rate"

	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/tracing"
)

// Traces is of which calls the meter makes spans.
type Traces struct {
	Provider trace.TracerProvider // nil: of none
	Share    func() uint32        // of the calls, in millionths, whose spans Envoy keeps
	Slow     time.Duration        // until an answer begins: a call that took longer is kept whatever Envoy has chosen
}

// keptEach bounds the spans of calls that are kept for what became of them, a second: while a provider
// is down every call fails, and the first hundred say why as well as all.
const keptEach = 100

// tracer makes the span of each call that is kept, when it is known what became of it.
type tracer struct {
	spans trace.Tracer // nil: there are none
	share func() uint32
	slow  time.Duration
	kept  *rate.Limiter
}

func newTracer(t Traces) tracer {
	if t.Provider == nil {
		return tracer{}
	}
	return tracer{spans: tracing.Tracer(t.Provider), share: t.Share, slow: t.Slow, kept: rate.NewLimiter(keptEach, keptEach)}
}

// trace makes the spans of a call and of its settling, and gives the context that its event goes on
// under: as it came where the call is not kept.
func (m *Meter) trace(v *verdict, s *limitpb.Settled) string {
	t := &m.tracer
	if t.spans == nil || v.tries > 0 { // sought again: made before
		return v.trace
	}
	ctx, kept := t.place(v)
	if !kept {
		return v.trace
	}
	e := &v.event
	ctx, span := t.spans.Start(ctx, operationOf(e.Route)+" "+e.ModelAsked, trace.WithTimestamp(v.began),
		trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(callAttributes(e)...))
	if why := failure(e); why != "" {
		span.SetAttributes(semconv.ErrorTypeKey.String(why))
		span.SetStatus(codes.Error, "")
	}
	if s != nil {
		_, settle := t.spans.Start(tracing.WithIDs(ctx, tracing.Derived(e.RequestID, "settle")), "settle", trace.WithTimestamp(m.settling[0]),
			trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(attribute.String("leaky.settle.status", statusName(s.GetStatus()))))
		settle.End(trace.WithTimestamp(m.settling[1]))
	}
	span.End(trace.WithTimestamp(v.began.Add(time.Duration(e.LatencyMS) * time.Millisecond)))
	return tracing.Text(span.SpanContext())
}

// place says whether a call is kept, and where its span belongs. Below Envoy's span, if Envoy keeps
// the spans of the call. If it does not, and the call was refused, failed or slow, the span is the
// first of its trace: it takes the id of Envoy's, which nobody else will send, so that what others
// have of the trace fits.
func (t *tracer) place(v *verdict) (context.Context, bool) {
	ctx, e := context.Background(), &v.event
	ids, traced := tracing.IDsOf(v.traceID, v.spanID)
	if traced && tracing.Chosen(ids.Trace, t.share()) {
		above := trace.NewSpanContext(trace.SpanContextConfig{TraceID: ids.Trace, SpanID: ids.Span, TraceFlags: trace.FlagsSampled, Remote: true})
		return tracing.WithIDs(trace.ContextWithRemoteSpanContext(ctx, above), tracing.Derived(e.RequestID, "call")), true
	}
	if !t.worthKeeping(e) || !t.kept.Allow() {
		return ctx, false
	}
	if !traced {
		ids = tracing.Derived(e.RequestID, "call")
	}
	return tracing.WithIDs(ctx, ids), true
}

func (t *tracer) worthKeeping(e *usage.Event) bool {
	began := e.FirstByteMS
	if began == 0 {
		began = e.LatencyMS
	}
	return failure(e) != "" || time.Duration(began)*time.Millisecond > t.slow
}

// failure is error.type of a call that did not go well for who called; empty: it did.
func failure(e *usage.Event) string {
	switch e.Reason {
	case ReasonRateLimited, ReasonNotAccepted, ReasonDisconnected, ReasonTimedOut, ReasonCut, ReasonNoAnswer, ReasonNotServed,
		ReasonProviderError, ReasonUndecided:
		return e.Reason
	}
	if e.Status == 0 || e.Status >= http.StatusBadRequest {
		return strconv.Itoa(e.Status)
	}
	return ""
}

// callAttributes are those of OpenTelemetry's conventions for generative AI, and what only we know.
// None of them is of a prompt, an answer or a credential.
func callAttributes(e *usage.Event) []attribute.KeyValue {
	all := []attribute.KeyValue{
		semconv.GenAIOperationNameKey.String(operationOf(e.Route)), semconv.GenAIProviderNameKey.String(e.Provider),
		semconv.GenAIRequestModel(e.ModelAsked), semconv.GenAIUsageInputTokens(int(e.Input)), semconv.GenAIUsageOutputTokens(int(e.Output)),
		semconv.HTTPResponseStatusCode(e.Status), semconv.HTTPRoute(e.Route),
		attribute.String("leaky.request_id", e.RequestID), attribute.String("leaky.account", e.Account),
		attribute.Int64("leaky.tokens.held", e.Held), attribute.Int64("leaky.tokens.charged", e.Charged),
		attribute.String("leaky.charge.source", string(e.Source)), attribute.Bool("leaky.stream", e.Stream),
		attribute.Int64("leaky.first_byte_ms", e.FirstByteMS), attribute.Int64("leaky.attempts", e.Attempts),
	}
	if e.ModelServed != "" {
		all = append(all, semconv.GenAIResponseModel(e.ModelServed))
	}
	if e.Reason != "" {
		all = append(all, attribute.String("leaky.charge.reason", e.Reason))
	}
	if e.PriceVersion != "" {
		all = append(all, attribute.Int64("leaky.cost.micros", e.CostMicros), attribute.String("leaky.cost.currency", e.Currency))
	}
	return all
}
