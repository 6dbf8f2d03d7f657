package meter

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
)

// genAI are the metrics of OpenTelemetry's semantic conventions for generative AI, as seen at the
// gateway, under the names that an OTLP exporter gives them in Prometheus. Their buckets are those
// that the conventions advise. Provider and model are the route's, so from the configuration.
type genAI struct {
	tokens, duration, firstByte, perToken *prometheus.HistogramVec
}

func newGenAI() *genAI {
	seconds := []float64{.01, .02, .04, .08, .16, .32, .64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92}
	return &genAI{
		tokens: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "gen_ai_client_token_usage",
			Help:    "Tokens of one call, by type (gen_ai.client.token.usage).",
			Buckets: []float64{1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304}},
			[]string{"gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model", "gen_ai_token_type"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "gen_ai_server_request_duration_seconds",
			Help: "From a call's first byte at the gateway to its last (gen_ai.server.request.duration). error_type is the status of a failed one.", Buckets: seconds},
			[]string{"gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model", "error_type"}),
		firstByte: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "gen_ai_server_time_to_first_token_seconds",
			Help: "Until the provider's answer began, of streamed calls (gen_ai.server.time_to_first_token).", Buckets: seconds},
			[]string{"gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model"}),
		perToken: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "gen_ai_server_time_per_output_token_seconds",
			Help:    "Per token after the first, of streamed calls (gen_ai.server.time_per_output_token).",
			Buckets: []float64{.01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5}},
			[]string{"gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model"}),
	}
}

// observe counts a call that the limiter admitted.
func (g *genAI) observe(e *usage.Event) {
	operation := operationOf(e.Route)
	if e.Input+e.Output > 0 {
		g.tokens.WithLabelValues(operation, e.Provider, e.ModelAsked, "input").Observe(float64(e.Input))
		g.tokens.WithLabelValues(operation, e.Provider, e.ModelAsked, "output").Observe(float64(e.Output))
	}
	failure := "none"
	if e.Status >= http.StatusBadRequest || e.Status == 0 { // 0: Envoy sent nothing
		failure = strconv.Itoa(e.Status)
	}
	took := time.Duration(e.LatencyMS) * time.Millisecond
	g.duration.WithLabelValues(operation, e.Provider, e.ModelAsked, failure).Observe(took.Seconds())
	if !e.Stream || failure != "none" || e.FirstByteMS <= 0 {
		return
	}
	first := time.Duration(e.FirstByteMS) * time.Millisecond
	g.firstByte.WithLabelValues(operation, e.Provider, e.ModelAsked).Observe(first.Seconds())
	if e.Output > 1 {
		g.perToken.WithLabelValues(operation, e.Provider, e.ModelAsked).Observe((took - first).Seconds() / float64(e.Output-1))
	}
}

// operationOf is gen_ai.operation.name of a route.
func operationOf(route string) string {
	switch {
	case strings.Contains(route, "embed"):
		return "embeddings"
	case strings.HasSuffix(route, "-completions"):
		return "text_completion"
	case strings.HasPrefix(route, "gemini"):
		return "generate_content"
	}
	return "chat"
}
