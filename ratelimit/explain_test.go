package ratelimit_test

import (
	"fmt"
	"slices"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/ratelimit"
)

func remembering(n int) option { return func(c *ratelimit.Config) { c.Explain = n } }

func (e *env) explain(tb testing.TB, id string) *limitpb.ExplainResponse {
	tb.Helper()
	r, err := e.limiter.Explain(tb.Context(), &limitpb.ExplainRequest{RequestId: id})
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

func TestExplainTellsWhatDecided(t *testing.T) {
	t.Parallel()
	e := start(t, thousand, remembering(10))
	e.ask(t, ask{id: "small", maxTokens: "900", prompt: 120})
	e.ask(t, ask{id: "large", maxTokens: "900"})
	e.ask(t, ask{id: "huge", maxTokens: "5000"})
	e.ask(t, ask{id: "odd", maxTokens: "-1"})

	r := e.explain(t, "small")
	if !r.GetFound() || !r.GetAdmitted() || r.GetHeld() != 930 || r.GetOutput() != 900 || r.GetAccount() != "user:ann" ||
		r.GetFacts().GetModel() != "gpt-4o" ||
		r.GetHold().GetState() != limitpb.HoldState_HELD || r.GetDecidedUnixUs() == 0 || r.GetRefusal() != limitpb.Refusal_REFUSAL_UNSPECIFIED ||
		len(r.GetUnmatched()) != 0 {
		t.Errorf("admitted: %v", r)
	}
	if b := r.GetBuckets(); len(b) != 2 || b[0].GetRule() != "user-tokens" || b[0].GetHeld() != 930 || b[0].GetCapacity() != 1000 ||
		b[1].GetRule() != "user-requests" {
		t.Errorf("want the levels after the decision, got %v", b)
	}
	e.settle(t, "user:ann", "small", 40)
	if h := e.explain(t, "small").GetHold(); h.GetState() != limitpb.HoldState_SETTLED || h.GetCharged() != 40 || h.GetHeld() != 930 {
		t.Errorf("want the hold as it is now, got %v", h)
	}
	for id, wait := range map[string]bool{"large": true, "huge": false} {
		r := e.explain(t, id)
		if r.GetAdmitted() || r.GetRefusal() != limitpb.Refusal_REFUSAL_LIMIT || r.GetRule() != "user-tokens" ||
			r.GetRetryAfterUs() > 0 != wait || r.GetHeld() != 0 ||
			r.GetHold().GetState() != limitpb.HoldState_UNKNOWN {
			t.Errorf("%s: %v", id, r)
		}
	}
	if r := e.explain(t, "odd"); !r.GetFound() || r.GetAdmitted() || r.GetNote() == "" {
		t.Errorf("want the mistake told, got %v", r)
	}
	if r := e.explain(t, "never-asked"); r.GetFound() {
		t.Errorf("want nothing found, got %v", r)
	}
	if _, err := e.limiter.Explain(t.Context(), &limitpb.ExplainRequest{RequestId: "a b"}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("want InvalidArgument, got %v", err)
	}
}

// TestExplainForgetsTheOldest and keeps the first decision about a request.
func TestExplainForgetsTheOldest(t *testing.T) {
	t.Parallel()
	e := start(t, thousand, remembering(3))
	for i := range 5 {
		for range 2 {
			e.ask(t, ask{id: fmt.Sprintf("r%d", i), maxTokens: "10"})
		}
	}
	for i := range 5 {
		if got := e.explain(t, fmt.Sprintf("r%d", i)); got.GetFound() != (i >= 2) {
			t.Errorf("r%d: found %t", i, got.GetFound())
		} else if b := got.GetBuckets(); got.GetFound() && b[0].GetHeld() != float64(10*(i+1)) {
			t.Errorf("r%d: want the levels of its first decision, got %v", i, b)
		}
	}
}

func TestExplainNamesShadowRulesAndWhatMatchedNothing(t *testing.T) {
	t.Parallel()
	e := start(t, `
domain: leaky
descriptors:
  - key: count
    value: tokens
    descriptors:
      - {key: user, shadow_mode: true, rate_limit: {name: tried, unit: day, requests_per_unit: 1}, metadata: {rate_limit_policy: {algorithm: leaky_bucket, burst: 10, unit: tokens}}}
`, remembering(3))
	r, err := e.limiter.Hold(t.Context(), &limitpb.HoldRequest{Facts: &limitpb.Facts{RequestId: "a", User: "ann"}, InputTokens: 11,
		Descriptors: []*limitpb.Descriptor{
			{Entries: []*limitpb.Entry{{Key: "count", Value: "tokens"}, {Key: "user", Value: "ann"}}},
			{Entries: []*limitpb.Entry{{Key: "count", Value: "tokens"}, {Key: "team", Value: "x"}}}}})
	if err != nil || !r.GetAdmitted() {
		t.Fatalf("want it admitted, got %v, %v", r, err)
	}
	got := e.explain(t, "a")
	if !slices.Equal(got.GetShadow(), []string{"tried"}) || len(got.GetUnmatched()) != 1 ||
		got.GetUnmatched()[0].GetEntries()[1].GetKey() != "team" {
		t.Errorf("want the shadow rule and the descriptor without a rule, got %v", got)
	}
}

// TestExplainTellsOfAnOutage while it lasts.
func TestExplainTellsOfAnOutage(t *testing.T) {
	t.Parallel()
	server := testenv.RedisServer(t)
	e := start(t, thousand, remembering(3), func(c *ratelimit.Config) {
		c.RedisURL, c.Outage.Default = server.URL(), config.OutageOpen
	})
	server.Kill()
	e.ask(t, ask{id: "blind", maxTokens: "70"})
	if r := e.explain(t, "blind"); !r.GetAdmitted() || r.GetHeld() != 70 || r.GetNote() == "" ||
		r.GetHold().GetState() != limitpb.HoldState_UNKNOWN {
		t.Errorf("want it told that Redis was away, got %v", r)
	}
}
