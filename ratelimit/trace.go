package ratelimit

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/leaky-tokens/leaky-tokens/internal/grpcbatch"
	"github.com/leaky-tokens/leaky-tokens/internal/tracing"
)

// traced makes the span of a decision, below Envoy's question. Calls that came together are decided
// together, so it is made once it is known what became of each.
func (s *Service) traced(ctx context.Context, e *envoyCall, begun time.Time) {
	if !tracing.Sampled(e.caller.TraceParent) {
		return
	}
	_, span := s.tracer.Start(tracing.Parent(ctx, e.caller.TraceParent), "hold", trace.WithTimestamp(begun),
		trace.WithSpanKind(trace.SpanKindServer))
	span.SetAttributes(e.attributes()...)
	span.End()
}

// attributes say what was decided.
func (a *admission) attributes() []attribute.KeyValue {
	outcome := a.taken.Outcome.String()
	switch {
	case a.err != nil:
		outcome = "no decision"
	case a.blind:
		outcome = "admitted without redis, " + string(a.mode)
	}
	all := []attribute.KeyValue{attribute.String("leaky.limit.outcome", outcome), attribute.String("leaky.account", a.take.Account)}
	if a.take.ID != "" {
		all = append(all, attribute.String("leaky.request_id", a.take.ID),
			attribute.Int64("leaky.tokens.input_bound", a.take.Input), attribute.Int64("leaky.tokens.held", a.taken.Held))
	}
	if a.refusal.Label != "" {
		all = append(all, attribute.String("leaky.limit.rule", a.refusal.Label))
	}
	return all
}

// begin is the span of one of our own API's calls, where its caller keeps spans.
func (s *Service) begin(ctx context.Context, c *grpcbatch.Call) (context.Context, func()) {
	if !tracing.Sampled(c.TraceParent) {
		return ctx, func() {}
	}
	ctx, span := s.tracer.Start(tracing.Parent(ctx, c.TraceParent), c.Method[1:], trace.WithSpanKind(trace.SpanKindServer))
	return ctx, func() { span.End() }
}
