package store_test

import (
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/balance"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
)

// TestMove: a call that goes on at another model holds there what it held before, or stays.
func TestMove(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		input, output    int64
		outcome          store.Outcome
		user, one, other float64 // held in each bucket then
	}{
		"dearer":          {100, 400, store.Admitted, 500, 0, 500},
		"cheaper":         {10, 20, store.Admitted, 30, 0, 30},
		"as dear as room": {200, 800, store.Admitted, 1000, 0, 1000},
		"too dear":        {500, 501, store.Refused, 900, 900, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t, nil)
			user, one, other := tokens(1000, "{user:u}:b:user"), tokens(1000, "{user:u}:b:one"), tokens(1000, "{user:u}:b:other")
			all := []bucket.Bucket{user, one, other}
			if _, err := s.Hold(t.Context(), store.Take{Account: "user:u", ID: "1", Input: 100, Output: 800, Buckets: []bucket.Bucket{user, one},
				Facts: []byte("one")}); err != nil {
				t.Fatal(err)
			}
			move := store.Take{Account: "user:u", ID: "1", Input: c.input, Output: c.output, Buckets: []bucket.Bucket{user, other},
				Facts: []byte("other"), Moves: true}
			for range 2 { // a second time changes nothing
				got, err := s.HoldAll(t.Context(), []store.Take{move})
				if err != nil || got[0].Err != nil || got[0].Outcome != c.outcome {
					t.Fatalf("want %c, got %+v, %v", c.outcome, got, err)
				}
				seen, err := s.ReadState(t.Context(), "user:u", []string{"1"}, all)
				if err != nil {
					t.Fatal(err)
				}
				facts := "other"
				if c.outcome.Refuses() {
					facts = "one"
				}
				if seen.States[0].Held != c.user || seen.States[1].Held != c.one || seen.States[2].Held != c.other ||
					string(seen.Records[0].Facts) != facts {
					t.Fatalf("want %v, %v, %v held of %s, got %+v of %s", c.user, c.one, c.other, facts, seen.States, seen.Records[0].Facts)
				}
			}
			if _, err := s.Settle(t.Context(), []store.Settlement{{Account: "user:u", ID: "1", Charged: 7}}); err != nil {
				t.Fatal(err)
			}
			seen, err := s.ReadState(t.Context(), "user:u", nil, all)
			if err != nil {
				t.Fatal(err)
			}
			for i, state := range seen.States {
				if state.Held != 0 {
					t.Errorf("bucket %d still holds %v", i, state.Held)
				}
			}
			if got, err := s.HoldAll(t.Context(), []store.Take{move, move}); err != nil || got[0].Outcome != store.Repeated {
				t.Errorf("want a settled call left as it is, got %+v, %v", got, err)
			}
		})
	}
}

// TestMoveBetweenPools draws on the one that the call goes to.
func TestMoveBetweenPools(t *testing.T) {
	t.Parallel()
	s := newStore(t, nil)
	for provider, credits := range map[string]int64{"one": 1000, "other": 300} {
		if _, err := s.SetBalance(t.Context(), balance.State{Account: "user:u", Provider: provider, Present: true, Version: 1, Credits: credits,
			At: time.Now()}); err != nil {
			t.Fatal(err)
		}
	}
	take := store.Take{Account: "user:u", ID: "1", Input: 100, Output: 100, Pool: store.PoolRequired, Provider: "one"}
	if _, err := s.Hold(t.Context(), take); err != nil {
		t.Fatal(err)
	}
	held := func() (one, other int64) {
		seen, err := s.ReadState(t.Context(), "user:u", nil, nil, "one", "other")
		if err != nil {
			t.Fatal(err)
		}
		return seen.Pools[0].Held, seen.Pools[1].Held
	}
	take.Provider, take.Moves = "other", true
	if got, err := s.Hold(t.Context(), take); err != nil || got.Outcome != store.Admitted {
		t.Fatalf("want it admitted, got %+v, %v", got, err)
	}
	if one, other := held(); one != 0 || other != 200 {
		t.Errorf("want 0 and 200 held, got %d and %d", one, other)
	}
	take.Output = 300
	if got, err := s.Hold(t.Context(), take); err != nil || got.Outcome != store.Short {
		t.Errorf("want a pool that is short, got %+v, %v", got, err)
	}
	if one, other := held(); one != 0 || other != 200 {
		t.Errorf("want 0 and 200 held still, got %d and %d", one, other)
	}
}
