package store_test

import (
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/balance"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
)

// TestWhatAnEvictedHoldHeldIsFreed: of two holds that a pool and a limit count, one's record is evicted.
// What it held is free again, what the other holds stays, and is settled as ever.
func TestWhatAnEvictedHoldHeldIsFreed(t *testing.T) {
	t.Parallel()
	server := testenv.RedisServer(t)
	s := onServer(t, server, nil)
	const account, provider = "user:1", "openai"
	if _, err := s.SetBalance(t.Context(), balance.State{Account: account, Provider: provider, Present: true, Version: 1, Credits: 1000,
		At: time.Now()}); err != nil {
		t.Fatal(err)
	}
	both := []store.Take{takes(1, 1)[0], takes(101, 1)[0]} // of one account
	for i := range both {
		both[i].Provider, both[i].Pool = provider, store.PoolRequired
	}
	holdAll(t, s, both)
	held := func(want int64) {
		t.Helper()
		state, err := s.ReadState(t.Context(), account, nil, both[0].Buckets, provider)
		if err != nil {
			t.Fatal(err)
		}
		if pool, limit := state.Pools[0].Held, state.States[0].Held; pool != want || limit != float64(want) {
			t.Errorf("want %d held by pool and limit, got %d and %v", want, pool, limit)
		}
	}
	recount := func(want int) {
		t.Helper()
		freed, busy, err := s.Recount(t.Context())
		if err != nil || freed != want || busy != 0 {
			t.Errorf("want %d freed, got %d, %d busy, %v", want, freed, busy, err)
		}
	}
	recount(0)
	held(20)
	if err := server.Client().Del(t.Context(), s.HoldKey(account, both[0].ID)).Err(); err != nil {
		t.Fatal(err)
	}
	recount(2)
	held(10)
	settleAll(t, s, both[1:], store.Settled)
	held(0)
	recount(0)
}
