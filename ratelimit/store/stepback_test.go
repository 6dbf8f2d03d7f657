package store_test

import (
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
)

// TestClockSteppingBackAdmitsNothingTwice fills a limit right after a border, sets the clock
// back over it and lets it come again: the same time is not used twice. A stamp from far in
// the future counts as now.
func TestClockSteppingBackAdmitsNothingTwice(t *testing.T) {
	t.Parallel()
	const minute = int64(60e6)
	border := int64(1_800_000_000_000_000) / minute * minute
	window := bucket.Params{Capacity: 10, Window: minute}
	leaky := bucket.Params{Capacity: 10, Rate: 10.0 / 60e6}
	for name, tc := range map[string]struct {
		params bucket.Params
		steps  []struct {
			at   int64
			fits bool // one more
		}
	}{
		"a window": {window, []struct {
			at   int64
			fits bool
		}{{-1e6, false}, {-30e6, false}, {1, false}, {59e6, false}, {minute, true}}},
		"a bucket": {leaky, []struct {
			at   int64
			fits bool
		}{{-30e6, false}, {0, false}, {5e6, false}, {7e6, true}}},
		"a window, far back": {window, []struct {
			at   int64
			fits bool
		}{{-10 * minute, false}, {-9 * minute, true}}},
		"a bucket, very far back": {leaky, []struct {
			at   int64
			fits bool
		}{{-10 * minute, false}, {-10*minute + 7e6, true}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client, prefix := testenv.Redis(t)
			now := border + 1
			s, err := store.New(store.Config{URL: "redis://" + client.Options().Addr, Prefix: prefix, Lifetime: time.Minute, SettledKept: time.Minute,
				Timeout: time.Minute, DialTimeout: time.Minute, Now: func() int64 { return now }})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			take := func(hits int64) store.Outcome {
				got, err := s.Hold(t.Context(), store.Take{Account: "user:u", Requests: hits, Buckets: []bucket.Bucket{{Limit: bucket.NewLimit(bucket.Requests,
					tc.params), Key: "{user:u}:b:x"}}})
				if err != nil {
					t.Fatal(err)
				}
				return got.Outcome
			}
			if take(10) != store.Admitted {
				t.Fatal("the first ten do not fit")
			}
			for _, step := range tc.steps {
				now = border + step.at
				if got := take(1); (got == store.Admitted) != step.fits {
					t.Errorf("%s after the border: want it to fit %t, got %c", time.Duration(step.at)*time.Microsecond, step.fits, got)
				}
			}
		})
	}
}

// TestASettlementCountsAStampOfTheFutureAsNow: the clock goes back while a call runs. Once it is settled its
// bucket drains, and its window ends, as from now on, also where the limit got another form meanwhile.
func TestASettlementCountsAStampOfTheFutureAsNow(t *testing.T) {
	t.Parallel()
	const minute = int64(60e6)
	leaky, window := bucket.Params{Capacity: 10, Rate: 10.0 / 60e6}, bucket.Params{Capacity: 10, Window: minute}
	for name, tc := range map[string]struct {
		held, after bucket.Params
		wait        int64 // until one more fits
	}{
		"a bucket":                 {leaky, leaky, 7e6},
		"a window":                 {window, window, minute},
		"a bucket becomes another": {leaky, bucket.Params{Capacity: 10, Rate: 20.0 / 60e6}, 7e6},
		"a bucket becomes a day":   {leaky, bucket.Params{Capacity: 10, Window: 1440 * minute}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLimited(t, "x")
			l.clock.Store(noon - noon%minute)
			held, err := l.store.Hold(t.Context(), store.Take{Account: "user:u", ID: "a", Output: 10, Buckets: l.bucket(bucket.Tokens, tc.held)})
			if err != nil || held.Outcome != store.Admitted {
				t.Fatalf("%+v, %v", held, err)
			}
			l.clock.Add(-90 * minute)
			if _, err := l.store.Settle(t.Context(), []store.Settlement{{Account: "user:u", ID: "a", Charged: 10}}); err != nil {
				t.Fatal(err)
			}
			one := func(id string) store.Outcome {
				got, err := l.store.Hold(t.Context(), store.Take{Account: "user:u", ID: id, Output: 1, Buckets: l.bucket(bucket.Tokens, tc.after)})
				if err != nil {
					t.Fatal(err)
				}
				return got.Outcome
			}
			if tc.wait == 0 {
				if got := one("b"); got != store.Refused {
					t.Errorf("what was used is kept: want it refused, got %c", got)
				}
				return
			}
			l.clock.Add(tc.wait)
			if got := one("b"); got != store.Admitted {
				t.Errorf("%s later: want one more admitted, got %c", time.Duration(tc.wait)*time.Microsecond, got)
			}
		})
	}
}

// TestAHoldOfTheFutureIsDueInItsTime: the clock goes back by a day, and nobody settles what was held before.
func TestAHoldOfTheFutureIsDueInItsTime(t *testing.T) {
	t.Parallel()
	const day, life = int64(86_400e6), int64(60e6)
	l := newLimited(t, "x")
	for _, id := range []string{"settled", "left"} {
		held, err := l.store.Hold(t.Context(), store.Take{Account: "user:u", ID: id, Output: 10, Facts: []byte("f"),
			Buckets: l.bucket(bucket.Tokens, bucket.Params{Capacity: 100, Window: day})})
		if err != nil || held.Outcome != store.Admitted {
			t.Fatalf("%+v, %v", held, err)
		}
	}
	if err := l.store.SetProgress(t.Context(), "a meter that is gone", 0, "the disk is full"); err != nil {
		t.Fatal(err)
	}
	l.clock.Add(-day)
	sweep := func() (due []string) {
		t.Helper()
		if _, err := l.store.Sweep(t.Context(), func(h store.Hold) error {
			r, expired, err := l.store.Expire(t.Context(), h.Account, h.ID, true)
			if expired && r.Taken == noon-day && string(r.Facts) == "f" && r.Held == 10 {
				due = append(due, h.ID)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return due
	}
	if due := sweep(); due != nil {
		t.Errorf("at once: want none due, got %v", due)
	}
	if done, err := l.store.Settle(t.Context(), []store.Settlement{{Account: "user:u", ID: "settled", Charged: 3}}); err != nil || done[0].Status != store.Settled ||
		done[0].Held != 10 {
		t.Errorf("want it settled, got %+v, %v", done, err)
	}
	l.clock.Add(life - 1)
	if due := sweep(); due != nil {
		t.Errorf("before its time: want none due, got %v", due)
	}
	l.clock.Add(1)
	if due := sweep(); len(due) != 1 || due[0] != "left" {
		t.Errorf("in its time: want the one that is left due, got %v", due)
	}
	if p, err := l.store.Progress(t.Context()); err != nil || p.Unwritable != "" {
		t.Errorf("what a meter said that is gone: want it over, got %+v, %v", p, err)
	}
}
