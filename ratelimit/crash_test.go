package ratelimit_test

import (
	"testing"
	"time"

	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/ratelimit"
)

// TestHoldsOutliveRedisAndRateLimit kills both in the middle of calls: holds are there
// again, are seen, can be settled by another process, and expire with an event.
func TestHoldsOutliveRedisAndRateLimit(t *testing.T) {
	t.Parallel()
	server := testenv.RedisServer(t)
	on := func(c *ratelimit.Config) { c.RedisURL, c.Prefix = server.URL(), "" }
	first := start(t, thousand, on)
	for _, id := range []string{"settled", "running", "lost"} {
		first.ask(t, ask{id: id, maxTokens: "100"})
	}
	first.settle(t, "user:ann", "settled", 30)
	server.Kill()
	server.Restart()

	second := start(t, thousand, on)
	listed := func() map[string]int64 {
		t.Helper()
		r, err := second.limiter.ListHolds(t.Context(), &limitpb.ListHoldsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		held := map[string]int64{}
		for _, h := range r.GetHolds() {
			held[h.GetFacts().GetRequestId()] = h.GetHeld()
		}
		return held
	}
	if held := listed(); len(held) != 2 || held["running"] != 100 || held["lost"] != 100 {
		t.Fatalf("want the two running calls, got %v", held)
	}
	if b := second.level(t, "ann"); b.GetHeld() != 200 || b.GetLevel() < 229 || b.GetLevel() > 230 {
		t.Errorf("want 200 held and 30 charged, got %v", b)
	}
	if s := second.settle(t, "user:ann", "settled", 30); s.GetStatus() != limitpb.Settled_DUPLICATE {
		t.Errorf("want the settlement of before known, got %v", s)
	}
	if s := second.settle(t, "user:ann", "running", 40); s.GetStatus() != limitpb.Settled_SETTLED {
		t.Errorf("want the hold of before settled, got %v", s)
	}
	if s := second.settle(t, "user:ann", "never", 40); s.GetStatus() != limitpb.Settled_UNKNOWN {
		t.Errorf("want an unknown hold, got %v", s)
	}

	later := start(t, thousand, on, func(c *ratelimit.Config) { c.Now = func() int64 { return time.Now().Add(time.Hour).UnixMicro() } })
	if err := later.service.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if events := later.events.all(); len(events) != 1 || events[0].RequestID != "lost" || events[0].Charged != 100 {
		t.Errorf("want the call that nobody settled charged, with an event, got %v", events)
	}
	if held := listed(); len(held) != 0 {
		t.Errorf("want nothing held any more, got %v", held)
	}
}
