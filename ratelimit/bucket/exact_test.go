package bucket_test

import (
	"math"
	"math/big"
	"testing"

	"pgregory.net/rapid"

	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
)

// exact is a bucket in rational numbers, written from the definition and not from the code.
type exact struct {
	capacity, rate *big.Rat // rate per microsecond
	window         int64
	settled, held  *big.Rat
	at             int64
	forward        *big.Rat // microseconds the clock went forward
}

func rat(v float64) *big.Rat { return new(big.Rat).SetFloat64(v) }

func (e *exact) move(now int64) {
	switch {
	case e.window > 0:
		if now/e.window > e.at/e.window {
			e.settled = new(big.Rat)
		}
	case now > e.at:
		drained := new(big.Rat).Mul(e.rate, new(big.Rat).SetInt64(now-e.at))
		if e.settled.Sub(e.settled, drained); e.settled.Sign() < 0 {
			e.settled = new(big.Rat)
		}
	}
	far := e.at-now > bucket.Ahead
	if e.window > 0 {
		far = e.at/e.window-now/e.window > 1
	}
	if now > e.at {
		e.forward.Add(e.forward, new(big.Rat).SetInt64(now-e.at))
	}
	if now > e.at || far {
		e.at = now
	}
}

func (e *exact) left() *big.Rat {
	left := new(big.Rat).Sub(e.capacity, e.settled)
	return left.Sub(left, e.held)
}

const start = 1_790_000_000_000_000

// TestAgainstExactArithmetic runs random histories through the float64 bucket and a
// rational one. They agree on the level to a millionth, and on what fits unless it is a
// question of a millionth.
func TestAgainstExactArithmetic(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := bucket.Params{Capacity: float64(rapid.IntRange(1, 1_000_000_000).Draw(t, "capacity"))}
		if rapid.Bool().Draw(t, "window") {
			p.Window = rapid.SampledFrom([]int64{1e6, 60e6, 86400e6, 31536000e6}).Draw(t, "length")
		} else {
			p.Rate = float64(rapid.Uint32().Draw(t, "per period")) / float64(rapid.SampledFrom([]int64{1e6, 60e6, 86400e6}).Draw(t, "period"))
		}
		e := &exact{capacity: rat(p.Capacity), rate: rat(p.Rate), window: p.Window, settled: new(big.Rat), held: new(big.Rat), at: start,
			forward: new(big.Rat)}
		s, now := bucket.State{}, int64(start) // as the store makes it
		s = p.Drain(s, now)
		var holds []int64
		t.Repeat(map[string]func(*rapid.T){
			"time": func(t *rapid.T) { now += rapid.Int64Range(0, 120e6).Draw(t, "us") },
			"jump": func(t *rapid.T) { now = max(0, now+rapid.Int64Range(-1e12, 1e12).Draw(t, "us")) },
			"hold": func(t *rapid.T) {
				cost := rapid.OneOf(rapid.Int64Range(0, 1000), rapid.Int64Range(0, math.MaxInt32), rapid.Just(int64(p.Capacity))).Draw(t, "cost")
				e.move(now)
				s = p.Drain(s, now)
				room := e.left()
				want := room.Cmp(new(big.Rat).SetInt64(cost)) >= 0
				got := p.Fits(s, float64(cost))
				if got != want && !near(room, cost) {
					t.Fatalf("cost %d with %s left: want fits %t, got %t", cost, room.FloatString(9), want, got)
				}
				if wait := p.Wait(s, float64(cost), now, 1e5); (wait == bucket.Never) != (float64(cost) > p.Capacity) &&
					(p.Rate > 0 || p.Window > 0) || (wait == 0) != got {
					t.Fatalf("cost %d, fits %t: wait %d", cost, got, wait)
				}
				if got {
					s = s.Hold(float64(cost))
					e.held.Add(e.held, new(big.Rat).SetInt64(cost))
					holds = append(holds, cost)
				}
			},
			"settle": func(t *rapid.T) {
				if len(holds) == 0 {
					t.Skip("nothing held")
				}
				i := rapid.IntRange(0, len(holds)-1).Draw(t, "which")
				held := holds[i]
				holds = append(holds[:i], holds[i+1:]...)
				charged := rapid.Int64Range(0, 2*held).Draw(t, "charged")
				e.move(now)
				s = p.Drain(s, now).Settle(float64(held), float64(charged))
				e.held.Sub(e.held, new(big.Rat).SetInt64(held))
				e.settled.Add(e.settled, new(big.Rat).SetInt64(charged))
			},
			"": func(t *rapid.T) {
				e.move(now)
				s = p.Drain(s, now)
				diff := new(big.Rat).Sub(e.settled, rat(s.Settled))
				if f, _ := diff.Float64(); math.Abs(f) > 1e-6*(1+s.Settled) {
					t.Fatalf("settled: want %s, got %.9f", e.settled.FloatString(9), s.Settled)
				}
				if e.held.Cmp(rat(s.Held)) != 0 {
					t.Fatalf("held: want %s, got %g", e.held.FloatString(9), s.Held)
				}
			},
		})
	})
}

// near reports whether room and cost differ by less than a millionth of the cost.
func near(room *big.Rat, cost int64) bool {
	f, _ := new(big.Rat).Sub(room, new(big.Rat).SetInt64(cost)).Float64()
	return math.Abs(f) < 1e-6*(1+float64(cost))
}

// TestNoIntervalServesMore is the promise in its strong form. Calls hold, run for any
// time, are served all their tokens in their last moment, and settle for less than they
// held. In every interval between two settlements the tokens served are at most the
// capacity and what leaks in that time.
func TestNoIntervalServesMore(t *testing.T) {
	t.Parallel()
	type served struct {
		at     int64
		tokens float64
	}
	rapid.Check(t, func(t *rapid.T) {
		p := bucket.Params{Capacity: float64(rapid.IntRange(100, 10_000).Draw(t, "capacity")), Rate: rapid.Float64Range(0, 0.01).Draw(t, "rate")}
		s, now := bucket.State{}, int64(start) // as the store makes it
		var holds []float64
		var all []served
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			now += rapid.Int64Range(0, 300_000).Draw(t, "us")
			s = p.Drain(s, now)
			if cost := float64(rapid.IntRange(1, 2000).Draw(t, "cost")); p.Fits(s, cost) {
				s = s.Hold(cost)
				holds = append(holds, cost)
			}
			if len(holds) > 0 && rapid.Bool().Draw(t, "settles") {
				i := rapid.IntRange(0, len(holds)-1).Draw(t, "which")
				charged := math.Floor(holds[i] * rapid.Float64Range(0, 1).Draw(t, "share"))
				s = s.Settle(holds[i], charged)
				holds = append(holds[:i], holds[i+1:]...)
				all = append(all, served{now, charged})
			}
		}
		for i := range all {
			sum := 0.0
			for _, one := range all[i:] {
				sum += one.tokens
				if most := p.Capacity + p.Rate*float64(one.at-all[i].at); sum > most+1e-6 {
					t.Fatalf("served %g in %d us, at most %g may be", sum, one.at-all[i].at, most)
				}
			}
		}
	})
}

// TestWaitIsEnough waits as told, with nobody holding, and then fits.
func TestWaitIsEnough(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := bucket.Params{Capacity: float64(rapid.IntRange(1, 1e6).Draw(t, "capacity"))}
		if rapid.Bool().Draw(t, "window") {
			p.Window = 60e6
		} else {
			p.Rate = rapid.Float64Range(1e-9, 10).Draw(t, "rate")
		}
		now := start + rapid.Int64Range(0, 1e9).Draw(t, "now")
		s := p.Drain(bucket.State{Settled: rapid.Float64Range(0, 2*p.Capacity).Draw(t, "settled"), At: now}, now)
		cost := float64(rapid.IntRange(0, int(p.Capacity)).Draw(t, "cost"))
		wait := p.Wait(s, cost, now, 1e5)
		if wait < 0 {
			t.Fatalf("cost %g of %g: never", cost, p.Capacity)
		}
		if later := p.Drain(s, now+wait); !p.Fits(later, cost) {
			t.Fatalf("after %d us %+v: %g does not fit in %g", wait, later, cost, p.Capacity)
		}
	})
}

func TestWait(t *testing.T) {
	t.Parallel()
	leaky, window := bucket.Params{Capacity: 1000, Rate: 1e-4}, bucket.Params{Capacity: 1000, Window: 60e6}
	for name, tc := range map[string]struct {
		p    bucket.Params
		s    bucket.State
		cost float64
		want int64
	}{
		"fits":                              {leaky, bucket.State{Settled: 900}, 100, 0},
		"larger than the bucket":            {leaky, bucket.State{}, 1001, bucket.Never},
		"by leak":                           {leaky, bucket.State{Settled: 900}, 200, 1_000_001},
		"only holds in the way":             {leaky, bucket.State{Held: 900}, 200, 150_000},
		"holds in the way, leak is sooner":  {leaky, bucket.State{Held: 100, Settled: 801}, 100, 10_001},
		"holds and much settled in the way": {leaky, bucket.State{Held: 500, Settled: 900}, 200, 1_000_001},
		"window":                            {window, bucket.State{Settled: 900}, 200, 45e6},
		"window, only holds in the way":     {window, bucket.State{Held: 900}, 200, 150_000},
		"window, both in the way":           {window, bucket.State{Held: 900, Settled: 900}, 200, 45e6},
		"a bucket that never leaks":         {bucket.Params{Capacity: 10}, bucket.State{Settled: 10}, 1, bucket.Never},
		"a bucket for nothing":              {bucket.Params{}, bucket.State{}, 1, bucket.Never},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := tc.p.Wait(tc.s, tc.cost, 15e6, 150_000); got != tc.want {
				t.Errorf("want %d us, got %d", tc.want, got)
			}
		})
	}
}
