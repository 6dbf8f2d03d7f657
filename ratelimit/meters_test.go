package ratelimit_test

import (
	"testing"
	"time"

	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/google/uuid"

	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/ratelimit"
)

// TestAPoolThatRedisLostWaitsForTheMeters: Redis is empty while NATS stores nothing, so that the books do
// not know yet what was spent. It is not spent again; a purchase that the stream tells of changes nothing
// of that; and once the meter has published, the books' word counts.
func TestAPoolThatRedisLostWaitsForTheMeters(t *testing.T) {
	t.Parallel()
	server := testenv.RedisServer(t)
	l := &ledger{}
	l.set(prepaid("user:ann", 300, 1))
	e := start(t, thousand, asking(l), func(c *ratelimit.Config) { c.RedisURL, c.Prefix, c.Timeout = server.URL(), "", 3*time.Second })
	empty := server.Snapshot()
	e.run(t)
	tell := func(behind int64, problem string) {
		t.Helper()
		if _, err := e.limiter.Settle(t.Context(), &limitpb.SettleRequest{Meter: "edge-1", BehindUs: behind, Unwritable: problem}); err != nil {
			t.Fatal(err)
		}
	}
	tell(0, "so that it can be seen that it was heard")
	testenv.Eventually(t, "the meter is known", func() bool { return e.service.Ready(t.Context()) != nil })
	tell(0, "")
	testenv.Eventually(t, "it can write", func() bool { return e.service.Ready(t.Context()) == nil })
	id := uuid.NewString()
	if r := e.ask(t, ask{id: id, user: "ann", maxTokens: "250"}); r.GetOverallCode() != rls.RateLimitResponse_OK {
		t.Fatal(r)
	}
	e.settle(t, "user:ann", id, 250)
	testenv.Eventually(t, "a mark of time in Redis", func() bool {
		n, err := server.Client().Get(t.Context(), "{*}:beat").Int()
		return err == nil && n > 0
	})

	empty()
	admitted := func(tokens string) (code rls.RateLimitResponse_Code, err error) {
		r, err := e.envoy.ShouldRateLimit(t.Context(), ask{id: uuid.NewString(), user: "ann", maxTokens: tokens}.request())
		return r.GetOverallCode(), err
	}
	tell(int64(1e9), "") // not since long before
	if code, err := admitted("250"); err == nil && code == rls.RateLimitResponse_OK {
		t.Fatal("what was spent is spent again")
	}
	if err := e.service.SetBalance(t.Context(), prepaid("user:ann", 400, 2)); err == nil {
		t.Error("want the stream's word to wait, too")
	}
	if code, err := admitted("250"); err == nil && code == rls.RateLimitResponse_OK {
		t.Fatal("what was spent is spent again after a purchase")
	}
	l.set(spent(prepaid("user:ann", 400, 2), 250))
	tell(0, "")
	testenv.Eventually(t, "what is left is there", func() bool {
		code, err := admitted("140")
		return err == nil && code == rls.RateLimitResponse_OK
	})
	if code, err := admitted("20"); err != nil || code != rls.RateLimitResponse_OVER_LIMIT {
		t.Errorf("want no more than that, got %s, %v", code, err)
	}
}
