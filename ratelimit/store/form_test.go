package store_test

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
)

// noon is in the middle of a day, an hour, ... of UTC.
var noon = time.Date(2027, time.March, 10, 12, 30, 30, 0, time.UTC).UnixMicro()

// month is one of the calendar in UTC, as numbers of a limit.
func month(of time.Month, capacity float64) bucket.Params {
	begin := time.Date(2027, of, 1, 0, 0, 0, 0, time.UTC)
	return bucket.Params{Capacity: capacity, Origin: begin.UnixMicro(), Window: begin.AddDate(0, 1, 0).Sub(begin).Microseconds()}
}

// forms are limits of 100 of each kind.
func forms() map[string]bucket.Params {
	const second, day = 1e6, 86_400e6
	return map[string]bucket.Params{
		"a minute":               {Capacity: 100, Window: 60 * second},
		"an hour":                {Capacity: 100, Window: 3600 * second},
		"a day":                  {Capacity: 100, Window: day},
		"30 days":                {Capacity: 100, Window: 30 * day},
		"a month":                month(time.March, 100),
		"a bucket by the minute": {Capacity: 100, Rate: 100 / (60 * second)},
		"a bucket by the hour":   {Capacity: 100, Rate: 100 / (3600 * second)},
		"a bucket by the month":  {Capacity: 100, Rate: 100 / (30 * day)},
	}
}

// limited takes from one bucket by whatever limit it has at the time.
type limited struct {
	store *store.Store
	key   string
	clock *atomic.Int64
}

func newLimited(tb testing.TB, key string) *limited {
	tb.Helper()
	l := &limited{key: "{user:u}:b:" + key, clock: new(atomic.Int64)}
	l.clock.Store(noon)
	l.store = newStore(tb, l.clock.Load)
	return l
}

func (l *limited) bucket(kind bucket.Kind, p bucket.Params) []bucket.Bucket {
	return []bucket.Bucket{{Limit: bucket.NewLimit(kind, p), Key: l.key}}
}

// take takes so many, or nothing.
func (l *limited) take(p bucket.Params, hits int64) (admitted bool, after bucket.State, err error) {
	got, err := l.store.Hold(context.Background(), store.Take{Account: "user:u", Requests: hits, Buckets: l.bucket(bucket.Requests, p)})
	if err != nil {
		return false, bucket.State{}, err
	}
	return got.Outcome == store.Admitted, got.States[0], nil
}

// TestAChangedLimitKeepsWhatWasUsed uses 100 of 100 and gives the limit another algorithm or unit, in
// every direction: what was used a second later still is.
func TestAChangedLimitKeepsWhatWasUsed(t *testing.T) {
	t.Parallel()
	for before, from := range forms() {
		for after, to := range forms() {
			t.Run(before+" becomes "+after, func(t *testing.T) {
				t.Parallel()
				l := newLimited(t, "x")
				if ok, _, err := l.take(from, 100); !ok || err != nil {
					t.Fatalf("the first hundred: %t, %v", ok, err)
				}
				l.clock.Add(1e6)
				want := 100 - from.Rate*1e6
				seen, err := l.store.ReadState(t.Context(), "user:u", nil, l.bucket(bucket.Requests, to))
				if err != nil || math.Abs(seen.States[0].Settled-want) > 1e-9 {
					t.Errorf("want %g used, got %+v, %v", want, seen.States, err)
				}
				fits := int64(math.Floor(100 - want))
				if ok, _, err := l.take(to, fits+1); ok || err != nil {
					t.Errorf("one more than fits: admitted %t, %v", ok, err)
				}
				if ok, _, err := l.take(to, fits); !ok || err != nil {
					t.Errorf("what fits: admitted %t, %v", ok, err)
				}
			})
		}
	}
}

// bound is the most that a limit admits in an hour, from its begin.
func bound(p bucket.Params) float64 {
	if p.Window > 0 {
		return p.Capacity * float64(max(1, 3600e6/p.Window))
	}
	return p.Capacity + p.Rate*3600e6
}

// TestAWindowPaysWhatIsLeftOfAnother goes from 100 an hour, which are used, to 10 a minute: they are
// paid by the windows to come, and then 10 pass in each.
func TestAWindowPaysWhatIsLeftOfAnother(t *testing.T) {
	t.Parallel()
	l := newLimited(t, "x")
	l.clock.Store(noon - noon%3600e6)
	if ok, _, err := l.take(bucket.Params{Capacity: 100, Window: 3600e6}, 100); !ok || err != nil {
		t.Fatalf("the first hundred: %t, %v", ok, err)
	}
	var admitted []int
	for range 14 {
		n := 0
		for range 12 {
			if ok, _, err := l.take(bucket.Params{Capacity: 10, Window: 60e6}, 1); err != nil {
				t.Fatal(err)
			} else if ok {
				n++
			}
		}
		admitted = append(admitted, n)
		l.clock.Add(60e6)
	}
	if want := []int{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10, 10, 10, 10}; !slices.Equal(admitted, want) {
		t.Errorf("want %v admitted in each minute, got %v", want, admitted)
	}
}

// TestFlippingFormsAdmitsNoMore changes a limit all the time between two forms for an hour, whoever
// asks taking all there is: no more is admitted than by the larger of the two.
func TestFlippingFormsAdmitsNoMore(t *testing.T) {
	t.Parallel()
	hour := bucket.Params{Capacity: 100, Window: 3600e6}
	for name, other := range map[string]bucket.Params{
		"1 a minute":            {Capacity: 1, Window: 60e6},
		"10 a minute":           {Capacity: 10, Window: 60e6},
		"100 a minute":          {Capacity: 100, Window: 60e6},
		"1 a second":            {Capacity: 1, Window: 1e6},
		"50 a day":              {Capacity: 50, Window: 86_400e6},
		"100 a month":           month(time.March, 100),
		"a bucket of 10":        {Capacity: 10, Rate: 10.0 / 3600e6},
		"a bucket of 100":       {Capacity: 100, Rate: 10.0 / 3600e6},
		"a bucket, 10 a minute": {Capacity: 10, Rate: 10.0 / 60e6},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, stays := range []int{1, 2, 9, 40} { // so many times 20 s
				l := newLimited(t, "x")
				l.clock.Store(noon - noon%3600e6)
				total := 0.0
				for i := range 180 {
					p := []bucket.Params{hour, other}[i/stays%2]
					for _, hits := range []int64{100, 50, 20, 10, 5, 2, 1} {
						for ok := true; ok; {
							var err error
							if ok, _, err = l.take(p, hits); err != nil {
								t.Fatal(err)
							}
							if ok {
								total += float64(hits)
							}
						}
					}
					l.clock.Add(20e6 - 1)
				}
				if most := max(bound(hour), bound(other)); total > most || total < 100 {
					t.Errorf("changed every %d s: %g admitted, %g at most by either", 20*stays, total, most)
				}
			}
		})
	}
}

// TestScriptsTurnAsTheArithmetic: whatever forms a bucket had, the script that decides sees what the
// bucket package reads, also of holds that are settled under another form than they were taken in.
func TestScriptsTurnAsTheArithmetic(t *testing.T) {
	t.Parallel()
	var clock, serial atomic.Int64
	s := newStore(t, clock.Load)
	all := []bucket.Params{{Capacity: 5000, Window: 1e6}, {Capacity: 5000, Window: 60e6}, {Capacity: 5000, Window: 86_400e6}, {Capacity: 5000, Rate: 1e-4},
		{Capacity: 5000, Rate: 1e-6}, month(time.March, 5000), month(time.April, 5000), {Capacity: 5000, Window: 86_400e6, Origin: noon}}
	border := time.Date(2027, time.April, 1, 0, 0, 0, 0, time.UTC).UnixMicro()
	rapid.Check(t, func(t *rapid.T) {
		clock.Store(border - rapid.Int64Range(-5e6, 60e6).Draw(t, "start"))
		key := fmt.Sprintf("{user:u}:b:%d", serial.Add(1))
		var held []string
		t.Repeat(map[string]func(*rapid.T){
			"time": func(t *rapid.T) { clock.Add(rapid.Int64Range(-1e6, 20e6).Draw(t, "us")) },
			// By so much it is set back for good: stamps are from the future then.
			"back": func(t *rapid.T) {
				clock.Add(-rapid.SampledFrom([]int64{59e6, 61e6, 3600e6, 2 * 86_400e6}).Draw(t, "us"))
			},
			"take": func(t *rapid.T) {
				kind := rapid.SampledFrom([]bucket.Kind{bucket.Requests, bucket.Tokens, bucket.Counted}).Draw(t, "kind")
				b := []bucket.Bucket{{Limit: bucket.NewLimit(kind, rapid.SampledFrom(all).Draw(t, "form")), Key: key}}
				seen, err := s.ReadState(context.Background(), "user:u", nil, b)
				if err != nil {
					t.Fatal(err)
				}
				take, cost := store.Take{Account: "user:u", Requests: rapid.Int64Range(0, 900).Draw(t, "hits"), Buckets: b}, 0.0
				if kind == bucket.Tokens {
					take.ID, take.Output = fmt.Sprintf("id-%d", serial.Add(1)), take.Requests+1
					take.Requests = 0
				}
				got, err := s.Hold(context.Background(), take)
				if err != nil {
					t.Fatal(err)
				}
				switch {
				case kind == bucket.Tokens && got.Outcome == store.Admitted:
					held, cost = append(held, take.ID), float64(take.Output)
				case kind == bucket.Counted || got.Outcome == store.Admitted:
					cost = float64(take.Requests)
				}
				want := seen.States[0].Use(cost)
				if kind == bucket.Tokens {
					want = seen.States[0].Hold(cost)
				}
				if got.States[0] != want {
					t.Fatalf("read %+v, then took %g: got %+v", seen.States[0], cost, got.States[0])
				}
			},
			"settle": func(t *rapid.T) {
				if len(held) == 0 {
					t.Skip("nothing is held")
				}
				got, err := s.Settle(context.Background(), []store.Settlement{{Account: "user:u", ID: held[0], Charged: 5}})
				if err != nil || got[0].Status != store.Settled {
					t.Fatalf("settle %s: %+v, %v", held[0], got, err)
				}
				held = held[1:]
			},
		})
	})
}

// TestMonthsFollowEachOther counts in one month to its end and from zero in the next, whose limit has
// other numbers; what was held at the end of one and settled in the next counts there.
func TestMonthsFollowEachOther(t *testing.T) {
	t.Parallel()
	l := newLimited(t, "m")
	border := time.Date(2027, time.April, 1, 0, 0, 0, 0, time.UTC).UnixMicro()
	l.clock.Store(border - 2e6)
	if ok, _, err := l.take(month(time.March, 100), 100); !ok || err != nil {
		t.Fatalf("the first hundred of March: %t, %v", ok, err)
	}
	l.clock.Store(border - 1)
	if ok, _, _ := l.take(month(time.March, 100), 1); ok {
		t.Error("one more in the last moment of March: admitted")
	}
	l.clock.Store(border)
	if ok, after, err := l.take(month(time.March, 100), 40); !ok || after.Settled != 40 || err != nil { // by a process that is late
		t.Errorf("40 of April: %t, %+v, %v", ok, after, err)
	}
	if ok, after, err := l.take(month(time.April, 100), 60); !ok || after.Settled != 100 || err != nil {
		t.Errorf("60 more of April: %t, %+v, %v", ok, after, err)
	}
	if ok, _, _ := l.take(month(time.April, 100), 1); ok {
		t.Error("one more of April: admitted")
	}
	l.clock.Store(border + 30*86_400e6)
	take := store.Take{Account: "user:u", ID: "late", Output: 70, Buckets: l.bucket(bucket.Tokens, month(time.April, 100))}
	l.clock.Add(-1)
	take.Buckets[0].Key += "tokens"
	if got, err := l.store.Hold(t.Context(), take); err != nil || got.Outcome != store.Admitted {
		t.Fatalf("a hold at the end of April: %+v, %v", got, err)
	}
	l.clock.Add(1)
	if _, err := l.store.Settle(t.Context(), []store.Settlement{{Account: "user:u", ID: "late", Charged: 30}}); err != nil {
		t.Fatal(err)
	}
	may := take.Buckets
	may[0].Limit = bucket.NewLimit(bucket.Tokens, month(time.May, 100))
	seen, err := l.store.ReadState(t.Context(), "user:u", nil, may)
	if err != nil || seen.States[0] != (bucket.State{Settled: 30, At: month(time.May, 100).Origin}) {
		t.Errorf("want 30 settled in May, got %+v, %v", seen.States, err)
	}
}

// TestBucketsOfBeforeThereWereForms are three doubles; what they hold stays.
func TestBucketsOfBeforeThereWereForms(t *testing.T) {
	t.Parallel()
	client, prefix := testenv.Redis(t)
	s, err := store.New(store.Config{URL: "redis://" + client.Options().Addr, Prefix: prefix, Lifetime: time.Minute, SettledKept: time.Minute,
		Timeout: time.Minute, DialTimeout: time.Minute, Now: func() int64 { return noon }})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	hour := bucket.Params{Capacity: 100, Window: 3600e6}
	if err := client.Set(t.Context(), prefix+"{user:u}:b:x", bucket.Pack(99, 0, float64(noon-noon%3600e6)), 0).Err(); err != nil {
		t.Fatal(err)
	}
	for i, want := range []store.Outcome{store.Admitted, store.Refused} {
		got, err := s.Hold(t.Context(), store.Take{Account: "user:u", Requests: 1, Buckets: []bucket.Bucket{{Limit: bucket.NewLimit(bucket.Requests, hour),
			Key: "{user:u}:b:x"}}})
		if err != nil || got.Outcome != want || got.States[0].Settled != 100 {
			t.Errorf("request %d: want %s, got %+v, %v", i+1, want, got, err)
		}
	}
}
