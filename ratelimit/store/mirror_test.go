package store_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
)

// newStore is a store on the shared Redis whose clock the test sets.
func newStore(tb testing.TB, now func() int64) *store.Store {
	tb.Helper()
	client, prefix := testenv.Redis(tb)
	s, err := store.New(store.Config{URL: "redis://" + client.Options().Addr, Prefix: prefix, Lifetime: time.Minute, SettledKept: time.Hour,
		Timeout: time.Minute, DialTimeout: time.Minute, Now: now})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { s.Close() })
	return s
}

// mirror is the store in plain Go over the bucket package.
type mirror struct {
	buckets []bucket.Bucket
	states  []bucket.State
	fresh   []bool
	holds   map[string]*mirrorHold
}

type mirrorHold struct {
	held, output, charged int64
	expires, taken, since int64
	state                 store.Status // 0 held, S, L
	mended                bool         // settled after the sweep
	buckets               []int
}

func newMirror(buckets []bucket.Bucket) *mirror {
	return &mirror{buckets: buckets, states: make([]bucket.State, len(buckets)), fresh: slices.Repeat([]bool{true}, len(buckets)),
		holds: map[string]*mirrorHold{}}
}

// drained is a bucket's state at now, which it keeps.
func (m *mirror) drained(i int, now int64) bucket.State {
	if m.fresh[i] {
		m.states[i], m.fresh[i] = bucket.State{}, false
	}
	return m.buckets[i].Limit.Params.Drain(m.states[i], now)
}

// restamp lets a stamp from far in the future count as now from now on.
func (m *mirror) restamp(i int, now int64) {
	if !m.fresh[i] {
		if at := m.drained(i, now); at.At < m.states[i].At {
			m.states[i] = at
		}
	}
}

func (m *mirror) hold(t store.Take, which []int, now int64) store.Taken {
	for _, i := range which {
		m.restamp(i, now)
	}
	out := store.Taken{Outcome: store.Admitted, Now: now, Output: t.Output}
	drained, fits := make([]bucket.State, len(which)), true
	filling := t.Output == 0 && t.Fill > 0
	if filling {
		out.Output = t.Fill
	}
	for k, i := range which {
		fresh := m.fresh[i]
		drained[k] = m.drained(i, now)
		if m.fresh[i] = fresh; drained[k].At < m.states[i].At { // a stamp from far in the future counts as now
			m.states[i] = drained[k]
		}
		l := m.buckets[i].Limit
		switch {
		case l.Kind == bucket.Requests:
			fits = fits && l.Params.Fits(drained[k], float64(t.Requests))
		case l.Kind == bucket.Tokens && filling:
			grant, ok := l.Params.Grant(drained[k], float64(t.Input), float64(t.Fill))
			fits = fits && ok
			out.Output = min(out.Output, int64(grant))
		case l.Kind == bucket.Tokens:
			fits = fits && l.Params.Fits(drained[k], float64(t.Input+t.Output))
		}
	}
	out.States = drained
	if h := m.holds[t.ID]; h != nil {
		out.Outcome, out.Held, out.Output = store.Repeated, h.held, h.output
		return out
	}
	if !fits {
		out.Outcome, out.Output = store.Refused, 0
		return out
	}
	out.Held = t.Input + out.Output
	var stands []int
	for k, i := range which {
		before := drained[k].Level()
		if m.buckets[i].Limit.Kind.CountsTokens() {
			drained[k] = drained[k].Hold(float64(out.Held))
		} else {
			drained[k] = drained[k].Use(float64(t.Requests))
		}
		if l := m.buckets[i].Limit; l.Kind.Refuses() || drained[k].Level() <= max(before, l.Params.Capacity) {
			m.states[i], m.fresh[i] = drained[k], false
			stands = append(stands, i)
		}
	}
	m.holds[t.ID] = &mirrorHold{held: out.Held, output: out.Output, taken: now, expires: now + time.Minute.Microseconds(), buckets: stands}
	return out
}

func (m *mirror) settle(id string, charged, now int64, as store.Status) store.Settling {
	h := m.holds[id]
	switch {
	case h == nil:
		return store.Settling{Status: store.Unknown}
	case h.state == store.Settled:
		return store.Settling{Status: store.Duplicate, Held: h.held, Charged: h.charged}
	case h.state == store.Late && as == store.Late:
		return store.Settling{}
	case h.state == store.Late:
		for _, i := range h.buckets {
			if l := m.buckets[i].Limit; l.Kind.CountsTokens() && !h.mended {
				m.states[i] = l.Params.Correct(m.drained(i, now), float64(h.charged), float64(charged), h.since, now)
			}
		}
		if !h.mended {
			h.charged, h.mended = charged, true
		}
		return store.Settling{Status: store.Late, Held: h.held, Charged: h.charged, Taken: h.taken}
	}
	h.state, h.charged, h.since = as, charged, now
	for _, i := range h.buckets {
		if m.buckets[i].Limit.Kind.CountsTokens() {
			m.states[i] = m.drained(i, now).Settle(float64(h.held), float64(charged))
		}
	}
	return store.Settling{Status: store.Settled, Held: h.held, Charged: charged}
}

// randomBuckets are limits of every kind.
func randomBuckets(t *rapid.T, prefix string) []bucket.Bucket {
	var out []bucket.Bucket
	for i := range rapid.IntRange(1, 4).Draw(t, "buckets") {
		p := bucket.Params{Capacity: float64(rapid.IntRange(0, 2000).Draw(t, "capacity")), Rate: rapid.Float64Range(0, 0.01).Draw(t, "rate")}
		if rapid.IntRange(0, 2).Draw(t, "window") == 0 {
			p.Window = rapid.SampledFrom([]int64{1e6, 60e6, 3600e6}).Draw(t, "window length")
		}
		kind := rapid.SampledFrom([]bucket.Kind{bucket.Tokens, bucket.Tokens, bucket.Requests, bucket.ShadowTokens, bucket.ShadowRequests}).Draw(t,
			"kind")
		out = append(out, bucket.Bucket{Limit: bucket.NewLimit(kind, p), Key: fmt.Sprintf("%s{u}:b:%d", prefix, i)})
	}
	return out
}

// TestScriptsMirrorTheArithmetic runs random histories, clock jumps back and forth
// included, through Redis and through the bucket package and wants the same bits.
func TestScriptsMirrorTheArithmetic(t *testing.T) {
	t.Parallel()
	var clock, serial atomic.Int64
	s := newStore(t, clock.Load)
	rapid.Check(t, func(t *rapid.T) {
		run := serial.Add(1)
		account := fmt.Sprintf("user:%d", run)
		m := newMirror(randomBuckets(t, fmt.Sprintf("%d:", run)))
		clock.Store(1_790_000_000_000_000 + rapid.Int64Range(0, 1e12).Draw(t, "start"))
		ids := []string{"a"}
		t.Repeat(map[string]func(*rapid.T){
			"time passes": func(t *rapid.T) { clock.Add(rapid.Int64Range(0, 5e6).Draw(t, "us")) },
			"clock jumps": func(t *rapid.T) { clock.Add(rapid.Int64Range(-100e6, 100e6).Draw(t, "us")) },
			"hold": func(t *rapid.T) {
				id := fmt.Sprintf("id-%d", rapid.IntRange(0, 20).Draw(t, "id"))
				ids = append(ids, id)
				which := rapid.SliceOfNDistinct(rapid.IntRange(0, len(m.buckets)-1), 0, -1, rapid.ID[int]).Draw(t, "which")
				take := store.Take{Account: account, ID: id, Requests: 1, Input: rapid.Int64Range(0, 500).Draw(t, "input"), Facts: []byte("a\nb\x00c")}
				if rapid.Bool().Draw(t, "stated") {
					take.Output = rapid.Int64Range(1, 1000).Draw(t, "output")
				} else {
					take.Fill = rapid.Int64Range(0, 1000).Draw(t, "fill")
				}
				for _, i := range which {
					take.Buckets = append(take.Buckets, m.buckets[i])
				}
				want := m.hold(take, which, clock.Load())
				got, err := s.Hold(context.Background(), take)
				compare(t, "hold", fmt.Sprint(want), fmt.Sprint(got), err)
			},
			"settle": func(t *rapid.T) {
				one := store.Settlement{Account: account, ID: rapid.SampledFrom(ids).Draw(t, "id"), Charged: rapid.Int64Range(0, 1500).Draw(t,
					"charged")}
				want := m.settle(one.ID, one.Charged, clock.Load(), store.Settled)
				got, err := s.Settle(context.Background(), []store.Settlement{one})
				compare(t, "settle", fmt.Sprint([]store.Settling{want}), fmt.Sprint(got), err)
			},
			"expire": func(t *rapid.T) {
				id, charge := rapid.SampledFrom(ids).Draw(t, "id"), rapid.Bool().Draw(t, "charge")
				var charged int64
				h := m.holds[id]
				due := h != nil && h.state == 0 && h.expires <= clock.Load()
				if due {
					if charge {
						charged = h.held
					}
					m.settle(id, charged, clock.Load(), store.Late)
				}
				r, ok, err := s.Expire(context.Background(), account, id, charge)
				if want := h != nil && h.state == store.Late && !h.mended; ok != want {
					t.Fatalf("expire %s: want due %t, got %t (%v)", id, want, ok, err)
				}
				if ok && (string(r.Facts) != "a\nb\x00c" || r.Held != h.held || r.Charged != h.charged) {
					t.Fatalf("expire %s: want held %d charged %d, got %+v", id, h.held, h.charged, r)
				}
			},
			"": func(t *rapid.T) {
				seen, err := s.ReadState(context.Background(), account, slices.Sorted(maps.Keys(m.holds)), m.buckets)
				if err != nil {
					t.Fatal(err)
				}
				for i, id := range slices.Sorted(maps.Keys(m.holds)) {
					if r := seen.Records[i]; r.Held != m.holds[id].held || r.Charged != m.holds[id].charged {
						t.Fatalf("record of %s: want %+v, got %+v", id, m.holds[id], r)
					}
				}
				for i, got := range seen.States {
					fresh := m.fresh[i]
					want := m.drained(i, clock.Load())
					m.fresh[i] = fresh
					if got != want {
						t.Fatalf("bucket %d: want %+v, got %+v", i, want, got)
					}
				}
			},
		})
	})
}

func compare(t *rapid.T, what, want, got string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if want != got {
		t.Fatalf("%s:\nwant %s\ngot  %s", what, want, got)
	}
}

// TestAShadowBucketOfTheFutureTakesNothing: Redis' clock is set back by 100 s, and a call comes that
// a bucket in shadow has no room for.
func TestAShadowBucketOfTheFutureTakesNothing(t *testing.T) {
	t.Parallel()
	var clock atomic.Int64
	clock.Store(1_790_000_000_000_000)
	s := newStore(t, clock.Load)
	b := []bucket.Bucket{{Limit: bucket.NewLimit(bucket.ShadowRequests, bucket.Params{Capacity: 1, Rate: 1e-9}), Key: "{u}:b:shadow"}}
	for _, id := range []string{"first", "second"} {
		if got, err := s.Hold(t.Context(), store.Take{Account: "user:u", ID: id, Requests: 1, Buckets: b}); err != nil || got.Outcome != store.Admitted {
			t.Fatalf("%s: want it admitted, got %+v, %v", id, got, err)
		}
		clock.Add(-100e6)
	}
	seen, err := s.ReadState(t.Context(), "user:u", nil, b)
	if err != nil || seen.States[0].Settled != 1 {
		t.Errorf("want the first alone in the bucket, got %+v, %v", seen.States, err)
	}
}
