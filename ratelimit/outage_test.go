package ratelimit_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/balance"
	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/ratelimit"
)

// outage is a service on a Redis of its own, which the test may break.
func outage(t *testing.T, mode config.OutageMode, options ...option) (*env, *testenv.RedisProcess, func()) {
	t.Helper()
	server := testenv.RedisServer(t)
	l := &ledger{pools: map[string]balance.State{"user:ann": prepaid("user:ann", 700, 1)}}
	registry := prometheus.NewRegistry()
	e := start(t, thousand, append([]option{asking(l), func(c *ratelimit.Config) {
		c.Metrics = registry
		c.RedisURL, c.Prefix = server.URL(), ""
		c.Outage = config.Outage{Default: config.OutageClosed, Routes: map[string]config.OutageMode{"openai-chat": mode},
			LeaseTokens: 200, LeaseRequests: 64, LeaseFor: time.Hour, DialTimeout: 10 * time.Second, Timeout: 10 * time.Second}
	}}, options...)...)
	e.series = registry
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- e.service.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-ran; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return e, server, stop
}

// impatient is for a Redis that will not answer.
func impatient(c *ratelimit.Config) {
	c.Timeout, c.Outage.DialTimeout, c.Outage.Timeout = time.Second, time.Second, time.Second
}

// storm sends calls of 10 tokens at once and gives the ids of those admitted.
func (e *env) storm(t *testing.T, calls int) []string {
	t.Helper()
	var mu sync.Mutex
	var admitted []string
	var group sync.WaitGroup
	for range calls {
		group.Go(func() {
			id := uuid.NewString()
			r, err := e.envoy.ShouldRateLimit(t.Context(), ask{id: id, maxTokens: "10"}.request())
			if err != nil && status.Code(err) != codes.Unavailable {
				t.Errorf("want Unavailable, got %v", err)
			}
			if r.GetOverallCode() != rls.RateLimitResponse_OK {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			admitted = append(admitted, id)
		})
	}
	group.Wait()
	return admitted
}

// warm has one call admitted and settled by Redis.
func (e *env) warm(t *testing.T) {
	t.Helper()
	id := uuid.NewString()
	testenv.Eventually(t, "redis", func() bool {
		r, err := e.envoy.ShouldRateLimit(t.Context(), ask{id: id, maxTokens: "10"}.request())
		return err == nil && r.GetOverallCode() == rls.RateLimitResponse_OK
	})
	e.settle(t, "user:ann", id, 0)
}

// books waits until Redis is back and what is held there is this.
func (e *env) books(t *testing.T, held float64) {
	t.Helper()
	testenv.Eventually(t, fmt.Sprintf("%g tokens held", held), func() bool {
		r, err := e.limiter.GetAccountState(t.Context(), &limitpb.GetAccountStateRequest{Account: "user:ann", Providers: []string{"openai"},
			Descriptors: []*limitpb.Descriptor{{Entries: []*limitpb.Entry{{Key: "count", Value: "tokens"}, {Key: "user", Value: "ann"}}}}})
		return err == nil && r.GetBuckets()[0].GetHeld() == held && r.GetBalances()[0].GetHeld() == int64(held)
	})
}

// leased waits until the replica knows of its lease: Redis holds it a moment earlier.
func (e *env) leased(t *testing.T, tokens float64) {
	t.Helper()
	testenv.Eventually(t, fmt.Sprintf("%g tokens leased", tokens), func() bool {
		families, err := e.series.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() == "leaky_ratelimit_leased_tokens" {
				return f.GetMetric()[0].GetGauge().GetValue() == tokens
			}
		}
		return false
	})
}

// settleAll settles each call by 7 tokens, twice, and wants them charged once.
func (e *env) settleAll(t *testing.T, ids []string) {
	t.Helper()
	for _, want := range []limitpb.Settled_Status{limitpb.Settled_SETTLED, limitpb.Settled_DUPLICATE} {
		for _, id := range ids {
			if s := e.settle(t, "user:ann", id, 7); s.GetStatus() != want || s.GetDrawn() != limitpb.Settled_DRAWN_POOL {
				t.Errorf("want %s and the pool drawn on, got %v", want, s)
			}
		}
	}
	if b := e.pool(t, "user:ann"); b.GetSpent() != int64(7*len(ids)) {
		t.Errorf("want %d spent of the pool, got %v", 7*len(ids), b)
	}
	if l := e.level(t, "ann"); l.GetLevel()-l.GetHeld() > float64(7*len(ids)) || l.GetLevel()-l.GetHeld() < float64(7*len(ids))-1 {
		t.Errorf("want %d tokens in the bucket, got %v", 7*len(ids), l)
	}
}

// TestAnOutageAdmitsWhatWasLeased kills Redis under load: of calls of 10 tokens a lease of
// 200 admits 20, and not one is charged twice when Redis is back.
func TestAnOutageAdmitsWhatWasLeased(t *testing.T) {
	t.Parallel()
	e, server, stop := outage(t, config.OutageLease)
	e.warm(t)
	e.books(t, 200)
	e.leased(t, 200)
	server.Kill()
	ids := e.storm(t, 100)
	if more := e.storm(t, 100); len(ids) != 20 || len(more) != 0 {
		t.Fatalf("want 20 calls admitted of a lease of 200, got %d, and then %d", len(ids), len(more))
	}
	server.Restart()
	e.books(t, 200) // moved from the lease to the calls
	e.settleAll(t, ids)
	stop()
	e.books(t, 0)
}

// TestAnOutageWithoutALeaseIsClosed is an account that nobody saw before.
func TestAnOutageWithoutALeaseIsClosed(t *testing.T) {
	t.Parallel()
	for _, mode := range []config.OutageMode{config.OutageLease, config.OutageClosed} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			e, server, _ := outage(t, mode)
			testenv.Eventually(t, "redis", func() bool { return e.service.Ready(t.Context()) == nil })
			server.Kill()
			if ids := e.storm(t, 20); len(ids) != 0 {
				t.Errorf("want nothing admitted, got %d", len(ids))
			}
		})
	}
}

// TestAFrozenRedisHoldsNothingForWhoWasRefused: it executes commands when it goes on of which nobody waits for
// the answer any more. Their calls were refused, so nothing is held for them, and nothing charged.
func TestAFrozenRedisHoldsNothingForWhoWasRefused(t *testing.T) {
	t.Parallel()
	e, server, _ := outage(t, config.OutageClosed, impatient)
	testenv.Eventually(t, "redis", func() bool { return e.service.Ready(t.Context()) == nil })
	e.settleAll(t, e.storm(t, 1))
	e.books(t, 0)
	used, err := server.Client().Get(t.Context(), "{user:ann}:p:openai").Result()
	if err != nil {
		t.Fatal(err)
	}
	server.Freeze()
	if ids := e.storm(t, 3); len(ids) != 0 {
		t.Errorf("want nothing admitted, got %d", len(ids))
	}
	server.Thaw()
	testenv.Eventually(t, "what it took is given back", func() bool {
		found, err := server.Client().Keys(t.Context(), "{user:ann}:h:*").Result()
		return err == nil && len(found) == 0 && e.service.Ready(t.Context()) == nil
	})
	e.books(t, 0)
	if now, err := server.Client().Get(t.Context(), "{user:ann}:p:openai").Result(); err != nil || now != used {
		t.Errorf("want the pool as it was, %q, got %q %v", used, now, err)
	}
}

// TestWhoAsksAgainKeepsTheHold: the token service asks again under the same id when no answer came. What a frozen
// Redis took for the first question is the hold of the second then, and stands.
func TestWhoAsksAgainKeepsTheHold(t *testing.T) {
	t.Parallel()
	e, server, _ := outage(t, config.OutageClosed, impatient)
	testenv.Eventually(t, "redis", func() bool { return e.service.Ready(t.Context()) == nil })
	e.settleAll(t, e.storm(t, 1))
	id := uuid.NewString()
	hold := func() (*limitpb.HoldResponse, error) {
		return e.limiter.Hold(t.Context(), &limitpb.HoldRequest{Facts: &limitpb.Facts{RequestId: id, User: "ann", Tier: "USER", Provider: "openai"}, InputTokens: 50})
	}
	server.Freeze()
	if r, err := hold(); err == nil {
		t.Errorf("want no answer, got %v", r)
	}
	server.Thaw()
	testenv.Eventually(t, "the second question is admitted", func() bool {
		r, err := hold()
		return err == nil && r.GetAdmitted()
	})
	beat := func() int64 {
		n, _ := server.Client().Get(t.Context(), "{*}:beat").Int64() // 0: there is none
		return n
	}
	admitted := beat()
	testenv.Eventually(t, "seconds pass, after each of which holds are given back", func() bool { return beat() > admitted+3 })
	if found, err := server.Client().Keys(t.Context(), "{user:ann}:h:*").Result(); err != nil || len(found) != 1 {
		t.Errorf("want the one hold to stand, got %v %v", found, err)
	}
}

// TestAnOpenOutageIsChargedAfterwards admits all, though they do not fit, and charges
// each once.
func TestAnOpenOutageIsChargedAfterwards(t *testing.T) {
	t.Parallel()
	e, server, _ := outage(t, config.OutageOpen)
	e.warm(t)
	server.Kill()
	ids := e.storm(t, 150)
	if len(ids) != 150 {
		t.Fatalf("want all 150 admitted, got %d", len(ids))
	}
	server.Restart()
	e.books(t, 1500)
	e.settleAll(t, ids)
	e.books(t, 0)
	if r := e.ask(t, ask{maxTokens: "10"}); r.GetOverallCode() != rls.RateLimitResponse_OVER_LIMIT {
		t.Errorf("want the outage's usage to count, got %v", r)
	}
}

// TestARefusalTakesTheLeaseBack since it may be what the call lacked.
func TestARefusalTakesTheLeaseBack(t *testing.T) {
	t.Parallel()
	e, _, _ := outage(t, config.OutageLease)
	e.warm(t)
	e.books(t, 200)
	big := ask{maxTokens: "650"}
	if r := e.ask(t, big); r.GetOverallCode() != rls.RateLimitResponse_OVER_LIMIT {
		t.Fatalf("want the lease in the way, got %v", r)
	}
	testenv.Eventually(t, "the lease given back", func() bool { return e.ask(t, big).GetOverallCode() == rls.RateLimitResponse_OK })
}

// TestADeadReplicasLeaseExpires without an event or a charge.
func TestADeadReplicasLeaseExpires(t *testing.T) {
	t.Parallel()
	l := &ledger{pools: map[string]balance.State{"user:ann": prepaid("user:ann", 700, 1)}}
	e := start(t, thousand, asking(l), overdue)
	r, err := e.limiter.Hold(t.Context(), &limitpb.HoldRequest{Facts: &limitpb.Facts{RequestId: "lease-1", User: "ann", Provider: "openai"},
		FillTokens: 200})
	if err != nil || r.GetHeld() != 200 {
		t.Fatalf("want 200 held, got %v, %v", r, err)
	}
	if err := e.service.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	e.books(t, 0)
	if events := e.events.all(); len(events) != 0 || e.pool(t, "user:ann").GetSpent() != 0 {
		t.Errorf("want no charge and no event of a lease, got %v", events)
	}
}
