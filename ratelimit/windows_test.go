package ratelimit_test

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/booked"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/ratelimit"
)

// aYear is a window of 1000 tokens of the whole year, and one of requests that the books do not tell apart.
const aYear = `
domain: leaky
descriptors:
  - key: count
    value: tokens
    descriptors:
      - key: user
        rate_limit: {name: tokens-of-the-year, unit: year, requests_per_unit: 1000}
        metadata: {rate_limit_policy: {window: calendar}}
  - key: count
    value: requests
    descriptors:
      - {key: remote_address, rate_limit: {name: per-address, unit: day, requests_per_unit: 1000}}
`

// bookkeeper is analytics in memory: tokens by account.
type bookkeeper struct {
	mu    sync.Mutex
	used  map[string]float64
	asked int
}

func (b *bookkeeper) Tell(_ context.Context, ask booked.Ask) (booked.Answer, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked++
	told := booked.Answer{Used: make([]float64, len(ask.Limits)), Empty: len(b.used) == 0}
	for i, l := range ask.Limits {
		told.Used[i] = b.used[l.Account]
	}
	return told, nil
}

// book is a call that is in the books from now on.
func (b *bookkeeper) book(account string, tokens float64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.used == nil {
		b.used = map[string]float64{}
	}
	b.used[account] += tokens
}

func (b *bookkeeper) questions() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.asked
}

func on(url string, books *bookkeeper) option {
	return func(c *ratelimit.Config) { c.RedisURL, c.Prefix, c.Booked = url, "", books }
}

// call is one that ends at once and is booked.
func (e *env) call(t *testing.T, books *bookkeeper, user, tokens string, charged int64) {
	t.Helper()
	id := uuid.NewString()
	if r := e.ask(t, ask{id: id, user: user, maxTokens: tokens, address: "192.0.2.1"}); r.GetOverallCode() != rls.RateLimitResponse_OK {
		t.Fatalf("%s of %s: %v", tokens, user, r)
	}
	e.settle(t, "user:"+user, id, charged)
	books.book("user:"+user, float64(charged))
}

// fits reports whether a call would be admitted; it uses nothing.
func (e *env) fits(t *testing.T, user, tokens string) bool {
	t.Helper()
	id := uuid.NewString()
	ok := e.ask(t, ask{id: id, user: user, maxTokens: tokens}).GetOverallCode() == rls.RateLimitResponse_OK
	if ok {
		e.settle(t, "user:"+user, id, 0)
	}
	return ok
}

// everywhere runs a test on one server and on a cluster.
func everywhere(t *testing.T, test func(t *testing.T, url string, client *redis.Client)) {
	t.Helper()
	for name, start := range map[string]func(testing.TB) *testenv.RedisProcess{"one server": testenv.RedisServer, "a cluster": testenv.RedisCluster} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := start(t)
			url := server.URL()
			if name == "a cluster" {
				url = strings.Replace(url, "redis://", "redis+cluster://", 1)
			}
			test(t, url, server.Client())
		})
	}
}

// drop takes away the long limits of a user, as a server does that evicts keys.
func drop(t *testing.T, client *redis.Client, user string) {
	t.Helper()
	keys, err := client.Keys(t.Context(), "{user:"+user+"}:b:*").Result()
	if err != nil || len(keys) == 0 {
		t.Fatalf("want buckets of %s, got %v, %v", user, keys, err)
	}
	for _, key := range keys {
		if err := client.Del(t.Context(), key).Err(); err != nil {
			t.Fatal(err)
		}
	}
}

// evicting is a service on a server that takes keys when its memory is full.
func evicting(t *testing.T, url string, client *redis.Client, books *bookkeeper) *env {
	t.Helper()
	for _, set := range [][2]string{{"maxmemory", "100mb"}, {"maxmemory-policy", "allkeys-lru"}} {
		if err := client.ConfigSet(t.Context(), set[0], set[1]).Err(); err != nil {
			t.Fatal(err)
		}
	}
	e := start(t, aYear, on(url, books))
	e.run(t)
	testenv.Eventually(t, "that it evicts is known", func() bool { return e.service.Warning() != nil })
	return e
}

// TestAnEvictedLimitIsCountedAnew before the next call is decided, also where a call that ran brought its
// bucket back; who is new pays nothing for it.
func TestAnEvictedLimitIsCountedAnew(t *testing.T) {
	t.Parallel()
	everywhere(t, func(t *testing.T, url string, client *redis.Client) {
		books := &bookkeeper{}
		e := evicting(t, url, client, books)
		e.call(t, books, "ann", "900", 900)
		drop(t, client, "ann")
		for range 3 {
			if e.admits(t, "ann", "101") {
				t.Error("what was used can be used again")
			}
		}
		e.call(t, books, "ann", "100", 50)

		running := uuid.NewString()
		e.ask(t, ask{id: running, user: "ann", maxTokens: "50"})
		drop(t, client, "ann")
		e.settle(t, "user:ann", running, 20)
		books.book("user:ann", 20)
		testenv.Eventually(t, "what was lost while a call ran is known again", func() bool { return !e.fits(t, "ann", "31") })
		if !e.fits(t, "ann", "30") {
			t.Errorf("want 30 left, got %v", e.level(t, "ann"))
		}
		e.call(t, books, "bob", "1000", 1000)
	})
}

// TestProcessesFindALossAtOnce: two of them are asked by many callers when Redis is emptied, and admit
// together what was left.
func TestProcessesFindALossAtOnce(t *testing.T) {
	t.Parallel()
	server, books := testenv.RedisServer(t), &bookkeeper{}
	processes := []*env{start(t, aYear, on(server.URL(), books)), start(t, aYear, on(server.URL(), books))}
	for _, e := range processes {
		e.run(t)
	}
	processes[0].call(t, books, "ann", "900", 900)
	processes[1].call(t, books, "ann", "50", 50)
	asked := books.questions()
	if err := server.Client().FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	var admitted atomic.Int64
	const callers = 40
	var calls sync.WaitGroup
	for i := range callers {
		calls.Go(func() {
			r, err := processes[i%2].envoy.ShouldRateLimit(t.Context(), ask{id: uuid.NewString(), user: "ann", maxTokens: "10"}.request())
			if err == nil && r.GetOverallCode() == rls.RateLimitResponse_OK {
				admitted.Add(1)
			}
		})
	}
	calls.Wait()
	if n := admitted.Load(); n != 5 {
		t.Errorf("want five calls of 10 for the 50 that are left, got %d", n)
	}
	// Who finds the loss while it is asked for waits for that answer; who found it before and comes late to
	// ask, asks again.
	if n := books.questions() - asked; n >= callers/2 {
		t.Errorf("want some questions of each process, got %d", n)
	}
	if err := server.Client().FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	if processes[0].fits(t, "ann", "51") {
		t.Error("after the second loss: what was used can be used again")
	}
	processes[0].call(t, &bookkeeper{}, "ann", "40", 40) // which the books do not have yet
	asked = books.questions()
	testenv.Eventually(t, "the second process asks for what it does not know", func() bool {
		if processes[1].fits(t, "ann", "11") {
			t.Fatal("the second process took away what the first has counted since")
		}
		return books.questions() > asked
	})
}

// TestACallOfALossIsToldToAllProcesses: what Redis lost of a call that ran is charged by the books, whichever
// process hears of its end and whichever is asked next.
func TestACallOfALossIsToldToAllProcesses(t *testing.T) {
	t.Parallel()
	server, books := testenv.RedisServer(t), &bookkeeper{}
	hears, decides := start(t, aYear, on(server.URL(), books)), start(t, aYear, on(server.URL(), books))
	hears.run(t)
	decides.run(t)
	hears.call(t, books, "ann", "100", 100)
	running := uuid.NewString()
	hears.ask(t, ask{id: running, user: "ann", maxTokens: "900"})
	if err := server.Client().FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	decides.call(t, books, "ann", "100", 0) // it has asked for ann
	if s := hears.settle(t, "user:ann", running, 900); s.GetStatus().String() != "UNKNOWN" {
		t.Fatalf("want the hold lost, got %v", s)
	}
	books.book("user:ann", 900)
	testenv.Eventually(t, "it counts at the other process", func() bool { return !decides.fits(t, "ann", "1") })
}

// TestAClusterThatIsEmptiedIsCountedAnew, also one of its servers alone.
func TestAClusterThatIsEmptiedIsCountedAnew(t *testing.T) {
	t.Parallel()
	url, servers := testenv.RedisOfThree(t)
	for _, server := range servers {
		if err := server.Client().ConfigSet(t.Context(), "cluster-require-full-coverage", "no").Err(); err != nil {
			t.Fatal(err)
		}
	}
	books := &bookkeeper{}
	e := start(t, aYear, on(url, books))
	e.run(t)
	users := []string{"ann", "bob", "cyd", "dan", "eve", "fay"} // on all of the servers
	refused := func(when string) {
		t.Helper()
		for _, user := range users {
			testenv.Eventually(t, when+": "+user+" is refused", func() bool { return !e.fits(t, user, "101") })
		}
	}
	for _, user := range users {
		e.call(t, books, user, "900", 900)
	}
	refused("before")
	for i, server := range servers {
		if err := server.Client().FlushAll(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		refused([]string{"the first", "the second", "the third"}[i] + " is emptied")
	}
	for _, server := range servers {
		if err := server.Client().FlushAll(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
	}
	refused("all are emptied")
	servers[1].Kill() // and another limiter starts meanwhile, which knows nothing yet
	later := start(t, aYear, on(url, books))
	later.run(t)
	testenv.Eventually(t, "accounts of servers that are there are decided about", func() bool {
		decided := 0
		for _, user := range users {
			if r, err := later.envoy.ShouldRateLimit(t.Context(), ask{id: uuid.NewString(), user: user, maxTokens: "101"}.request()); err == nil {
				decided++
				if r.GetOverallCode() == rls.RateLimitResponse_OK {
					t.Fatalf("%s: what was used can be used again", user)
				}
			}
		}
		return decided >= len(users)/3
	})
}
