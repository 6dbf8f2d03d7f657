package ratelimit_test

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/leaky-tokens/leaky-tokens/ratelimit"
)

func TestCountsTheGatewaysRequestsAndWhatIsHeld(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	e := start(t, thousand, func(c *ratelimit.Config) { c.Metrics = registry })
	e.ask(t, ask{id: "first", user: "u", maxTokens: "100", prompt: 120})
	e.ask(t, ask{id: "second", user: "u", maxTokens: "300"})
	e.ask(t, ask{id: "third", user: "u", maxTokens: "900"})
	if err := e.service.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := `
		# HELP gateway_rate_limit_total Requests that our own Envoy asked about, by what a limit or a balance said; those that are not counted at all are not here.
		# TYPE gateway_rate_limit_total counter
		gateway_rate_limit_total{outcome="allowed"} 2
		gateway_rate_limit_total{outcome="blocked"} 1
		# HELP leaky_ratelimit_held_tokens Tokens in holds that are not settled yet, as of the last sweep; each replica tells the whole.
		# TYPE leaky_ratelimit_held_tokens gauge
		leaky_ratelimit_held_tokens 430
		# HELP leaky_ratelimit_holds_live Holds not settled yet, as of the last sweep.
		# TYPE leaky_ratelimit_holds_live gauge
		leaky_ratelimit_holds_live 2
	`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "gateway_rate_limit_total", "leaky_ratelimit_held_tokens",
		"leaky_ratelimit_holds_live"); err != nil {
		t.Error(err)
	}
	if got := gathered(t, registry, "leaky_ratelimit_oldest_hold_seconds"); got <= 0 {
		t.Errorf("want an age of the oldest hold, got %v", got)
	}
	for _, id := range []string{"first", "second"} {
		e.settle(t, "user:u", id, 5)
	}
	if err := e.service.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"leaky_ratelimit_held_tokens", "leaky_ratelimit_oldest_hold_seconds"} {
		if got := gathered(t, registry, name); got != 0 {
			t.Errorf("%s: want 0 after the calls, got %v", name, got)
		}
	}
}

// gathered is a gauge without labels.
func gathered(t *testing.T, from prometheus.Gatherer, name string) float64 {
	t.Helper()
	all, err := from.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range all {
		if family.GetName() == name {
			return family.GetMetric()[0].GetGauge().GetValue()
		}
	}
	t.Fatalf("%s is not exposed", name)
	return 0
}
