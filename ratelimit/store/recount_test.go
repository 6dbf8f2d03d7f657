package store_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/balance"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
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

// TestOneCountsAtATime: it walks over all keys.
func TestOneCountsAtATime(t *testing.T) {
	t.Parallel()
	server := testenv.RedisServer(t)
	one, other := onServer(t, server, nil), onServer(t, server, nil)
	client := server.Client()
	if err := client.Set(t.Context(), "{*}:counter", "one", time.Minute).Err(); err != nil { // it has begun
		t.Fatal(err)
	}
	if _, _, err := other.Recount(t.Context()); !errors.Is(err, store.ErrCounting) {
		t.Errorf("while one counts: want the other to wait, got %v", err)
	}
	if err := client.Del(t.Context(), "{*}:counter").Err(); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*store.Store{one, other} {
		if _, _, err := s.Recount(t.Context()); err != nil {
			t.Errorf("then: want each to count in turn, got %v", err)
		}
	}
}

// TestACountDisturbsNoCall: while it goes on calls begin and end, and are charged to the token.
func TestACountDisturbsNoCall(t *testing.T) {
	t.Parallel()
	s := onServer(t, testenv.RedisServer(t), nil)
	const callers, rounds = 4, 100
	limit := []bucket.Bucket{{Limit: bucket.NewLimit(bucket.Tokens, bucket.Params{Capacity: 1e12}), Key: "{user:1}:b:x"}}
	var calls sync.WaitGroup
	for caller := range callers {
		calls.Go(func() {
			for round := range rounds {
				id := fmt.Sprint(caller, "-", round)
				if got, err := s.Hold(t.Context(), store.Take{Account: "user:1", ID: id, Input: 10, Buckets: limit}); err != nil ||
					got.Outcome != store.Admitted {
					t.Errorf("hold: %+v, %v", got, err)
				}
				if got, err := s.Settle(t.Context(), []store.Settlement{{Account: "user:1", ID: id, Charged: 7}}); err != nil ||
					got[0].Status != store.Settled {
					t.Errorf("settle: %+v, %v", got, err)
				}
			}
		})
	}
	ended := make(chan struct{})
	go func() { calls.Wait(); close(ended) }()
	for counting := true; counting; {
		select {
		case <-ended:
			counting = false
		default:
		}
		if _, _, err := s.Recount(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	state, err := s.ReadState(t.Context(), "user:1", nil, limit)
	if err != nil || state.States[0].Settled != callers*rounds*7 || state.States[0].Held != 0 {
		t.Errorf("want %d settled and nothing held, got %+v, %v", callers*rounds*7, state.States, err)
	}
}
