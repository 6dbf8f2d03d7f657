package ratelimit_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/ratelimit"
)

// TestAPoolThatRedisLostWaitsForTheMeters: Redis is empty while NATS stores nothing, so that the books do
// not know yet what was spent. It is not spent again; a purchase that the stream tells of changes nothing
// of that; and once the meter has published, the books' word counts.
func TestAPoolThatRedisLostWaitsForTheMeters(t *testing.T) {
	t.Parallel()
	e, l, server := owner(t)
	empty := server.Snapshot()
	tell := spends(t, e)
	testenv.Eventually(t, "a mark of time in Redis", func() bool {
		n, err := server.Client().Get(t.Context(), "{*}:beat").Int()
		return err == nil && n > 1 // so that the answer to the first is heard
	})

	empty()
	tell(int64(1e9), "") // not since long before
	if code, err := e.decides(t, "250"); err == nil && code == rls.RateLimitResponse_OK {
		t.Fatal("what was spent is spent again")
	}
	if err := e.service.SetBalance(t.Context(), prepaid("user:ann", 400, 2)); err == nil {
		t.Error("want the stream's word to wait, too")
	}
	if code, err := e.decides(t, "250"); err == nil && code == rls.RateLimitResponse_OK {
		t.Fatal("what was spent is spent again after a purchase")
	}
	l.set(spent(prepaid("user:ann", 400, 2), 250))
	tell(0, "")
	leaves150(t, e)
}

// TestAPoolThatRedisEvictedWaitsForTheMeters: Redis evicts a pool of which nothing is published yet. It is not
// spent again, also not when the stream tells of a purchase; and once the meter has published, the books' word
// counts. Who is new meanwhile waits no longer than that.
func TestAPoolThatRedisEvictedWaitsForTheMeters(t *testing.T) {
	t.Parallel()
	e, l, server := owner(t)
	tell := spends(t, e)
	evict(t, server.Client(), "{user:ann}:p:openai")

	tell(int64(1e9), "")
	if code, err := e.decides(t, "250"); err == nil && code == rls.RateLimitResponse_OK {
		t.Fatal("what was spent is spent again")
	}
	l.set(prepaid("user:ann", 400, 2))
	if err := e.service.SetBalance(t.Context(), prepaid("user:ann", 400, 2)); err != nil {
		t.Error(err)
	}
	if code, err := e.decides(t, "250"); err == nil && code == rls.RateLimitResponse_OK {
		t.Fatal("what was spent is spent again after a purchase")
	}
	l.set(spent(prepaid("user:ann", 400, 2), 250))
	tell(0, "")
	leaves150(t, e)
}

// TestAPoolThatWasFlushedWaitsForTheMeters: an operator empties Redis, whose connections and run id stay. What was
// spent is not spent again by the calls that come before the next look at Redis, also not when the stream
// tells of a purchase.
func TestAPoolThatWasFlushedWaitsForTheMeters(t *testing.T) {
	t.Parallel()
	e, l, server := owner(t)
	tell := spends(t, e)
	testenv.Eventually(t, "a mark of time in Redis", func() bool {
		n, err := server.Client().Get(t.Context(), "{*}:beat").Int()
		return err == nil && n > 1
	})
	if err := server.Client().FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	if err := e.service.SetBalance(t.Context(), prepaid("user:ann", 400, 2)); err == nil {
		t.Error("want the stream's word to wait")
	}
	if code, err := e.decides(t, "250"); err == nil && code == rls.RateLimitResponse_OK {
		t.Fatal("what was spent is spent again")
	}
	l.set(spent(prepaid("user:ann", 300, 1), 250))
	tell(0, "")
	testenv.Eventually(t, "what is left is there", func() bool {
		code, err := e.decides(t, "50")
		return err == nil && code == rls.RateLimitResponse_OK
	})
}

// owner is a service on a Redis of its own whose ledger says that ann has bought 300.
func owner(t *testing.T) (*env, *ledger, *testenv.RedisProcess) {
	t.Helper()
	server, l := testenv.RedisServer(t), &ledger{}
	l.set(prepaid("user:ann", 300, 1))
	e := start(t, thousand, asking(l), func(c *ratelimit.Config) { c.RedisURL, c.Prefix, c.Timeout = server.URL(), "", 3*time.Second })
	return e, l, server
}

// spends runs it, and has ann use 250 of that. tell is what a meter says that it knows.
func spends(t *testing.T, e *env) (tell func(behind int64, problem string)) {
	t.Helper()
	e.run(t)
	tell = meterOf(t, e)
	spend(t, e, 250)
	return tell
}

// leaves150 waits until ann may use nearly all of what is left of 400, and wants no more than that admitted.
func leaves150(t *testing.T, e *env) {
	t.Helper()
	testenv.Eventually(t, "what is left is there", func() bool {
		code, err := e.decides(t, "140")
		return err == nil && code == rls.RateLimitResponse_OK
	})
	if code, err := e.decides(t, "20"); err != nil || code != rls.RateLimitResponse_OVER_LIMIT {
		t.Errorf("want no more than that, got %s, %v", code, err)
	}
}

// meterOf is the words of a meter that the service knows: how far behind it is, in microseconds, and why its
// Envoy cannot write.
func meterOf(t *testing.T, e *env) (tell func(behind int64, problem string)) {
	t.Helper()
	tell = func(behind int64, problem string) {
		t.Helper()
		if _, err := e.limiter.Settle(t.Context(), &limitpb.SettleRequest{Meter: "edge-1", BehindUs: behind, Unwritable: problem}); err != nil {
			t.Fatal(err)
		}
	}
	tell(0, "so that it can be seen that it was heard")
	testenv.Eventually(t, "the meter is known", func() bool { return e.service.Ready(t.Context()) != nil })
	tell(0, "")
	testenv.Eventually(t, "it can write", func() bool { return e.service.Ready(t.Context()) == nil })
	return tell
}

// spend has ann use so much.
func spend(t *testing.T, e *env, tokens int64) {
	t.Helper()
	id := uuid.NewString()
	if r := e.ask(t, ask{id: id, user: "ann", maxTokens: strconv.FormatInt(tokens, 10)}); r.GetOverallCode() != rls.RateLimitResponse_OK {
		t.Fatal(r)
	}
	e.settle(t, "user:ann", id, tokens)
}

// decides is what ann hears who asks for so much, or why they hear nothing.
func (e *env) decides(t *testing.T, tokens string) (code rls.RateLimitResponse_Code, err error) {
	t.Helper()
	r, err := e.envoy.ShouldRateLimit(t.Context(), ask{id: uuid.NewString(), user: "ann", maxTokens: tokens}.request())
	return r.GetOverallCode(), err
}

// evict takes a key as a server does whose memory is full. Chance takes others; here those go that nobody
// needs, which are due first, and the one by hand.
func evict(t *testing.T, client *redis.Client, key string) {
	t.Helper()
	const fillers, each = 64, 64 << 10
	for i := range fillers {
		if err := client.Set(t.Context(), fmt.Sprint("filler", i), strings.Repeat("x", each), time.Second*30).Err(); err != nil {
			t.Fatal(err)
		}
	}
	memory, err := client.InfoMap(t.Context(), "memory").Result()
	if err != nil {
		t.Fatal(err)
	}
	used, err := strconv.Atoi(memory["Memory"]["used_memory"])
	if err != nil {
		t.Fatal(err)
	}
	for _, set := range [][2]string{{"maxmemory-policy", "volatile-ttl"}, {"maxmemory", strconv.Itoa(used - 4*each)}} {
		if err := client.ConfigSet(t.Context(), set[0], set[1]).Err(); err != nil {
			t.Fatal(err)
		}
	}
	testenv.Eventually(t, "keys are evicted", func() bool {
		stats, err := client.InfoMap(t.Context(), "stats").Result()
		return err == nil && stats["Stats"]["evicted_keys"] != "0"
	})
	if n, err := client.Del(t.Context(), key).Result(); err != nil || n != 1 {
		t.Fatal(n, err)
	}
}
