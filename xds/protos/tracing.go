package protos

import (
	"time"

	tracev3 "github.com/envoyproxy/go-control-plane/envoy/config/trace/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	uuidv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/request_id/uuid/v3"
	samplersv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/tracers/opentelemetry/samplers/v3"
	tagv3 "github.com/envoyproxy/go-control-plane/envoy/type/tracing/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/leaky-tokens/leaky-tokens/xds/model"
)

const (
	// tracesAs is service.name of Envoy's spans.
	tracesAs = "envoy"
	// reportTimeout bounds one report of spans.
	reportTimeout = 5 * time.Second
)

// tracing makes a span of each request that the sampler chooses; nil: of none.
//
// The sampler alone decides, by the trace's id. Envoy's own percentages would follow the sampled flag
// of the caller, so that anybody could have every call traced. They are not zero, because Envoy 1.40
// then drops the span of the request itself, whatever the sampler said.
//
// The tag of the URL has no path: a query may hold a key (?key=, as Gemini's clients send it).
func tracing(t *model.Tracing, operation string) *hcmv3.HttpConnectionManager_Tracing {
	if t == nil {
		return nil
	}
	sampler := &samplersv3.TraceIdRatioBasedSamplerConfig{SamplingPercentage: &typev3.FractionalPercent{Numerator: t.Share,
		Denominator: typev3.FractionalPercent_MILLION}}
	return &hcmv3.HttpConnectionManager_Tracing{
		ClientSampling: &typev3.Percent{}, RandomSampling: &typev3.Percent{Value: 100}, SpawnUpstreamSpan: wrapperspb.Bool(true),
		MaxPathTagLength: wrapperspb.UInt32(0), Operation: operation, UpstreamOperation: "call %UPSTREAM_CLUSTER%",
		CustomTags: []*tagv3.CustomTag{{Tag: "leaky.request_id", Type: &tagv3.CustomTag_RequestHeader{
			RequestHeader: &tagv3.CustomTag_Header{Name: "x-request-id"}}},
			{Tag: "leaky.correlation_id", Type: &tagv3.CustomTag_RequestHeader{RequestHeader: &tagv3.CustomTag_Header{Name: headerCorrelation}}}},
		Provider: &tracev3.Tracing_Http{Name: "envoy.tracers.opentelemetry", ConfigType: &tracev3.Tracing_Http_TypedConfig{
			TypedConfig: anyOf(&tracev3.OpenTelemetryConfig{GrpcService: grpc(t.Cluster, reportTimeout), ServiceName: tracesAs,
				Sampler: typed("envoy.tracers.opentelemetry.samplers.trace_id_ratio_based", sampler)})}},
	}
}

// ofRoute names a span by the route that was taken.
const ofRoute = "%REQ(:METHOD)% %ROUTE_NAME%"

// wholeID leaves request ids as they are: Envoy would note its decision in a digit of the UUID.
func wholeID(t *model.Tracing) *hcmv3.RequestIDExtension {
	if t == nil {
		return nil
	}
	return &hcmv3.RequestIDExtension{TypedConfig: anyOf(&uuidv3.UuidRequestIdConfig{PackTraceReason: wrapperspb.Bool(false)})}
}
