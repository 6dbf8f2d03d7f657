package ratelimit_test

import (
	"encoding/json"
	"testing"

	common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/ratelimit"
)

// plain is a request of our own Envoy that uses no tokens.
func plain(address string) *rls.RateLimitRequest {
	return inDomain("leaky", &common.RateLimitDescriptor{Entries: []*common.RateLimitDescriptor_Entry{entry("count", "requests"),
		entry("remote_address", address)}})
}

// TestWhoIsRefusedAsksRedisOnceASecond kills Redis after a refusal: it is repeated for a second, as it
// was, and nobody else's request is answered.
func TestWhoIsRefusedAsksRedisOnceASecond(t *testing.T) {
	t.Parallel()
	server := testenv.RedisServer(t)
	e, now := foreignEnv(t, shop, func(c *ratelimit.Config) { c.RedisURL, c.Others.Local = server.URL(), true })
	ask := func(q *rls.RateLimitRequest) (*rls.RateLimitResponse, error) {
		return e.envoy.ShouldRateLimit(t.Context(), q)
	}
	for i := range 4 {
		if r, err := ask(plain("192.0.2.1")); err != nil || over(r) != (i == 3) {
			t.Fatalf("request %d: %v, %v", i+1, r, err)
		}
	}
	for _, d := range []*common.RateLimitDescriptor{of("leaky", "ann", 101), of("leaky", "ann", 0), of("admitted", "ann", 8), of("admitted", "ann", 5),
		of("admitted", "bob", 8)} {
		e.asked(t, d)
	}
	server.Kill()
	now.Add(900_000)
	r, err := ask(plain("192.0.2.1"))
	if err != nil || !over(r) {
		t.Fatalf("refused once more: got %v, %v", r, err)
	}
	var body struct{ RetryAfterSeconds int }
	if err := json.Unmarshal(r.GetRawBody(), &body); err != nil || body.RetryAfterSeconds < 3590 || headers(r)["x-ratelimit-limit"] != "3" ||
		headers(r)["x-ratelimit-remaining"] != "0" {
		t.Errorf("want the answer that Redis gave: %s %v, %v", r.GetRawBody(), headers(r), err)
	}
	for name, d := range map[string]*common.RateLimitDescriptor{"is there room in the bucket?": of("leaky", "ann", 0),
		"more than fits": of("admitted", "ann", 3)} {
		if r := e.asked(t, d); !over(r) || r.GetStatuses()[0].GetCode() != rls.RateLimitResponse_OVER_LIMIT {
			t.Errorf("%s: want it refused, got %v", name, r)
		}
	}
	for name, q := range map[string]*rls.RateLimitRequest{
		"another address":            plain("192.0.2.2"),
		"hits that a bucket counts":  inDomain("shop", of("leaky", "ann", 1)),
		"what may fit":               inDomain("shop", of("admitted", "ann", 2)),
		"somebody who was not there": inDomain("shop", of("admitted", "bob", 5)),
		"a sibling nobody asked for": inDomain("shop", of("admitted", "ann", 5), of("narrow", "ann", 1)),
	} {
		if r, err := ask(q); err == nil {
			t.Errorf("%s: answered without Redis: %v", name, r)
		}
	}
	now.Add(100_000)
	if r, err := ask(plain("192.0.2.1")); err == nil {
		t.Errorf("after a second it was answered without Redis: %v", r)
	}
}

// TestRefusedAgainIsAsRedisSays hammers a limit that drains: each answer is that of a service which
// remembers nothing, at most 50 ms later.
func TestRefusedAgainIsAsRedisSays(t *testing.T) {
	t.Parallel()
	const fast = `{domain: shop, descriptors: [{key: k, rate_limit: {unit: second, requests_per_unit: 2},
		metadata: {rate_limit_policy: {algorithm: leaky_bucket, burst: 3, count: admitted}}}]}`
	e, now := foreignEnv(t, fast, func(c *ratelimit.Config) { c.Others.Local = true })
	admitted, began := 0, now.Load()
	for range 1000 {
		if !over(e.asked(t, of("k", "x", 1))) {
			admitted++
		}
		now.Add(10_000)
	}
	most := 3 + int(2*(now.Load()-began)/1e6)
	if admitted > most || admitted < most-1 {
		t.Errorf("%d admitted in 10 s, want %d", admitted, most)
	}
}
