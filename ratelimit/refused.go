package ratelimit

import (
	"context"
	"time"

	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
)

// refusedFor is how long the levels of a refused request are remembered, in microseconds. It bounds
// what the memory can be wrong by: hits that somebody gave back, a Redis that lost its data.
const refusedFor = 1_000_000

// level is what was in a bucket when a request was refused.
type level struct {
	state bucket.State
	until int64 // microseconds of Redis' clock
}

// takesNothing reports whether a request takes nothing of its limits when it is refused, so that it
// may be refused without telling Redis: requests of our own Envoy that hold no tokens, and of others
// those of limits that count what is admitted alone, and questions whether there is room (hits of 0).
func (e *envoyCall) takesNothing() bool {
	for _, b := range e.matched.Buckets {
		if b.HasOwn && b.Own < 0 || b.Limit.Kind.CountsAll() && b.Own != 0 {
			return false
		}
	}
	return e.call == nil
}

// learnRefusal remembers the levels that Redis refused a request by.
//
// While they are remembered, a bucket is at least as full as they say, less what has drained since:
// others only add to it, and what this process gives back it forgets. Who does not fit into that does
// not fit, and is told so without a call of Redis, however often they ask.
func (e *envoyCall) learnRefusal() {
	t := &e.taken
	for i, b := range e.matched.Buckets {
		if b.Own < 0 {
			e.full.refused.Remove(window{e.matched.Limits[i], b.Key})
		}
	}
	if e.known || t.Outcome != store.Refused || len(t.States) != len(e.matched.Buckets) || e.others != nil && !e.others.how.Local ||
		!e.takesNothing() {
		return
	}
	e.full.ahead.Store(t.Now - time.Now().UnixMicro())
	for i, b := range e.matched.Buckets {
		e.full.refused.Add(window{e.matched.Limits[i], b.Key}, level{t.States[i], t.Now + refusedFor})
	}
}

// refuseAgain decides about a request all of whose limits were looked at within the last second, when
// one of them has no room for it yet.
func (s *Service) refuseAgain(ctx context.Context, p *policy, e *envoyCall) {
	if p.full.refused.Len() == 0 || !e.takesNothing() {
		return
	}
	now, room := s.clock(p), true
	states := make([]bucket.State, len(e.matched.Buckets))
	for i, b := range e.matched.Buckets {
		l := e.matched.Limits[i]
		known, ok := p.full.refused.Get(window{l, b.Key})
		if !ok || now >= known.until {
			return
		}
		states[i] = l.Params.Drain(known.state, now)
		hits := e.take.Requests
		if b.HasOwn {
			hits = b.Own
		}
		if l.Kind.Refuses() && !l.Params.Fits(l.Params.Drain(known.state, now+early), float64(hits)) {
			room = false
		}
	}
	if e.others != nil {
		_, refused := e.others.matched.Judge(states, false, e.others.how.Quota)
		room = room || !refused
	}
	if room {
		return
	}
	e.known = true
	s.conclude(ctx, &e.admission, store.Taken{Outcome: store.Refused, Now: now, States: states})
}
