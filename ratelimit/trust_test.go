package ratelimit_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/balance"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/ratelimit"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
)

// set is what the books say of a pool from now on.
func (l *ledger) set(s balance.State) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pools == nil {
		l.pools = map[string]balance.State{}
	}
	l.pools[s.Account] = s
}

func spent(s balance.State, tokens int64) balance.State {
	s.Spent = tokens
	return s
}

// run runs the service's loops until the test ends.
func (e *env) run(t *testing.T) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- e.service.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ran; err != nil {
			t.Error(err)
		}
	})
}

func (e *env) admits(t *testing.T, user, tokens string) bool {
	t.Helper()
	return e.ask(t, ask{id: uuid.NewString(), user: user, maxTokens: tokens}).GetOverallCode() == rls.RateLimitResponse_OK
}

// TestARefusalForMoneyIsCheckedWithTheBooks: a purchase whose event was lost admits all the same, and
// who has none is refused without a question for each call.
func TestARefusalForMoneyIsCheckedWithTheBooks(t *testing.T) {
	t.Parallel()
	begun := time.Now()
	l := &ledger{}
	l.set(prepaid("user:ann", 100, 1))
	l.set(prepaid("user:poor", 5, 1))
	e := start(t, thousand, asking(l))
	for _, state := range []balance.State{prepaid("user:ann", 10, 1), prepaid("user:poor", 5, 1)} { // told long ago
		if err := e.service.SetBalance(t.Context(), state); err != nil {
			t.Fatal(err)
		}
	}
	l.set(prepaid("user:ann", 500, 2))
	if !e.admits(t, "ann", "400") {
		t.Error("who has paid is refused, though the books say what they own")
	}
	for range 20 {
		if e.admits(t, "poor", "10") {
			t.Error("who has none is admitted")
		}
	}
	if n := l.questions(); n < 2 || n > 2+askedAgain(begun) {
		t.Errorf("want one question for each pool, got %d", n)
	}
}

// TestARefusalStandsWhileTheBooksAreAway.
func TestARefusalStandsWhileTheBooksAreAway(t *testing.T) {
	t.Parallel()
	l := &ledger{err: context.DeadlineExceeded}
	e := start(t, thousand, asking(l))
	if err := e.service.SetBalance(t.Context(), prepaid("user:ann", 10, 1)); err != nil {
		t.Fatal(err)
	}
	r := e.ask(t, ask{maxTokens: "400"})
	if r.GetOverallCode() != rls.RateLimitResponse_OVER_LIMIT || headers(r)["x-leaky-balance"] != "10" {
		t.Errorf("want what Redis says, got %v", r)
	}
}

// TestAnOlderRedisIsNotBelieved restores Redis from a copy that is older than purchases, charges
// and settlements: nobody spends twice, from the first call on; who has paid is admitted, and what
// the copy holds for calls that are over is in nobody's way, also where the clock of Redis is another.
func TestAnOlderRedisIsNotBelieved(t *testing.T) {
	t.Parallel()
	for name, ahead := range map[string]time.Duration{"by the same clock": 0, "by a clock that is ahead": time.Hour} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			olderRedis(t, ahead)
		})
	}
}

func olderRedis(t *testing.T, ahead time.Duration) {
	t.Helper()
	server := testenv.RedisServer(t)
	l := &ledger{}
	for _, user := range []string{"user:spender", "user:buyer", "user:holder"} {
		l.set(prepaid(user, 300, 1))
	}
	e := start(t, thousand, asking(l), tierBalance(config.BalanceRequired), func(c *ratelimit.Config) {
		c.RedisURL, c.Prefix, c.Now = server.URL(), "", func() int64 { return time.Now().Add(ahead).UnixMicro() }
	})
	e.run(t)
	held := uuid.NewString()
	for user, id := range map[string]string{"holder": held, "spender": uuid.NewString(), "buyer": uuid.NewString()} {
		if r := e.ask(t, ask{id: id, user: user, maxTokens: "250"}); r.GetOverallCode() != rls.RateLimitResponse_OK {
			t.Fatalf("%s: %v", user, r)
		}
		if user != "holder" {
			e.settle(t, "user:"+user, id, 0)
		}
	}
	testenv.Eventually(t, "a mark of time in Redis", func() bool {
		n, err := server.Client().Get(t.Context(), "{*}:beat").Int()
		return err == nil && n > 1 // so that the answer to the first is heard
	})
	restore := server.Snapshot()
	before, err := server.Client().Get(t.Context(), "{*}:beat").Int()
	if err != nil {
		t.Fatal(err)
	}

	e.settle(t, "user:holder", held, 20)
	l.set(spent(prepaid("user:holder", 300, 1), 20))
	id := uuid.NewString()
	e.ask(t, ask{id: id, user: "spender", maxTokens: "290"})
	e.settle(t, "user:spender", id, 290)
	l.set(spent(prepaid("user:spender", 300, 1), 290))
	bought := prepaid("user:buyer", 900, 2)
	l.set(bought)
	if err := e.service.SetBalance(t.Context(), bought); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, "a second passes", func() bool {
		n, err := server.Client().Get(t.Context(), "{*}:beat").Int()
		return err == nil && n > before+1
	})
	l.fail(context.DeadlineExceeded)
	restore()
	for range 5 { // while the books are away nobody knows
		r, err := e.envoy.ShouldRateLimit(t.Context(), ask{id: uuid.NewString(), user: "spender", maxTokens: "100"}.request())
		if err == nil && r.GetOverallCode() == rls.RateLimitResponse_OK {
			t.Error("what was spent is spent again while the books are away")
		}
	}
	l.fail(nil)

	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			r, err := e.envoy.ShouldRateLimit(t.Context(), ask{id: uuid.NewString(), user: "spender", maxTokens: "100"}.request())
			if err == nil && r.GetOverallCode() == rls.RateLimitResponse_OK {
				t.Error("what was spent is spent again")
			}
		})
	}
	wg.Wait()
	testenv.Eventually(t, "who has paid is admitted", func() bool { return e.admits(t, "buyer", "800") })
	testenv.Eventually(t, "a hold of a call that is over is released", func() bool { return e.admits(t, "holder", "270") })
}

// TestARedisThatStartedAgainIsAskedForAllPools: what the token service said meanwhile was lost, and nobody
// calls with those pools.
func TestARedisThatStartedAgainIsAskedForAllPools(t *testing.T) {
	t.Parallel()
	server := testenv.RedisServer(t)
	l := &ledger{}
	l.set(prepaid("user:ann", 300, 1))
	e := start(t, thousand, asking(l), func(c *ratelimit.Config) { c.RedisURL, c.Prefix = server.URL(), "" })
	if err := e.service.SetBalance(t.Context(), prepaid("user:ann", 300, 1)); err != nil {
		t.Fatal(err)
	}
	e.run(t)
	redis := server.Client()
	testenv.Eventually(t, "a mark of time in Redis", func() bool {
		n, err := redis.Get(t.Context(), "{*}:beat").Int()
		return err == nil && n > 1 // so that the answer to the first is heard
	})
	testenv.Eventually(t, "the pools of the begin are asked for", func() bool { return l.questions() > 0 })
	l.set(prepaid("user:ann", 900, 2))
	server.Restart()
	testenv.Eventually(t, "the pool is asked for anew", func() bool {
		pool, err := redis.Get(t.Context(), "{user:ann}:p:openai").Result()
		return err == nil && strings.HasPrefix(pool[1:], bucket.Pack(2, 900))
	})
}

// TestACallThatBeganAfterALossKeepsItsHold: it began before anybody noticed that Redis was emptied.
func TestACallThatBeganAfterALossKeepsItsHold(t *testing.T) {
	t.Parallel()
	server := testenv.RedisServer(t)
	e := start(t, thousand, asking(&ledger{}), tierBalance(config.BalanceNone), func(c *ratelimit.Config) { c.RedisURL, c.Prefix = server.URL(), "" })
	e.run(t)
	redis := server.Client()
	beat := func() int64 {
		n, _ := redis.Get(t.Context(), "{*}:beat").Int64() // 0: there is none
		return n
	}
	testenv.Eventually(t, "a mark of time in Redis", func() bool { return beat() > 1 })
	if err := redis.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	running := uuid.NewString()
	if r := e.ask(t, ask{id: running, user: "ann", maxTokens: "250"}); r.GetOverallCode() != rls.RateLimitResponse_OK {
		t.Fatal(r)
	}
	testenv.Eventually(t, "the loss is noticed and holds of before are released", func() bool {
		lost, err := redis.Keys(t.Context(), "{*}:lost:*").Result()
		return err == nil && len(lost) == 1 && beat() > 2
	})
	if got := e.level(t, "ann").GetLevel(); got < 249 {
		t.Errorf("want the hold of 250 to stand, got %v", got)
	}
	e.settle(t, "user:ann", running, 20)
	if got := e.level(t, "ann").GetLevel(); got < 19 || got > 20 {
		t.Errorf("want the 20 that were used, got %v", got)
	}
}

// TestHoldsOutliveAServerOfACluster: one that starts again is asked for its pools anew, and what calls hold that
// run meanwhile stands, so that nobody else gets their room and each of them is charged in the end.
func TestHoldsOutliveAServerOfACluster(t *testing.T) {
	t.Parallel()
	server := testenv.RedisCluster(t)
	l := &ledger{}
	l.set(prepaid("user:other", 300, 1))
	e := start(t, thousand, asking(l), func(c *ratelimit.Config) {
		c.RedisURL, c.Prefix = strings.Replace(server.URL(), "redis://", "redis+cluster://", 1), ""
	})
	e.run(t)
	held := uuid.NewString()
	if r := e.ask(t, ask{id: held, user: "holder", maxTokens: "250"}); r.GetOverallCode() != rls.RateLimitResponse_OK {
		t.Fatal(r)
	}
	if err := e.service.SetBalance(t.Context(), prepaid("user:other", 300, 1)); err != nil {
		t.Fatal(err)
	}
	redis := server.Client()
	pool := func() string { return redis.Get(t.Context(), "{user:other}:p:openai").Val() }
	before := pool()
	testenv.Eventually(t, "a mark of time in Redis", func() bool {
		n, err := redis.Get(t.Context(), "{*}:beat").Int()
		return err == nil && n > 1 // so that the answer to the first is heard
	})
	l.set(prepaid("user:other", 400, 2))
	server.Restart()
	testenv.Eventually(t, "the pool that nobody calls with is asked for anew", func() bool { return pool() != "" && pool() != before })
	if got := e.level(t, "holder").GetLevel(); got < 249 {
		t.Errorf("want the hold of 250 to stand, got %v", got)
	}
	e.settle(t, "user:holder", held, 20)
	if got := e.level(t, "holder").GetLevel(); got < 19 || got > 20 {
		t.Errorf("want the 20 that were used, got %v", got)
	}
}
