package ratelimit_test

import (
	"testing"

	common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/ratelimit"
)

// TestFullWindowsCostNoRedisCall kills Redis and goes on to refuse whom it knows to be above
// their limit, until the window ends, and nobody else.
func TestFullWindowsCostNoRedisCall(t *testing.T) {
	t.Parallel()
	server := testenv.RedisServer(t)
	e, now := foreignEnv(t, shop, func(c *ratelimit.Config) { c.RedisURL, c.Others.Local = server.URL(), true })
	for range 3 {
		e.asked(t, of("narrow", "ann", 1))
		e.asked(t, of("leaky", "ann", 101))
	}
	back := of("narrow", "bob", 2)
	e.asked(t, back)
	e.asked(t, back) // 4 of 2
	if e.asked(t, of("narrow", "bob", 0)); !over(e.asked(t, of("narrow", "bob", 0))) {
		t.Error("above the limit, asked with 0: admitted")
	}
	back.IsNegativeHits = true
	e.asked(t, back) // 2 of 2 again: no longer known to be full
	if over(e.asked(t, of("narrow", "bob", 0))) {
		t.Error("after a refund: refused")
	}
	server.Kill()
	for _, hits := range []int64{1, 0, 7} {
		r := e.asked(t, of("narrow", "ann", hits))
		if one := r.GetStatuses()[0]; !over(r) || one.GetCode() != rls.RateLimitResponse_OVER_LIMIT || one.GetLimitRemaining() != 0 ||
			one.GetDurationUntilReset().GetSeconds() != 3600 {
			t.Errorf("%d hits: want a refusal as by Redis, got %v", hits, r)
		}
	}
	for name, ds := range map[string][]*common.RateLimitDescriptor{
		"another value":            {of("narrow", "carl", 1)},
		"a sibling that has room":  {of("narrow", "ann", 1), of("window", "ann", 1)},
		"a bucket, which leaks":    {of("leaky", "ann", 1)},
		"a refund, which may help": {{Entries: of("narrow", "ann", 1).GetEntries(), HitsAddend: back.GetHitsAddend(), IsNegativeHits: true}},
	} {
		if r, err := e.envoy.ShouldRateLimit(t.Context(), inDomain("shop", ds...)); err == nil {
			t.Errorf("%s was answered without Redis: %v", name, r)
		}
	}
	now.Add(3600e6)
	if r, err := e.envoy.ShouldRateLimit(t.Context(), inDomain("shop", of("narrow", "ann", 1))); err == nil {
		t.Errorf("in the next window it was answered without Redis: %v", r)
	}
}
