package snapshot_test

import (
	"strings"
	"testing"

	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
)

// TestTracingIsWhereItIsConfigured: every listener traces to the collector's cluster, or none does and
// there is no such cluster.
func TestTracingIsWhereItIsConfigured(t *testing.T) {
	t.Parallel()
	const moved = "models: [{name: gpt-4o, provider: openai, fallback: [gpt-4o-mini]}, {name: gpt-4o-mini, provider: openai}]\n"
	for name, c := range map[string]struct {
		yaml   string
		traced bool
		tls    bool
	}{
		"off":       {moved + "tracing: {sample: 1}", false, false},
		"in clear":  {moved + "tracing: {otlp: 'http://127.0.0.1:4317', sample: 0.25}", true, false},
		"by TLS":    {moved + "tracing: {otlp: 'https://otel.example', sample: 0.25}", true, true},
		"by a name": {moved + "tracing: {otlp: 'http://collector:4317', sample: 0.25}", true, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, s, err := build(t, c.yaml, "", nil)
			if err != nil {
				t.Fatal(err)
			}
			text := string(render(t, s))
			listeners := 0
			if c.traced {
				listeners = len(s.Resources[resourcev3.ListenerType])
			}
			for what, want := range map[string]int{"name: envoy.tracers.opentelemetry\n": listeners, "numerator: 250000": listeners,
				"packTraceReason: false": listeners, "%SPAN_ID%": min(1, listeners)} {
				if got := strings.Count(text, what); got != want {
					t.Errorf("%q: want %d, got %d", what, want, got)
				}
			}
			collector, there := s.Resources[resourcev3.ClusterType]["otlp"]
			if there != c.traced {
				t.Errorf("want a cluster of the collector: %v, got %v", c.traced, there)
			}
			if there && strings.Contains(collector.(interface{ String() string }).String(), "otel.example") != c.tls {
				t.Errorf("want TLS with the collector's name: %v, got %v", c.tls, collector)
			}
		})
	}
}
