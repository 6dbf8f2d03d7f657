package ratelimit_test

import (
	"context"
	"sync"
	"testing"
	"time"

	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/balance"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/ratelimit"
)

// TestReplicasAdmitTheCapacity lets 256 callers ask 4 replicas for one account at once,
// the first time anybody asks for it: what is admitted is what the pool has, exactly.
func TestReplicasAdmitTheCapacity(t *testing.T) {
	t.Parallel()
	client, prefix := testenv.Redis(t)
	l := &ledger{pools: map[string]balance.State{"user:ann": prepaid("user:ann", 900, 1)}}
	var replicas []*env
	for range 4 {
		replicas = append(replicas, start(t, thousand, asking(l), func(c *ratelimit.Config) {
			c.RedisURL,
				c.Prefix = "redis://"+client.Options().Addr, prefix
		}))
	}
	for _, tc := range []struct {
		tokens string
		want   int
		why    string
	}{{"9", 100, "the pool"}, {"1", 100, "the pool after it grew, and then the bucket"}} {
		var mu sync.Mutex
		admitted := 0
		var group sync.WaitGroup
		for i := range 256 {
			group.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				defer cancel()
				r, err := replicas[i%4].envoy.ShouldRateLimit(ctx, ask{id: uuid.NewString(), maxTokens: tc.tokens}.request())
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				if r.GetOverallCode() == rls.RateLimitResponse_OK {
					admitted++
				}
			})
		}
		group.Wait()
		if admitted != tc.want {
			t.Errorf("%s: want %d of 256 admitted, got %d", tc.why, tc.want, admitted)
		}
		if err := replicas[0].service.SetBalance(t.Context(), prepaid("user:ann", 5000, 2)); err != nil {
			t.Fatal(err)
		}
	}
}
