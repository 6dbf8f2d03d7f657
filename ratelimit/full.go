package ratelimit

import (
	"context"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/match"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
)

const (
	// mostFull bounds the windows that are remembered, about 200 bytes each.
	mostFull = 1 << 16
	// early is how long before a window's end it is forgotten, in microseconds: our idea of
	// Redis' clock is late by the time that its answers take.
	early = 50_000
)

// full remembers windows of other domains that are above their limit. Until such a window
// ends nothing can fit into it, whatever else comes, so a request all of whose limits are such
// windows is answered without Redis: callers far above their limit cost it nothing. What they
// ask meanwhile is counted in the metrics and not in the window, which is above its limit with
// or without.
//
// A window is forgotten when it ends, when this process sees it below its limit (a refund),
// and with the policy it belongs to. Once an Envoy states a limit of its own, Redis is asked
// about everything again: such a limit may be above the rule's in the same window, and then it
// matters how far above the rule's limit the window is.
type full struct {
	windows *lru.Cache[window, overfull]
	refused *lru.Cache[window, level] // see refused.go
	off     atomic.Bool
	ahead   atomic.Int64 // Redis' clock before ours, in microseconds, by its last answer
}

// window is one of a limit.
type window struct {
	limit *match.Limit
	key   string
}

type overfull struct {
	until int64 // microseconds of Redis' clock
	level float64
}

func newFull() *full {
	windows, err := lru.New[window, overfull](mostFull)
	if err != nil { // only for a size below 1
		panic(err)
	}
	refused, err := lru.New[window, level](mostFull)
	if err != nil {
		panic(err)
	}
	return &full{windows: windows, refused: refused}
}

// eligible reports whether a limit's window stays above once it is.
func eligible(l *match.Limit) bool {
	return l.Rule.CountsAll && l.Rule.Algorithm == limits.FixedWindow
}

// refuseKnown decides about a request that is known to be refused.
func (s *Service) refuseKnown(ctx context.Context, p *policy, e *envoyCall) {
	if e.decided || e.call != nil || len(e.matched.Buckets) == 0 || e.others != nil && !p.others.Local {
		return
	}
	if s.refuseFull(ctx, p, e); !e.decided {
		s.refuseAgain(ctx, p, e)
	}
}

// refuseFull decides about a request all of whose windows are known to be above their limit.
func (s *Service) refuseFull(ctx context.Context, p *policy, e *envoyCall) {
	if e.others == nil || p.full.off.Load() || p.full.windows.Len() == 0 {
		return
	}
	now := s.clock(p)
	states := make([]bucket.State, len(e.matched.Buckets))
	for i, b := range e.matched.Buckets {
		l := e.matched.Limits[i]
		known, ok := p.full.windows.Get(window{l, b.Key})
		if !ok || b.Own < 0 || now >= known.until-early {
			return
		}
		states[i] = bucket.State{Settled: known.level + float64(b.Own), At: known.until - l.Params.Window}
	}
	e.known = true
	s.conclude(ctx, &e.admission, store.Taken{Outcome: store.Refused, Now: now, States: states})
}

// clock is Redis' time as far as we know it, in microseconds.
func (s *Service) clock(p *policy) int64 {
	if s.now != nil {
		return s.now()
	}
	return time.Now().UnixMicro() + p.full.ahead.Load()
}

// learn takes in what Redis said of a request's windows.
func (f *full) learn(m *match.Matched, t *store.Taken) {
	f.ahead.Store(t.Now - time.Now().UnixMicro())
	for i, b := range m.Buckets {
		l := m.Limits[i]
		if l.Overrides() {
			f.off.Store(true)
		}
		if !eligible(l) {
			continue
		}
		id := window{l, b.Key}
		if level := t.States[i].Level(); level > l.Params.Capacity {
			f.windows.Add(id, overfull{until: t.States[i].At + l.Params.Window, level: level})
		} else if f.windows.Len() > 0 {
			f.windows.Remove(id)
		}
	}
}
