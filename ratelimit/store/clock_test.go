package store_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
)

// TestAProcessClockChangesNothing: one store sees the time of a synctest bubble, decades
// behind, and shares a bucket and a hold with one whose clock is right. Time is Redis'.
func TestAProcessClockChangesNothing(t *testing.T) {
	client, prefix := testenv.Redis(t)
	open := func(t *testing.T) *store.Store {
		t.Helper()
		s, err := store.New(store.Config{URL: "redis://" + client.Options().Addr, Prefix: prefix, Lifetime: time.Minute, SettledKept: time.Hour,
			Timeout: time.Minute, DialTimeout: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	b := []bucket.Bucket{{Limit: bucket.NewLimit(bucket.Tokens, bucket.Params{Capacity: 1000, Rate: 1e-9}), Key: "{user:u}:b:x"}}
	right := open(t)
	defer right.Close()
	hold := func(t *testing.T, s *store.Store, id string, want store.Outcome, level float64) {
		t.Helper()
		got, err := s.Hold(t.Context(), store.Take{Account: "user:u", ID: id, Output: 400, Buckets: b})
		if err != nil || got.Outcome != want || got.States[0].Level() != level {
			t.Errorf("%s: want %c at %v, got %+v, %v", id, want, level, got, err)
		}
		if ahead := time.Duration(got.Now-client.Time(t.Context()).Val().UnixMicro()) * time.Microsecond; ahead.Abs() > time.Minute {
			t.Errorf("%s: decided %s away from Redis' time", id, ahead)
		}
	}
	hold(t, right, "a", store.Admitted, 400)
	synctest.Test(t, func(t *testing.T) {
		wrong := open(t)
		defer wrong.Close()
		if time.Now().Year() > 2020 {
			t.Fatal("the bubble's clock is right")
		}
		got, err := wrong.Hold(t.Context(), store.Take{Account: "user:u", ID: "b", Output: 400, Buckets: b})
		if err != nil || got.Outcome != store.Admitted || got.States[0].Level() != 800 {
			t.Errorf("want the hold of before there, got %+v, %v", got, err)
		}
		live, err := wrong.Sweep(t.Context(), func(h store.Hold) error {
			t.Errorf("a running call is overdue: %+v", h)
			return nil
		})
		if err != nil || live.Holds != 2 || live.Tokens != 800 {
			t.Errorf("want two running calls of 400 tokens each, got %+v, %v", live, err)
		}
	})
	hold(t, right, "c", store.Refused, 800)
}
