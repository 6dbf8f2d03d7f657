package store_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
)

func tokens(capacity float64, key string) bucket.Bucket {
	return bucket.Bucket{Limit: bucket.NewLimit(bucket.Tokens, bucket.Params{Capacity: capacity}), Key: key}
}

// TestAdmitsExactlyWhatFits lets many callers at once ask for a tenth of a bucket each.
func TestAdmitsExactlyWhatFits(t *testing.T) {
	t.Parallel()
	for _, callers := range []int{64, 256} {
		for name, take := range map[string]store.Take{
			"stated": {Input: 25, Output: 75},
			"filled": {Input: 25, Fill: 75},
		} {
			t.Run(fmt.Sprintf("%d %s", callers, name), func(t *testing.T) {
				t.Parallel()
				s := newStore(t, nil)
				var admitted, refused, most atomic.Int64
				var group sync.WaitGroup
				for i := range callers {
					group.Go(func() {
						one := take
						one.Account, one.ID, one.Buckets = "user:u", fmt.Sprint(i), []bucket.Bucket{tokens(1000, "{user:u}:b:x")}
						got, err := s.Hold(t.Context(), one)
						switch {
						case err != nil:
							t.Error(err)
						case got.Outcome == store.Admitted:
							admitted.Add(1)
							most.Store(max(most.Load(), int64(got.States[0].Level())))
						default:
							refused.Add(1)
						}
					})
				}
				group.Wait()
				if admitted.Load() != 10 || refused.Load() != int64(callers-10) || most.Load() > 1000 {
					t.Errorf("want 10 of %d admitted and a level up to 1000, got %d admitted, %d refused, level %d", callers, admitted.Load(),
						refused.Load(), most.Load())
				}
			})
		}
	}
}

func TestAllOrNone(t *testing.T) {
	t.Parallel()
	s := newStore(t, nil)
	wide, narrow := tokens(1000, "{user:u}:b:wide"), tokens(50, "{user:u}:b:narrow")
	requests := bucket.Bucket{Limit: bucket.NewLimit(bucket.Requests, bucket.Params{Capacity: 10}), Key: "{user:u}:b:requests"}
	got, err := s.Hold(t.Context(), store.Take{Account: "user:u", ID: "1", Requests: 1, Output: 100, Buckets: []bucket.Bucket{wide, requests,
		narrow}})
	if err != nil || got.Outcome != store.Refused {
		t.Fatalf("want a refusal, got %+v, %v", got, err)
	}
	seen, err := s.ReadState(t.Context(), "user:u", []string{"1"}, []bucket.Bucket{wide, requests, narrow})
	if err != nil {
		t.Fatal(err)
	}
	for i, state := range seen.States {
		if state.Level() != 0 {
			t.Errorf("bucket %d was charged by a refused call: %+v", i, state)
		}
	}
	if seen.Records[0].State != store.StateNone {
		t.Errorf("a refused call left a record: %+v", seen.Records[0])
	}
}

// TestShadowNeverRefuses and holds what it would if it did: of a call that does not fit,
// nothing, so that it tells later callers what a limit in force would.
func TestShadowNeverRefuses(t *testing.T) {
	t.Parallel()
	s := newStore(t, nil)
	shadow := bucket.Bucket{Limit: bucket.NewLimit(bucket.ShadowTokens, bucket.Params{Capacity: 10}), Key: "{user:u}:b:x"}
	calls := bucket.Bucket{Limit: bucket.NewLimit(bucket.ShadowRequests, bucket.Params{Capacity: 2}), Key: "{user:u}:b:calls"}
	all := []bucket.Bucket{shadow, tokens(1000, "{user:u}:b:wide"), calls}
	for i, tc := range []struct{ output, shown, calls int64 }{{8, 8, 1}, {100, 108, 2}, {2, 10, 3}} {
		got, err := s.Hold(t.Context(), store.Take{Account: "user:u", ID: strconv.Itoa(i), Requests: 1, Output: tc.output, Buckets: all})
		if err != nil || got.Outcome != store.Admitted || got.States[0].Held != float64(tc.shown) || got.States[2].Settled != float64(tc.calls) {
			t.Fatalf("call %d: want it admitted and %d shown of shadow and %d calls, got %+v, %v", i, tc.shown, tc.calls, got, err)
		}
	}
	want := func(what string, shadow, wide, calls float64) {
		t.Helper()
		seen, err := s.ReadState(t.Context(), "user:u", nil, all)
		if err != nil || seen.States[0].Level() != shadow || seen.States[1].Level() != wide || seen.States[2].Level() != calls {
			t.Errorf("%s: want levels %v, %v and %v, got %+v, %v", what, shadow, wide, calls, seen.States, err)
		}
	}
	want("held", 10, 110, 2)
	if _, err := s.Settle(t.Context(), []store.Settlement{{Account: "user:u", ID: "1", Charged: 60}}); err != nil {
		t.Fatal(err)
	}
	want("the one that did not fit settled", 10, 70, 2)
	if _, err := s.Settle(t.Context(), []store.Settlement{{Account: "user:u", ID: "0", Charged: 3}}); err != nil {
		t.Fatal(err)
	}
	want("one that did settled", 5, 65, 2)
}

func TestNothingToCheckIsAdmitted(t *testing.T) {
	t.Parallel()
	s := newStore(t, nil)
	for name, take := range map[string]store.Take{
		"no limit, no record": {Account: "ip:x"},
		"no limit":            {Account: "user:u", ID: "1", Input: 10, Fill: 5},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := s.Hold(t.Context(), take)
			if err != nil || got.Outcome != store.Admitted || got.Held != take.Input+take.Fill {
				t.Errorf("want it admitted with all it asks, got %+v, %v", got, err)
			}
		})
	}
}

// TestIdleBucketsVanish and buckets with something held stay.
func TestIdleBucketsVanish(t *testing.T) {
	t.Parallel()
	client, prefix := testenv.Redis(t)
	s, err := store.New(store.Config{URL: "redis://" + client.Options().Addr, Prefix: prefix, Lifetime: time.Hour, SettledKept: time.Hour,
		Timeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	b := bucket.Bucket{Limit: bucket.NewLimit(bucket.Tokens, bucket.Params{Capacity: 1000, Rate: 1e-5}), Key: "{user:u}:b:x"}
	if _, err := s.Hold(t.Context(), store.Take{Account: "user:u", ID: "1", Output: 500, Buckets: []bucket.Bucket{b}}); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{prefix + "{user:u}:b:x", s.HoldKey("user:u", "1")} {
		if ttl := client.PTTL(t.Context(), key).Val(); ttl != -1 {
			t.Errorf("%s while held: want no expiry, got %s", key, ttl)
		}
	}
	begun := time.Now()
	if _, err := s.Settle(t.Context(), []store.Settlement{{Account: "user:u", ID: "1", Charged: 100}}); err != nil {
		t.Fatal(err)
	}
	if ttl := client.PTTL(t.Context(), prefix+"{user:u}:b:x").Val(); ttl < 9*time.Second-time.Since(begun) || ttl > 12*time.Second {
		t.Errorf("bucket with 10 s to drain: want it kept for about that, got %s", ttl)
	}
	if n := client.Exists(t.Context(), s.HoldKey("user:u", "1")).Val(); n != 0 {
		t.Error("settled hold: want no key of its own")
	}
	memories, err := client.Keys(t.Context(), prefix+"s:*").Result()
	if err != nil || len(memories) != 1 {
		t.Fatalf("want it remembered in one key, got %v, %v", memories, err)
	}
	if ttl := client.PTTL(t.Context(), memories[0]).Val(); ttl < 59*time.Minute || ttl > time.Hour {
		t.Errorf("settled hold: want it remembered for an hour, got %s", ttl)
	}
}

func TestConfiguration(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]store.Config{
		"no lifetime": {URL: "redis://127.0.0.1:1", SettledKept: time.Second},
		"no memory":   {URL: "redis://127.0.0.1:1", Lifetime: time.Second},
		"no url":      {Lifetime: time.Second, SettledKept: time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := store.New(c); err == nil {
				t.Error("want an error, got none")
			}
		})
	}
}

// own is a store on a Redis of its own, which the test may break.
func own(t *testing.T) (*store.Store, *testenv.RedisProcess) {
	t.Helper()
	server := testenv.RedisServer(t)
	s, err := store.New(store.Config{URL: server.URL(), Lifetime: time.Hour, SettledKept: time.Hour, Timeout: time.Second,
		DialTimeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, server
}

func TestScriptsComeBackAfterAFlush(t *testing.T) {
	t.Parallel()
	s, server := own(t)
	client := server.Client()
	for i := range 3 {
		id := fmt.Sprint(i)
		if got, err := s.Hold(t.Context(), store.Take{Account: "user:u", ID: id, Output: 10,
			Buckets: []bucket.Bucket{tokens(1000, "{user:u}:b:x")}}); err != nil || got.Outcome != store.Admitted {
			t.Fatalf("hold %d: %+v, %v", i, got, err)
		}
		if err := client.ScriptFlush(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		got, err := s.Settle(t.Context(), []store.Settlement{{Account: "user:u", ID: id, Charged: 1}, {Account: "user:u", ID: id, Charged: 1}})
		if err != nil || got[0].Status != store.Settled || got[1].Status != store.Duplicate {
			t.Fatalf("settle %d: %+v, %v", i, got, err)
		}
	}
}

// TestDamageStaysWithItsAccount puts what is no bucket and no hold under two names: the
// other calls of the same batch are held and settled all the same.
func TestDamageStaysWithItsAccount(t *testing.T) {
	t.Parallel()
	s, server := own(t)
	client := server.Client()
	if err := client.Set(t.Context(), "{user:bad}:b:x", "short", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if err := client.Set(t.Context(), s.HoldKey("user:worse", "1"), "H too short", 0).Err(); err != nil {
		t.Fatal(err)
	}
	takes := []store.Take{
		{Account: "user:good", ID: "1", Output: 10, Buckets: []bucket.Bucket{tokens(1000, "{user:good}:b:x")}},
		{Account: "user:bad", ID: "1", Output: 10, Buckets: []bucket.Bucket{tokens(1000, "{user:bad}:b:x")}},
		{Account: "user:worse", ID: "1", Output: 10, Buckets: []bucket.Bucket{tokens(1000, "{user:worse}:b:x")}},
		{Account: "user:fine", ID: "1", Output: 10, Buckets: []bucket.Bucket{tokens(1000, "{user:fine}:b:x")}},
	}
	got, err := s.HoldAll(t.Context(), takes)
	if err != nil {
		t.Fatal(err)
	}
	settlements := make([]store.Settlement, len(takes))
	for i, bad := range []bool{false, true, true, false} {
		if (got[i].Err != nil) != bad || !bad && got[i].Outcome != store.Admitted {
			t.Errorf("hold %d: want an error: %t, got %+v", i, bad, got[i])
		}
		settlements[i] = store.Settlement{Account: takes[i].Account, ID: "1", Charged: 5}
	}
	settled, err := s.Settle(t.Context(), settlements)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []store.Status{store.Settled, store.Unknown, store.Unknown, store.Settled} {
		if settled[i].Status != want {
			t.Errorf("settlement %d: want %c, got %c (%v)", i, want, settled[i].Status, settled[i].Err)
		}
	}
	visited := 0
	if _, err := s.Sweep(t.Context(), func(store.Hold) error { visited++; return nil }); !errors.Is(err, store.ErrReply) || visited != 0 {
		t.Errorf("want the sweep to tell of the damaged hold, got %v after %d", err, visited)
	}
}

func TestFailsFastWhileRedisIsDown(t *testing.T) {
	t.Parallel()
	s, server := own(t)
	take := store.Take{Account: "user:u", Output: 1, Buckets: []bucket.Bucket{tokens(1000, "{user:u}:b:x")}}
	hold := func(id string) error {
		take.ID = id
		_, err := s.Hold(t.Context(), take)
		return err
	}
	if err := hold("before"); err != nil {
		t.Fatal(err)
	}
	server.Kill()
	for i := range 20 {
		if err := hold("during"); !errors.Is(err, store.ErrUnavailable) {
			t.Fatalf("call %d: want ErrUnavailable, got %v", i, err)
		}
	}
	if !s.Down() {
		t.Error("want calls to fail at once after 20 failures")
	}
	server.Restart()
	eventually(t, func() error { return hold("after") })
	if s.Down() {
		t.Error("want Redis asked again")
	}
	seen, err := s.ReadState(t.Context(), "user:u", nil, take.Buckets)
	if err != nil || seen.States[0].Held != 2 {
		t.Errorf("want the holds of before and after, got %+v, %v", seen.States, err)
	}
}

func eventually(t *testing.T, f func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatal(err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// TestRestartInTheMiddle lets callers hold and settle, each step repeated until it is
// acknowledged, while Redis is killed and started again: every charge is in the bucket
// once, and nothing stays held.
func TestRestartInTheMiddle(t *testing.T) {
	t.Parallel()
	s, server := own(t)
	b := tokens(1e9, "{user:u}:b:x")
	const callers, calls, charge = 16, 30, 7
	var done atomic.Int64
	var group sync.WaitGroup
	for c := range callers {
		group.Go(func() {
			for i := range calls {
				id := fmt.Sprintf("%d-%d", c, i)
				eventually(t, func() error {
					_, err := s.Hold(t.Context(), store.Take{Account: "user:u", ID: id, Output: 100, Buckets: []bucket.Bucket{b}})
					return err
				})
				eventually(t, func() error {
					got, err := s.Settle(t.Context(), []store.Settlement{{Account: "user:u", ID: id, Charged: charge}})
					if err == nil && (got[0].Charged != charge || got[0].Status == store.Unknown) {
						t.Errorf("settle %s: %+v", id, got[0])
					}
					return err
				})
				if done.Add(1) == callers*calls/3 {
					server.Restart()
				}
			}
		})
	}
	group.Wait()
	seen, err := s.ReadState(t.Context(), "user:u", nil, []bucket.Bucket{b})
	if err != nil {
		t.Fatal(err)
	}
	if want := float64(callers * calls * charge); seen.States[0].Settled != want || seen.States[0].Held != 0 {
		t.Errorf("want %g settled and nothing held, got %+v", want, seen.States[0])
	}
}
