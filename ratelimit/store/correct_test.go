package store_test

import (
	"fmt"
	"math"
	"sync/atomic"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/balance"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
)

const correctStart = int64(1_790_000_000_000_000)

// expired is a hold of 10 080 tokens of a pool and one bucket that the sweeper has charged, and
// whose event is published.
func expired(t *testing.T, s *store.Store, clock *atomic.Int64, p bucket.Params, charges bool) store.Take {
	t.Helper()
	take := store.Take{Account: "user:u", ID: "call", Input: 80, Output: 10_000, Facts: []byte("f"), Pool: store.PoolIfPresent, Provider: "openai",
		Buckets: []bucket.Bucket{{Limit: bucket.NewLimit(bucket.Tokens, p), Key: "{user:u}:b:" + t.Name()}}}
	if got, err := s.Hold(t.Context(), take); err != nil || got.Outcome != store.Admitted {
		t.Fatalf("hold: %+v, %v", got, err)
	}
	clock.Add(time.Minute.Microseconds())
	if _, due, err := s.Expire(t.Context(), take.Account, take.ID, charges); err != nil || !due {
		t.Fatalf("expire: due %t, %v", due, err)
	}
	if err := s.Finish(t.Context(), take.Account, take.ID); err != nil {
		t.Fatal(err)
	}
	return take
}

func told(version, credits, spent, returned int64) balance.State {
	return balance.State{Account: "user:u", Provider: "openai", Present: true, Version: version, Credits: credits, Spent: spent, Returned: returned,
		At: time.UnixMicro(correctStart)}
}

// TestALateSettlementCorrectsTheCharge: 690 tokens were used and 10 080 charged.
func TestALateSettlementCorrectsTheCharge(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		params  bucket.Params
		release bool
		after   time.Duration // from the sweep to the settlement
		level   float64
	}{
		"a bucket":                          {params: bucket.Params{Capacity: 1e5}, level: 690},
		"a bucket that drains meanwhile":    {params: bucket.Params{Capacity: 1e5, Rate: 1e-6}, after: 100 * time.Second, level: 690},
		"a bucket that has drained since":   {params: bucket.Params{Capacity: 1e5, Rate: 1}, after: 100 * time.Second, level: 0},
		"a window":                          {params: bucket.Params{Capacity: 1e5, Window: time.Hour.Microseconds()}, level: 690},
		"a window, and another has begun":   {params: bucket.Params{Capacity: 1e5, Window: time.Hour.Microseconds()}, after: 2 * time.Hour, level: 0},
		"a hold that was given back":        {params: bucket.Params{Capacity: 1e5}, release: true, level: 690},
		"one given back, in another window": {params: bucket.Params{Capacity: 1e5, Window: time.Hour.Microseconds()}, release: true, after: 2 * time.Hour, level: 690},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var clock atomic.Int64
			clock.Store(correctStart)
			s := newStore(t, clock.Load)
			if _, err := s.SetBalance(t.Context(), told(1, 50_000, 0, 0)); err != nil {
				t.Fatal(err)
			}
			take := expired(t, s, &clock, tc.params, !tc.release)
			clock.Add(tc.after.Microseconds())
			for _, charged := range []int64{690, 700} { // the first counts
				got, err := s.Settle(t.Context(), []store.Settlement{{Account: take.Account, ID: take.ID, Charged: charged}})
				want := store.Settling{Status: store.Late, Held: 10_080, Charged: 690, Drawn: true, Taken: correctStart}
				if err != nil || got[0] != want {
					t.Fatalf("want %+v, got %+v, %v", want, got, err)
				}
			}
			state, err := s.ReadState(t.Context(), take.Account, []string{take.ID}, take.Buckets, "openai")
			if err != nil {
				t.Fatal(err)
			}
			if got := state.States[0]; got.Held != 0 || math.Abs(got.Settled-tc.level) > 1e-6 {
				t.Errorf("want a level of %v, got %+v", tc.level, got)
			}
			if got := state.Pools[0]; got.Spent != 690 || got.Held != 0 {
				t.Errorf("want 690 spent of the pool, got %+v", got)
			}
			if r := state.Records[0]; r.State != store.StateMended || r.Charged != 690 || string(r.Facts) != "f" {
				t.Errorf("want the record corrected, got %+v", r)
			}
		})
	}
}

// TestAPoolHearsOfACorrectionInAnyOrder: the ledger's states come before and after the limiter's own
// correction, late and twice.
func TestAPoolHearsOfACorrectionInAnyOrder(t *testing.T) {
	t.Parallel()
	const settle = "settle"
	charged, mended, more := told(2, 50_000, 10_080, 0), told(3, 50_000, 690, 9_390), told(4, 50_000, 700, 9_390)
	for name, tc := range map[string]struct {
		steps []any
		spent int64
	}{
		"the settlement alone":            {[]any{settle}, 690},
		"the charge after it":             {[]any{settle, charged}, 690},
		"the charge before it":            {[]any{charged, settle}, 690},
		"the correction after it":         {[]any{charged, settle, mended}, 690},
		"the correction before it":        {[]any{charged, mended}, 690},
		"the correction, then the charge": {[]any{settle, mended, charged}, 690},
		"all, twice":                      {[]any{settle, charged, mended, mended, charged, settle}, 690},
		"a further call":                  {[]any{settle, charged, mended, more}, 700},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var clock atomic.Int64
			clock.Store(correctStart)
			s := newStore(t, clock.Load)
			if _, err := s.SetBalance(t.Context(), told(1, 50_000, 0, 0)); err != nil {
				t.Fatal(err)
			}
			take := expired(t, s, &clock, bucket.Params{Capacity: 1e5}, true)
			for _, step := range tc.steps {
				var err error
				if state, ok := step.(balance.State); ok {
					_, err = s.SetBalance(t.Context(), state)
				} else {
					_, err = s.Settle(t.Context(), []store.Settlement{{Account: take.Account, ID: take.ID, Charged: 690}})
				}
				if err != nil {
					t.Fatal(fmt.Errorf("%v: %w", step, err))
				}
			}
			again := take
			again.ID = "another" // a call passes the numbers on as they are
			if got, err := s.Hold(t.Context(), again); err != nil || got.Pool.Spent != tc.spent || got.Pool.Left() != 50_000-10_080-tc.spent {
				t.Errorf("want %d spent, got %+v, %v", tc.spent, got.Pool, err)
			}
			pool, err := s.SetBalance(t.Context(), told(2, 50_000, 0, 0))
			if err != nil || pool.Spent != tc.spent {
				t.Errorf("want %d spent still, got %+v, %v", tc.spent, pool, err)
			}
		})
	}
}
