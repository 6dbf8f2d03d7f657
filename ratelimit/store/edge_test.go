package store_test

import (
	"math"
	"sync/atomic"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
)

// TestAnExpiredHoldIsCorrectedWhileItIsRemembered: a settlement after the sweep corrects the charge once,
// however often it comes; when the hold is forgotten it changes nothing any more.
func TestAnExpiredHoldIsCorrectedWhileItIsRemembered(t *testing.T) {
	t.Parallel()
	var clock atomic.Int64
	clock.Store(noon)
	client, prefix := testenv.Redis(t)
	s, err := store.New(store.Config{URL: "redis://" + client.Options().Addr, Prefix: prefix, Lifetime: time.Minute, SettledKept: time.Minute,
		ExpiredKept: 400 * time.Millisecond, Timeout: time.Minute, DialTimeout: time.Minute, Now: clock.Load})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	b := []bucket.Bucket{{Limit: bucket.NewLimit(bucket.Tokens, bucket.Params{Capacity: 1e6, Rate: 1e-12}), Key: "{user:u}:b:x"}}
	for _, id := range []string{"told", "forgotten"} {
		if got, err := s.Hold(t.Context(), store.Take{Account: "user:u", ID: id, Output: 100, Buckets: b}); err != nil || got.Outcome != store.Admitted {
			t.Fatalf("hold %s: %+v, %v", id, got, err)
		}
	}
	clock.Add(61e6)
	for _, id := range []string{"told", "forgotten"} {
		if _, due, err := s.Expire(t.Context(), "user:u", id, true); !due || err != nil {
			t.Fatalf("expire %s: due %t, %v", id, due, err)
		}
	}
	settle := func(id string) store.Settling {
		done, err := s.Settle(t.Context(), []store.Settlement{{Account: "user:u", ID: id, Charged: 30}})
		if err != nil {
			t.Fatal(err)
		}
		return done[0]
	}
	level := func() float64 {
		seen, err := s.ReadState(t.Context(), "user:u", nil, b)
		if err != nil {
			t.Fatal(err)
		}
		return math.Round(seen.States[0].Level())
	}
	for range 3 {
		if done := settle("told"); done.Status != store.Late || done.Charged != 30 || level() != 130 {
			t.Errorf("in time: want it corrected to 30 and 130 in the bucket, got %+v and %g", done, level())
		}
	}
	if err := s.Finish(t.Context(), "user:u", "forgotten"); err != nil { // its event is out; from now on it is forgotten in a while
		t.Fatal(err)
	}
	testenv.Eventually(t, "it is forgotten", func() bool {
		seen, err := s.ReadState(t.Context(), "user:u", []string{"forgotten"}, nil)
		return err == nil && seen.Records[0].State == store.StateNone
	})
	for range 2 {
		if done := settle("forgotten"); done.Status != store.Unknown || level() != 130 {
			t.Errorf("too late: want it unknown and 130 in the bucket, got %+v and %g", done, level())
		}
	}
}

// TestAMeterIsWaitedForADay and not a moment longer, when it says nothing any more.
func TestAMeterIsWaitedForADay(t *testing.T) {
	t.Parallel()
	var clock atomic.Int64
	clock.Store(noon)
	s := newStore(t, clock.Load)
	if err := s.SetProgress(t.Context(), "meter", time.Hour, ""); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		after time.Duration
		want  int64
	}{{0, noon - 3600e6}, {24 * time.Hour, noon - 3600e6}, {24*time.Hour + time.Microsecond, math.MaxInt64}} {
		clock.Store(noon + step.after.Microseconds())
		if p, err := s.Progress(t.Context()); err != nil || p.Settled != step.want {
			t.Errorf("after %s: want settled by %d, got %+v, %v", step.after, step.want, p, err)
		}
	}
}

// TestAMeterOfAClockThatWasAheadIsNotHeard: what it said would stand until the clock comes to that time
// again; one that lives says it anew within a second.
func TestAMeterOfAClockThatWasAheadIsNotHeard(t *testing.T) {
	t.Parallel()
	var clock atomic.Int64
	clock.Store(noon)
	s := newStore(t, clock.Load)
	if err := s.SetProgress(t.Context(), "meter", 0, "no room"); err != nil {
		t.Fatal(err)
	}
	clock.Store(noon - 30e6) // a small step back is none
	if p, err := s.Progress(t.Context()); err != nil || p.Unwritable == "" || len(p.Meters) != 1 {
		t.Errorf("want it heard, got %+v, %v", p, err)
	}
	clock.Store(noon - 3600e6)
	if p, err := s.Progress(t.Context()); err != nil || p.Unwritable != "" || len(p.Meters) != 0 {
		t.Errorf("want it forgotten, got %+v, %v", p, err)
	}
}
