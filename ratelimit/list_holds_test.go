package ratelimit_test

import (
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/ratelimit"
)

func TestHoldsAreListed(t *testing.T) {
	t.Parallel()
	e := start(t, thousand)
	for _, a := range []ask{{id: "first", maxTokens: "10"}, {id: "second", maxTokens: "20"}, {id: "settled", maxTokens: "5"},
		{id: "other", user: "bob", maxTokens: "30"}} {
		e.ask(t, a)
	}
	e.settle(t, "user:ann", "settled", 5)
	list := func(account string, limit int64) *limitpb.ListHoldsResponse {
		t.Helper()
		r, err := e.limiter.ListHolds(t.Context(), &limitpb.ListHoldsRequest{Account: account, Limit: limit})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := list("", 0); len(r.GetHolds()) != 3 || r.GetMore() || r.GetHolds()[0].GetFacts().GetRequestId() != "first" ||
		r.GetHolds()[0].GetHeld() != 10 {
		t.Errorf("want three holds, oldest first, got %v", r)
	}
	if r := list("user:bob", 0); len(r.GetHolds()) != 1 || r.GetHolds()[0].GetFacts().GetModel() != "gpt-4o" ||
		r.GetHolds()[0].GetExpiresUs() <= 0 {
		t.Errorf("want bob's hold, got %v", r)
	}
	if r := list("", 1); len(r.GetHolds()) != 1 || !r.GetMore() {
		t.Errorf("want one hold and word of more, got %v", r)
	}
	if _, err := e.limiter.ListHolds(t.Context(), &limitpb.ListHoldsRequest{Limit: 10_001}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("want InvalidArgument, got %v", err)
	}
}

// TestRenewedHoldsLiveOn past the life they began with.
func TestRenewedHoldsLiveOn(t *testing.T) {
	t.Parallel()
	var clock atomic.Int64
	clock.Store(time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC).UnixMicro())
	e := start(t, thousand, func(c *ratelimit.Config) { c.Now = clock.Load })
	e.ask(t, ask{id: "long", maxTokens: "10"})
	e.ask(t, ask{id: "short", maxTokens: "10"})
	clock.Add((6 * time.Minute).Microseconds())
	r, err := e.limiter.Renew(t.Context(), &limitpb.RenewRequest{Renewals: []*limitpb.Renewal{{RequestId: "long", Account: "user:ann"},
		{RequestId: "none", Account: "user:ann"}}})
	if err != nil || r.GetRenewed() != 1 {
		t.Fatalf("want one renewed, got %v, %v", r, err)
	}
	clock.Add((6 * time.Minute).Microseconds())
	if err := e.service.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if events := e.events.all(); len(events) != 1 || events[0].RequestID != "short" {
		t.Errorf("want the hold that was not renewed expired, got %v", events)
	}
	if s := e.settle(t, "user:ann", "long", 3); s.GetStatus() != limitpb.Settled_SETTLED {
		t.Errorf("want the other settled, got %v", s)
	}
}

// TestACallerOfHoldSaysHowLongAndWhatThen whatever the policy is for Envoy's calls.
func TestACallerOfHoldSaysHowLongAndWhatThen(t *testing.T) {
	t.Parallel()
	var clock atomic.Int64
	clock.Store(time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC).UnixMicro())
	e := start(t, thousand, func(c *ratelimit.Config) { c.Now = clock.Load })
	hold := func(id string, life time.Duration, release bool) {
		t.Helper()
		r, err := e.limiter.Hold(t.Context(), &limitpb.HoldRequest{Facts: &limitpb.Facts{RequestId: id, User: "ann", Provider: "openai"},
			InputTokens: 100,
			LifetimeUs:  life.Microseconds(), ReleaseExpired: release})
		if err != nil || !r.GetAdmitted() {
			t.Fatalf("%s: want it held, got %v, %v", id, r, err)
		}
	}
	hold("as-envoy", 0, false)
	hold("released", time.Minute, true)
	hold("charged", time.Minute, false)
	clock.Add((2 * time.Minute).Microseconds())
	r, err := e.limiter.ListHolds(t.Context(), &limitpb.ListHoldsRequest{})
	if err != nil || len(r.GetHolds()) != 3 {
		t.Fatalf("want three holds, got %v, %v", r, err)
	}
	for _, h := range r.GetHolds() {
		if due := h.GetExpiresUs() < 0; h.GetAgeUs() != (2*time.Minute).Microseconds() || due != (h.GetFacts().GetRequestId() != "as-envoy") {
			t.Errorf("want age 2 min and the short ones due, got %v", h)
		}
	}
	if err := e.service.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	charged := map[string]int64{}
	for _, event := range e.events.all() {
		charged[event.RequestID] = event.Charged
	}
	if len(charged) != 1 || charged["charged"] != 100 {
		t.Errorf("want the charged one told of alone, got %v", charged)
	}
	if b := e.level(t, "ann"); b.GetHeld() != 100 || b.GetLevel() < 199 || b.GetLevel() > 200 {
		t.Errorf("want 100 held and 100 charged, got %v", b)
	}
	for _, us := range []int64{-1, (25 * time.Hour).Microseconds()} {
		if _, err := e.limiter.Hold(t.Context(), &limitpb.HoldRequest{Facts: &limitpb.Facts{RequestId: "x", User: "ann"},
			LifetimeUs: us}); status.Code(err) != codes.InvalidArgument {
			t.Errorf("lifetime %d: want InvalidArgument, got %v", us, err)
		}
	}
}
