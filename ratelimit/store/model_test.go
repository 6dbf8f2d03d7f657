package store_test

import (
	"context"
	"fmt"
	"math/big"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/balance"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
)

// The model keeps the books as a person would on paper: exact fractions for buckets, whole
// tokens for the pool, and for each hold what it took. It shares no code with the store.
type model struct {
	buckets [3]modelBucket // two of tokens, one of requests
	pool    *modelPool     // nil: Redis knows nothing
	holds   map[string]*modelHold
}

type modelBucket struct {
	capacity, settled, held *big.Rat
	rate                    *big.Rat // a microsecond
	window, at              int64
}

type modelPool struct {
	present                       bool
	begun                         bool // the ledger was in the window of index, which Redis' clock is not in
	version, credits, spent, held int64
	anchor, window, index         int64
}

type modelHold struct {
	cost, output, charged, expires int64
	drawn                          bool
	index                          int64
	done                           bool
	late                           bool  // the sweeper charged it, at since; a settlement corrects that once
	since                          int64 // microseconds
}

func rat(n int64) *big.Rat { return new(big.Rat).SetInt64(n) }

func floor(r *big.Rat) int64 {
	q, m := new(big.Int).DivMod(r.Num(), r.Denom(), new(big.Int))
	_ = m
	return q.Int64()
}

func (b *modelBucket) drain(now int64) {
	if b.window > 0 {
		begin := now - now%b.window
		if begin > b.at {
			b.settled = rat(0)
		}
		if begin > b.at || b.stale(now) {
			b.at = begin
		}
		return
	}
	if now > b.at {
		b.settled = new(big.Rat).Sub(b.settled, new(big.Rat).Mul(b.rate, rat(now-b.at)))
		if b.settled.Sign() < 0 {
			b.settled = rat(0)
		}
	}
	if now > b.at || b.stale(now) {
		b.at = now
	}
}

// stale reports whether the stamp is so far in the future that it counts as now.
func (b *modelBucket) stale(now int64) bool {
	if b.window > 0 {
		return b.at-(now-now%b.window) > b.window
	}
	return b.at-now > bucket.Ahead
}

// left is what fits into a drained bucket.
func (b *modelBucket) left(now int64) *big.Rat {
	c := *b
	c.drain(now)
	return new(big.Rat).Sub(new(big.Rat).Sub(c.capacity, c.settled), c.held)
}

func (p *modelPool) roll(now int64) {
	if p.window > 0 && now >= p.anchor {
		if k := (now - p.anchor) / p.window; k > p.index {
			p.index, p.spent, p.begun = k, carried(p.spent, p.credits, k-p.index), false
		}
	}
}

// early reports whether the window has not begun for longer than a clock is waited for.
func (p *modelPool) early(now int64) bool {
	return p.window > 0 && p.index > 0 && p.anchor+p.index*p.window-now > bucket.Ahead
}

// admit is the decision: the outcome, the tokens held and those of the output.
func (m *model) admit(t store.Take, now int64) (store.Outcome, int64, int64) {
	if h := m.holds[t.ID]; h != nil {
		return store.Repeated, h.cost, h.output
	}
	filling, output, fits := t.Output == 0 && t.Fill > 0, t.Output, true
	if filling {
		output = t.Fill
	}
	for i := range 2 {
		b := &m.buckets[i]
		left := b.left(now)
		switch rest := floor(new(big.Rat).Sub(left, rat(t.Input))); {
		case !filling:
			fits = fits && left.Cmp(rat(t.Input+t.Output)) >= 0
		case rest < min(16, t.Fill):
			fits = false
		default:
			least := min(t.Fill, max(16, floor(b.capacity)/8))
			fits = fits && (rest >= least || b.held.Sign() <= 0)
			output = min(output, rest, max(least, rest/4))
		}
	}
	fits = fits && m.buckets[2].left(now).Cmp(rat(t.Requests)) >= 0
	refusal := store.Admitted
	if !fits {
		refusal = store.Refused
	}
	switch p := m.pool; {
	case t.Pool == store.PoolNone:
	case p == nil && fits:
		refusal = store.Missing
	case p == nil:
	case !p.present && t.Pool == store.PoolRequired:
		refusal = store.NoPool
	case p.present:
		c := *p
		c.roll(now)
		rest := c.credits - c.spent - c.held - t.Input
		switch {
		case c.early(now) && !c.begun && fits:
			refusal = store.Missing
		case c.early(now) && !c.begun:
		case !filling && rest < output, filling && rest < min(16, t.Fill):
			refusal = store.Short
		case filling:
			output = min(output, rest)
		}
	}
	if refusal != store.Admitted {
		return refusal, 0, 0
	}
	return refusal, t.Input + output, output
}

func (m *model) take(t store.Take, now int64) (store.Outcome, int64, int64) {
	outcome, cost, output := m.admit(t, now)
	if outcome != store.Admitted {
		for i := range m.buckets {
			if b := &m.buckets[i]; b.stale(now) {
				b.drain(now)
			}
		}
		return outcome, cost, output
	}
	h := &modelHold{cost: cost, output: output, expires: now + time.Minute.Microseconds()}
	for i := range m.buckets {
		m.buckets[i].drain(now)
		if i < 2 {
			m.buckets[i].held = new(big.Rat).Add(m.buckets[i].held, rat(cost))
		} else {
			m.buckets[i].settled = new(big.Rat).Add(m.buckets[i].settled, rat(t.Requests))
		}
	}
	if p := m.pool; p != nil && p.present && t.Pool != store.PoolNone {
		p.roll(now)
		p.held += cost
		h.drawn, h.index = true, p.index
	}
	m.holds[t.ID] = h
	return outcome, cost, output
}

func (m *model) settle(id string, charged, now int64) {
	h := m.holds[id]
	if h != nil && h.late {
		m.correct(h, charged, now)
	}
	if h == nil || h.done {
		return
	}
	h.done, h.charged = true, charged
	for i := range 2 {
		b := &m.buckets[i]
		b.drain(now)
		b.held = new(big.Rat).Sub(b.held, rat(h.cost))
		b.settled = new(big.Rat).Add(b.settled, rat(charged))
	}
	if p := m.pool; h.drawn && p != nil {
		p.held -= h.cost
		if h.index >= p.index {
			p.spent += charged
		}
	}
}

func (m *model) expire(id string, now int64) {
	if h := m.holds[id]; h != nil && h.expires <= now && !h.done {
		m.settle(id, h.cost, now)
		h.late, h.since = true, now
	}
}

// correct replaces the sweeper's charge. Of what was too much, only what is still there comes back.
func (m *model) correct(h *modelHold, charged, now int64) {
	more := charged - h.charged
	h.late, h.charged = false, charged
	for i := range 2 {
		b := &m.buckets[i]
		b.drain(now)
		change := rat(more)
		switch {
		case more > 0:
		case b.window > 0 && h.since < b.at:
			change = rat(0)
		case b.window == 0:
			drained := new(big.Rat).Mul(b.rate, rat(max(0, now-h.since)))
			if change.Add(change, drained); change.Sign() > 0 {
				change = rat(0)
			}
		}
		if b.settled = new(big.Rat).Add(b.settled, change); b.settled.Sign() < 0 {
			b.settled = rat(0)
		}
	}
	if p := m.pool; h.drawn && p != nil && h.index >= p.index {
		p.spent = max(0, p.spent+more)
	}
}

func (m *model) refund(n, now int64) {
	b := &m.buckets[2]
	b.drain(now)
	if b.settled = new(big.Rat).Sub(b.settled, rat(n)); b.settled.Sign() < 0 {
		b.settled = rat(0)
	}
}

// carried lets one window after the other pay of what is spent.
func carried(spent, credits, windows int64) int64 {
	for ; windows > 0 && spent > 0 && credits > 0; windows-- {
		spent = max(0, spent-credits)
	}
	return spent
}

// told takes a state over. States of this test keep anchor and window.
func (m *model) told(b balance.State, asked bool, now int64) {
	fresh := modelPool{present: b.Present, version: b.Version, credits: b.Credits, anchor: b.Anchor.UnixMicro(),
		window: b.Window.Microseconds()}
	if b.Window == 0 {
		fresh.anchor = 0
	}
	fresh.roll(now)
	of := modelPool{anchor: fresh.anchor, window: fresh.window}
	of.roll(b.At.UnixMicro())
	p := m.pool
	switch {
	case p == nil && !asked:
	case p == nil:
		m.pool = &fresh
		m.pool.spent = carried(b.Spent, b.Credits, fresh.index-of.index)
	case p.present && b.Present:
		p.roll(now)
		read := modelPool{anchor: p.anchor, window: p.window}
		read.roll(b.At.UnixMicro())
		if early := p.early(now); early && asked {
			p.index = max(fresh.index, min(p.index, read.index))
			p.begun = read.index >= p.index && p.index > fresh.index
		} else {
			p.begun = early && (p.begun || read.index >= p.index)
		}
		if read.index <= p.index {
			p.spent = max(p.spent, carried(b.Spent, b.Credits, p.index-read.index))
		}
		if b.Version >= p.version {
			p.version, p.credits = b.Version, b.Credits
		}
	case b.Version < p.version || b.Version == p.version && p.present:
	default:
		fresh.held = p.held
		fresh.spent = carried(b.Spent, b.Credits, fresh.index-of.index)
		m.pool = &fresh
	}
}

func newModel(t *rapid.T, prefix string) (*model, []bucket.Bucket) {
	m := &model{holds: map[string]*modelHold{}}
	out := make([]bucket.Bucket, len(m.buckets))
	for i := range m.buckets {
		// Rates of whole 2^-20ths are exact as doubles and so is all that follows.
		rate := rapid.Int64Range(0, 8000).Draw(t, "rate")
		p := bucket.Params{Capacity: float64(rapid.IntRange(1, 3000).Draw(t, "capacity")), Rate: float64(rate) / (1 << 20)}
		if rapid.IntRange(0, 3).Draw(t, "windowed") == 0 {
			p.Window = 1e6
		}
		kind := bucket.Tokens
		if i == 2 {
			kind = bucket.Requests
		}
		out[i] = bucket.Bucket{Limit: bucket.NewLimit(kind, p), Key: fmt.Sprintf("%s:b:%d", prefix, i)}
		m.buckets[i] = modelBucket{capacity: new(big.Rat).SetFloat64(p.Capacity), settled: rat(0), held: rat(0), rate: big.NewRat(rate, 1<<20),
			window: p.Window}
	}
	return m, out
}

// TestBooksAreExact runs random holds, settlements, refunds, expiries, changes of the
// balance and clock jumps through Redis and through the model: not a millionth of a token
// may differ.
func TestBooksAreExact(t *testing.T) {
	t.Parallel()
	var clock, serial atomic.Int64
	s := newStore(t, clock.Load)
	ctx := context.Background()
	rapid.Check(t, func(t *rapid.T) {
		clock.Store(1_790_000_000_000_000)
		account := fmt.Sprintf("user:model-%d", serial.Add(1))
		m, buckets := newModel(t, "{"+account+"}")
		ids := []string{"id-0"}
		anchor := time.UnixMicro(clock.Load() - rapid.Int64Range(0, 5e6).Draw(t, "since the anchor"))
		window := rapid.SampledFrom([]time.Duration{0, time.Second, time.Hour}).Draw(t, "window")
		t.Repeat(map[string]func(*rapid.T){
			"time passes": func(t *rapid.T) { clock.Add(rapid.Int64Range(0, 2e6).Draw(t, "us")) },
			"clock jumps": func(t *rapid.T) { clock.Add(rapid.Int64Range(-200e6, 200e6).Draw(t, "us")) },
			"hold": func(t *rapid.T) {
				id := fmt.Sprintf("id-%d", rapid.IntRange(0, 30).Draw(t, "id"))
				ids = append(ids, id)
				take := store.Take{Account: account, ID: id, Requests: 1, Input: rapid.Int64Range(0, 300).Draw(t, "input"), Buckets: buckets,
					Provider: "openai",
					Pool: rapid.SampledFrom([]store.PoolPart{store.PoolIfPresent, store.PoolIfPresent, store.PoolRequired, store.PoolNone}).Draw(t,
						"pool")}
				if rapid.Bool().Draw(t, "stated") {
					take.Output = rapid.Int64Range(1, 500).Draw(t, "output")
				} else {
					take.Fill = rapid.Int64Range(1, 500).Draw(t, "fill")
				}
				outcome, cost, output := m.take(take, clock.Load())
				got, err := s.Hold(ctx, take)
				compare(t, "hold", fmt.Sprintf("%c %d %d", outcome, cost, output), fmt.Sprintf("%c %d %d", got.Outcome, got.Held, got.Output), err)
			},
			"settle": func(t *rapid.T) {
				id, charged := rapid.SampledFrom(ids).Draw(t, "id"), rapid.Int64Range(0, 900).Draw(t, "charged")
				m.settle(id, charged, clock.Load())
				if _, err := s.Settle(ctx, []store.Settlement{{Account: account, ID: id, Charged: charged}}); err != nil {
					t.Fatal(err)
				}
			},
			"expire": func(t *rapid.T) {
				id := rapid.SampledFrom(ids).Draw(t, "id")
				m.expire(id, clock.Load())
				if _, _, err := s.Expire(ctx, account, id, true); err != nil {
					t.Fatal(err)
				}
			},
			"refund": func(t *rapid.T) {
				n := rapid.Int64Range(1, 20).Draw(t, "n")
				back := buckets[2]
				back.Own, back.HasOwn = -n, true
				m.refund(n, clock.Load())
				if got, err := s.Hold(ctx, store.Take{Account: account, Buckets: []bucket.Bucket{back}}); err != nil || got.Outcome != store.Admitted {
					t.Fatalf("refund: %+v, %v", got, err)
				}
			},
			"balance": func(t *rapid.T) {
				b := balance.State{Account: account, Provider: "openai", Present: rapid.IntRange(0, 5).Draw(t, "present") > 0,
					Version: rapid.Int64Range(1, 20).Draw(t, "version"),
					Credits: rapid.Int64Range(0, 5000).Draw(t, "credits"), Spent: rapid.Int64Range(0, 1000).Draw(t, "spent"), Window: window,
					Anchor: anchor,
					At:     time.UnixMicro(clock.Load() + rapid.Int64Range(-2e6, 2e6).Draw(t, "read"))}
				asked := rapid.Bool().Draw(t, "asked")
				if m.told(b, asked, clock.Load()); asked {
					_, err := s.SetBalance(ctx, b)
					compare(t, "balance", "", "", err)
					return
				}
				_, err := s.UpdateBalance(ctx, b)
				compare(t, "balance", "", "", err)
			},
			"": func(t *rapid.T) { m.check(t, s, account, buckets, clock.Load()) },
		})
	})
}

// check compares every bucket and the pool.
func (m *model) check(t *rapid.T, s *store.Store, account string, buckets []bucket.Bucket, now int64) {
	seen, err := s.ReadState(context.Background(), account, nil, buckets, "openai")
	if err != nil {
		t.Fatal(err)
	}
	for i, b := range m.buckets {
		b.drain(now)
		got := seen.States[i]
		if new(big.Rat).SetFloat64(got.Settled).Cmp(b.settled) != 0 || new(big.Rat).SetFloat64(got.Held).Cmp(b.held) != 0 {
			t.Fatalf("bucket %d: want %s settled and %s held, got %+v", i, b.settled.FloatString(8), b.held.FloatString(8), got)
		}
	}
	var want store.Pool
	if m.pool != nil {
		p := *m.pool
		p.roll(now)
		want = store.Pool{Known: true, Present: p.present, Version: p.version, Credits: p.credits, Spent: p.spent, Held: p.held,
			Anchor: p.anchor, Window: p.window, Index: p.index}
	}
	if got := seen.Pools[0]; got != want {
		t.Fatalf("pool: want %+v, got %+v", want, got)
	}
}
