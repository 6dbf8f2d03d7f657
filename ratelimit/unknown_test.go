package ratelimit_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/balance"
	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/ratelimit"
)

// balances is a token service that does something before it answers.
type balances struct {
	first func()
	err   error
}

func (b *balances) Ask(_ context.Context, account, provider string) (balance.State, error) {
	b.first()
	return balance.State{Account: account, Provider: provider}, b.err
}

// TestRedisGoesAwayWhileABalanceIsAskedFor: the first calls of an account find that Redis
// does not know its pool, and then no Redis. Each mode does what it does in any outage; a
// route that is open gets through Envoy in any case, so the call must not be lost.
func TestRedisGoesAwayWhileABalanceIsAskedFor(t *testing.T) {
	t.Parallel()
	for mode, want := range map[config.OutageMode]int{config.OutageOpen: 5, config.OutageClosed: 0, config.OutageLease: 0} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			asked := &balances{first: func() {}}
			e, server, _ := outage(t, mode, func(c *ratelimit.Config) { c.Balances = asked })
			asked.first = sync.OnceFunc(server.Kill)
			ids := e.storm(t, 5)
			if len(ids) != want {
				t.Errorf("want %d calls admitted, got %d", want, len(ids))
			}
			server.Restart()
			e.heldBy(t, "ann", float64(10*want))
			for _, id := range ids {
				e.settle(t, "user:ann", id, 7)
			}
			e.heldBy(t, "ann", 0)
		})
	}
}

// TestAnOpenRouteCountsWhoIsNotKnown: nobody can tell what the account owns, and the
// route is open: its calls pass and are written down.
func TestAnOpenRouteCountsWhoIsNotKnown(t *testing.T) {
	t.Parallel()
	for mode, want := range map[config.OutageMode]int{config.OutageOpen: 5, config.OutageClosed: 0, config.OutageLease: 0} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			e, _, _ := outage(t, mode, func(c *ratelimit.Config) { c.Balances = &balances{first: func() {}, err: errors.New("away")} })
			if ids := e.storm(t, 5); len(ids) != want {
				t.Errorf("want %d calls admitted, got %d", want, len(ids))
			}
			e.heldBy(t, "ann", float64(10*want))
		})
	}
}

// heldBy waits until so many tokens are held of the user's bucket.
func (e *env) heldBy(t *testing.T, user string, tokens float64) {
	t.Helper()
	testenv.Eventually(t, "the holds", func() bool {
		r, err := e.limiter.GetAccountState(t.Context(), &limitpb.GetAccountStateRequest{Account: "user:" + user,
			Descriptors: []*limitpb.Descriptor{{Entries: []*limitpb.Entry{{Key: "count", Value: "tokens"}, {Key: "user", Value: user}}}}})
		return err == nil && r.GetBuckets()[0].GetHeld() == tokens
	})
}
