package telemetry

import (
	"net/http"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/propagation"
	"google.golang.org/grpc"
)

// Handler makes a span of each request that next serves, below the caller's.
func (t *Traces) Handler(service string, next http.Handler) http.Handler {
	if t == nil || t.sdk == nil {
		return next
	}
	return otelhttp.NewHandler(next, service, otelhttp.WithTracerProvider(t), otelhttp.WithPropagators(propagation.TraceContext{}))
}

// Transport makes a span of each call and hands its context on.
func (t *Traces) Transport(base http.RoundTripper) http.RoundTripper {
	if t == nil || t.sdk == nil {
		return base
	}
	return otelhttp.NewTransport(base, otelhttp.WithTracerProvider(t), otelhttp.WithPropagators(propagation.TraceContext{}))
}

// DialOptions do so for a gRPC client.
func (t *Traces) DialOptions() []grpc.DialOption {
	if t == nil || t.sdk == nil {
		return nil
	}
	return []grpc.DialOption{grpc.WithStatsHandler(otelgrpc.NewClientHandler(otelgrpc.WithTracerProvider(t),
		otelgrpc.WithPropagators(propagation.TraceContext{})))}
}
