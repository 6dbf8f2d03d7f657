package xds_test

import (
	"strconv"
	"strings"
	"testing"

	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/otlptest"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/internal/tracing"
)

// traced makes a gateway whose Envoy keeps the spans of a share of the calls.
func traced(t *testing.T, sample float64) (*gateway, *otlptest.Collector) {
	t.Helper()
	collector, err := otlptest.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(collector.Stop)
	g := start(t, func(c *config.Config) { c.Tracing.OTLP, c.Tracing.Sample = collector.URL, sample }, nil)
	g.limit.set(admit(nil))
	g.back.set(says("application/json", chatAnswer))
	return g, collector
}

// TestTheMeterKnowsWhatEnvoyChose: the meter works out by itself of which calls Envoy keeps the spans.
// The last call is one of those, so that its span comes after all others'.
func TestTheMeterKnowsWhatEnvoyChose(t *testing.T) {
	t.Parallel()
	const sample = 0.5
	g, collector := traced(t, sample)
	chosen := map[string]bool{}
	for i := 0; i < 30 || !chosen["last"]; i++ {
		headers := []string{}
		if i%3 == 1 { // of a caller who has a trace, and says that it is kept or not
			headers = []string{"traceparent", "00-" + tracing.Derived(strconv.Itoa(i), "").Trace.String() + "-b7ad6b7169203331-0" + strconv.Itoa(i%2)}
		}
		if g.limit.set(admit(nil)); i%3 == 2 {
			g.limit.set(refuseAll)
		}
		a := g.do(t, "POST", chatPath, body(""), headers...)
		_, l := g.rawLine(t, a.header.Get("x-request-id"))
		ids, ok := tracing.IDsOf(l.TraceID, l.SpanID)
		if !ok || l.ID[14] != '4' {
			t.Fatalf("call %d: want ids of a span and a random UUID, got %q %q %q", i, l.TraceID, l.SpanID, l.ID)
		}
		if i%3 == 1 && !strings.Contains(headers[1], l.TraceID) {
			t.Errorf("call %d: want the caller's trace to go on, got %s", i, l.TraceID)
		}
		chosen[l.SpanID] = tracing.Chosen(ids.Trace, tracing.Share(sample))
		chosen["last"] = chosen[l.SpanID]
		if i >= 29 && chosen["last"] {
			delete(chosen, "last")
			testenv.Eventually(t, "the last call's span", func() bool { return sent(collector)[l.SpanID] })
			break
		}
	}
	got := sent(collector)
	kept := 0
	for span, want := range chosen {
		if got[span] != want {
			t.Errorf("span %s: want it sent: %v, got %v", span, want, got[span])
		}
		if want {
			kept++
		}
	}
	if kept == 0 || kept == len(chosen) {
		t.Errorf("want some calls of %d to be chosen, got %d", len(chosen), kept)
	}
}

// sent are the ids of the spans that came.
func sent(c *otlptest.Collector) map[string]bool {
	all := map[string]bool{}
	for _, s := range c.All() {
		all[s.ID()] = true
	}
	return all
}

func refuseAll(*rlsv3.RateLimitRequest) (*rlsv3.RateLimitResponse, error) {
	return &rlsv3.RateLimitResponse{OverallCode: rlsv3.RateLimitResponse_OVER_LIMIT}, nil
}

// TestNoSecretIsInEnvoysSpans: neither a key in a header, nor one in the query, nor the body.
func TestNoSecretIsInEnvoysSpans(t *testing.T) {
	t.Parallel()
	g, collector := traced(t, 1)
	g.back.set(says("application/json", gemini))
	g.do(t, "POST", genPath+"?key=the-secret", `{"contents":[{"parts":[{"text":"the-prompt"}]}]}`, "x-api-key", "the-secret", "cookie", "the-secret")
	g.do(t, "POST", chatPath, body(`"messages":[{"role":"user","content":"the-prompt"}]`), "traceparent", "garbage", "x-api-key", "the-secret")
	a := g.do(t, "POST", genPath+"?key=the-secret", `{}`)
	id := a.header.Get("x-request-id")
	testenv.Eventually(t, "the spans of the last call", func() bool {
		return strings.Contains(otlptest.Tree(collector.Request(id)), "call provider-gemini")
	})
	want := `envoy: POST gemini-generate:gemini/gemini-2.5-flash
  envoy: async envoy.service.auth.v3.Authorization.Check egress
`
	if tree := otlptest.Tree(collector.Request(id)); !strings.HasPrefix(tree, want) {
		t.Errorf("want a tree that begins with\n%s, got\n%s", want, tree)
	}
	for _, s := range collector.All() {
		if text := s.String(); strings.Contains(text, "the-secret") || strings.Contains(text, "the-prompt") {
			t.Errorf("a secret or a prompt is in a span: %s", text)
		}
	}
}
