package telemetry

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/leaky-tokens/leaky-tokens/internal/retry"
	"github.com/leaky-tokens/leaky-tokens/internal/tracing"
)

// TracesConfig is where a service's spans go.
type TracesConfig struct {
	OTLP     string // http(s)://host[:port] of a collector, OTLP over gRPC; empty: nowhere, at no cost
	Service  string
	Instance string // which process of it
	Log      *slog.Logger
}

// tracesWait bounds the sending of what is left when the service stops.
const tracesWait = 2 * time.Second

// Traces makes the spans of a service. Close sends what is left.
//
// A service begins no trace. It adds to those of which Envoy keeps the spans, as the sampled flag
// says, and to those whose ids somebody gave (tracing.WithIDs). Spans wait in a queue of 2048; what
// does not fit while the collector is slow or away is dropped: no call ever waits for it.
type Traces struct {
	trace.TracerProvider
	sdk *sdktrace.TracerProvider
}

// OpenTraces connects to the collector as soon as there is a span.
func OpenTraces(ctx context.Context, c TracesConfig) (*Traces, error) {
	if c.OTLP == "" {
		return &Traces{TracerProvider: noop.NewTracerProvider()}, nil
	}
	exporter, err := otlptracegrpc.New(ctx, otlptracegrpc.WithEndpointURL(c.OTLP))
	if err != nil {
		return nil, fmt.Errorf("tracing.otlp: %w", err)
	}
	said := retry.NewTroubles(c.Log)
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { // the only way that the SDK tells
		said.Warn(ctx, "spans are not sent", err)
	}))
	sdk := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithSampler(kept{sdktrace.ParentBased(sdktrace.NeverSample())}),
		sdktrace.WithIDGenerator(generator{}),
		sdktrace.WithResource(resource.NewSchemaless(semconv.ServiceName(c.Service), semconv.ServiceInstanceID(c.Instance),
			semconv.ServiceNamespace("leaky-tokens"))))
	return &Traces{TracerProvider: sdk, sdk: sdk}, nil
}

// Close sends what is left, for at most two seconds.
func (t *Traces) Close() {
	if t.sdk == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), tracesWait)
	defer cancel()
	_ = t.sdk.Shutdown(ctx) // the error handler has heard of it
}

// kept is a sampler that keeps what has given ids, and asks another about the rest.
type kept struct{ sdktrace.Sampler }

// ShouldSample implements sdktrace.Sampler.
func (k kept) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	if _, given := tracing.GivenIDs(p.ParentContext); given {
		return sdktrace.SamplingResult{Decision: sdktrace.RecordAndSample,
			Tracestate: trace.SpanContextFromContext(p.ParentContext).TraceState()}
	}
	return k.Sampler.ShouldSample(p)
}

// generator gives the ids that the context has, else random ones.
type generator struct{}

// NewIDs implements sdktrace.IDGenerator.
func (generator) NewIDs(ctx context.Context) (trace.TraceID, trace.SpanID) {
	ids, given := tracing.GivenIDs(ctx)
	if !given {
		_, _ = rand.Read(ids.Trace[:])
		_, _ = rand.Read(ids.Span[:])
	}
	return ids.Trace, ids.Span
}

// NewSpanID implements sdktrace.IDGenerator.
func (g generator) NewSpanID(ctx context.Context, _ trace.TraceID) trace.SpanID {
	_, span := g.NewIDs(ctx)
	return span
}
