package extauthz

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/codes"

	"github.com/leaky-tokens/leaky-tokens/internal/grpcbatch"
	"github.com/leaky-tokens/leaky-tokens/internal/tracing"
)

// begin is the span of a check, below Envoy's question, where Envoy keeps the request's spans; else
// nil, at the price of a look at the header's end.
func (s *Service) begin(ctx context.Context, asked *grpcbatch.Call) (context.Context, trace.Span) {
	if !tracing.Sampled(asked.TraceParent) {
		return ctx, nil
	}
	return s.tracer.Start(tracing.Parent(ctx, asked.TraceParent), "check who calls", trace.WithSpanKind(trace.SpanKindServer))
}

// end says what became of a check: never with what, since credentials are in the call.
func end(span trace.Span, c *call, r *reply) {
	if span == nil {
		return
	}
	span.SetAttributes(attribute.String("leaky.request_id", c.requestID), attribute.String("leaky.auth.rule", c.rule),
		attribute.String("leaky.auth.outcome", said(r).String()))
	span.End()
}

// said is a reply in the words of gRPC.
func said(r *reply) codes.Code {
	if r != nil {
		if message, err := r.message(); err == nil {
			return codes.Code(message.GetStatus().GetCode())
		}
	}
	return codes.Unavailable
}
