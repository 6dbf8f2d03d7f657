package meter

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
)

func TestCountsCallsInOpenTelemetrysNames(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	m, err := newMetrics(registry)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range []usage.Event{
		{Route: "openai-chat", Provider: "openai", ModelAsked: "gpt-4o", Allowed: true, Stream: true, Status: 200, Input: 10, Output: 21,
			Held: 25, Charged: 31, LatencyMS: 2500, FirstByteMS: 500, Source: usage.FromProvider},
		{Route: "openai-embeddings", Provider: "openai", ModelAsked: "embed", Allowed: true, Status: 200, Input: 3, Held: 4, Charged: 3,
			LatencyMS: 20, FirstByteMS: 10, Source: usage.FromProvider},
		{Route: "gemini-generate", Provider: "gemini", ModelAsked: "flash", Allowed: true, Status: 503, Held: 9, LatencyMS: 1,
			Source: usage.FromUnstarted},
		{Route: "openai-chat", Provider: "openai", ModelAsked: "gpt-4o", Status: 429, Source: usage.FromRefusal},
	} {
		m.countEvent(&e)
	}
	want := `
		# HELP leaky_meter_held_tokens_total Tokens that were held for calls that are charged now.
		# TYPE leaky_meter_held_tokens_total counter
		leaky_meter_held_tokens_total{provider="gemini"} 9
		leaky_meter_held_tokens_total{provider="openai"} 29
		# HELP leaky_meter_overshoot_tokens_total Tokens charged above what was held for the call.
		# TYPE leaky_meter_overshoot_tokens_total counter
		leaky_meter_overshoot_tokens_total{provider="gemini"} 0
		leaky_meter_overshoot_tokens_total{provider="openai"} 6
	`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "leaky_meter_held_tokens_total",
		"leaky_meter_overshoot_tokens_total"); err != nil {
		t.Error(err)
	}
	all, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sums := map[string]float64{}
	for _, family := range all {
		for _, one := range family.GetMetric() {
			var labels []string
			for _, l := range one.GetLabel() {
				labels = append(labels, l.GetValue())
			}
			if h := one.GetHistogram(); strings.HasPrefix(family.GetName(), "gen_ai_") {
				sums[strings.TrimPrefix(family.GetName(), "gen_ai_")+" "+strings.Join(labels, " ")] = h.GetSampleSum()
			}
		}
	}
	for series, want := range map[string]float64{
		"client_token_usage chat openai gpt-4o input":                       10,
		"client_token_usage chat openai gpt-4o output":                      21,
		"client_token_usage embeddings openai embed input":                  3,
		"client_token_usage embeddings openai embed output":                 0,
		"server_request_duration_seconds none chat openai gpt-4o":           2.5,
		"server_request_duration_seconds none embeddings openai embed":      0.02,
		"server_request_duration_seconds 503 generate_content gemini flash": 0.001,
		"server_time_to_first_token_seconds chat openai gpt-4o":             0.5,
		"server_time_per_output_token_seconds chat openai gpt-4o":           0.1,
	} {
		if got, ok := sums[series]; !ok || got != want {
			t.Errorf("%s: want a sum of %v, got %v (%v)", series, want, got, ok)
		}
		delete(sums, series)
	}
	if len(sums) > 0 {
		t.Errorf("want nothing else, got %v", sums)
	}
}
