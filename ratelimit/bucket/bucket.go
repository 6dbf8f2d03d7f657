// Package bucket is the limiter's arithmetic, and nothing else: what a bucket holds
// after some time, whether a cost fits, how much of an unstated maximum to grant, and
// how long to wait. It is pure; ratelimit/store's Lua scripts do the same steps in the
// same order on the same doubles, and a test holds the two together.
//
// A bucket's level has two parts. The settled part is what was really used: it drains.
// The held part is what running calls may still use: it stands until they settle and
// does not drain, because those tokens may all be served in the last second of the call.
// So in any interval the tokens served are at most capacity + drain, no matter when
// within a call the provider serves them. (Were holds to drain too, the refund of a
// hold that had drained already would give the same room out twice.)
package bucket

import "math"

// LeastFill is the fewest output tokens worth granting to a call that states no
// maximum, when all that is left is less than the fill.
const LeastFill = 16

// Never is the wait for what cannot ever fit.
const Never = -1

// Params are one limit's numbers.
type Params struct {
	Capacity float64 // most the bucket holds, >= 0
	Rate     float64 // drained per microsecond, >= 0; without meaning in a window
	Window   int64   // microseconds of a fixed window; 0: a leaky or token bucket
	Origin   int64   // when one of the windows begins, microseconds since the epoch; 0: they count from there
}

// State is what a bucket holds at a time.
type State struct {
	Settled float64 // used, drains
	Held    float64 // held by running calls, stands
	At      int64   // microseconds since the epoch, up to Ahead in the future; in a window, the begin of it, or of the next
}

// Level is all that is in the bucket.
func (s State) Level() float64 { return s.Settled + s.Held }

// Ahead is how far a bucket's stamp may be ahead of the clock and still be waited for, in
// microseconds: a clock that was set back by less comes to the same times once more, and
// what drained then must not drain again. A stamp further ahead is an error of the clock
// before and counts as now.
const Ahead = 60_000_000

// Drain is the state at now. A clock that went back drains nothing, and a window that it
// left, and comes back to, is not emptied again.
func (p Params) Drain(s State, now int64) State {
	if p.Window > 0 {
		begin := p.begin(now)
		switch {
		case begin > s.At:
			s.Settled, s.At = 0, begin
		case s.At-begin > p.Window:
			s.At = begin
		}
		return s
	}
	switch {
	case now > s.At:
		// float64() keeps the compiler from fusing the two steps, which Lua does not.
		s.Settled = max(0, s.Settled-float64(p.Rate*float64(now-s.At)))
		s.At = now
	case s.At-now > Ahead:
		s.At = now
	}
	return s
}

// Fits reports whether cost fits into a drained state.
func (p Params) Fits(s State, cost float64) bool {
	return s.Settled+s.Held+cost <= p.Capacity
}

// Grant is how many output tokens to hold for a call that states no maximum, beside
// its input, up to fill. While the bucket has plenty that is fill. When it has not, a
// call gets a quarter of what is left, so that the first of many does not take it all,
// but not less than worthwhile; and if only less than that is left while other calls
// hold room, it is refused: the room they give back makes a better answer than a cut
// one now. Only the last of the bucket, with nobody holding, is given out in full.
func (p Params) Grant(s State, input, fill float64) (float64, bool) {
	left := math.Floor(p.Capacity - s.Settled - s.Held - input)
	if left < min(LeastFill, fill) {
		return 0, false
	}
	least := p.worthwhile(fill)
	if left < least && s.Held > 0 {
		return 0, false
	}
	return min(fill, left, max(least, math.Floor(left/4))), true
}

// worthwhile is the smallest grant while others hold room: the fill, but no more than
// an eighth of the bucket.
func (p Params) worthwhile(fill float64) float64 {
	return min(fill, max(LeastFill, math.Floor(p.Capacity/8)))
}

// Hold adds to the held part.
func (s State) Hold(cost float64) State {
	s.Held += cost
	return s
}

// Use adds to the settled part at once.
func (s State) Use(cost float64) State {
	s.Settled += cost
	return s
}

// Settle replaces a hold by what was used. The state must be drained. Neither part
// goes below zero, so that a bucket lost meanwhile is no credit.
func (s State) Settle(held, charged float64) State {
	s.Held = max(0, s.Held-held)
	s.Settled += charged
	return s
}

// Correct replaces a charge of before, made at since, by one of after. The state must be drained to
// now. What was charged too much is given back as far as it is still there: of a window nothing once
// another has begun, else not what drained since, lest the bucket be emptier than if the right charge
// had come at once.
func (p Params) Correct(s State, before, after float64, since, now int64) State {
	more := after - before
	switch {
	case more > 0:
		s.Settled += more
	case p.Window > 0:
		if since >= s.At {
			s.Settled = max(0, s.Settled+more)
		}
	default:
		s.Settled = max(0, s.Settled-max(0, -more-float64(p.Rate*float64(max(0, now-since)))))
	}
	return s
}

// Wait is how long until cost may fit into a drained state, in microseconds from now:
// 0 if it fits, Never if it cannot. soon is how long other calls may take to give back
// what they hold; it bounds the wait when only holds are in the way.
func (p Params) Wait(s State, cost float64, now, soon int64) int64 {
	switch {
	case cost > p.Capacity:
		return Never
	case p.Fits(s, cost):
		return 0
	}
	drained := p.untilSettled(s, p.Capacity-s.Held-cost, now)
	if s.Held <= 0 {
		return drained
	}
	if drained == Never || drained > soon {
		drained = soon
	}
	return max(drained, p.untilSettled(s, p.Capacity-cost, now))
}

// WaitFill is Wait for a call that states no maximum (see Grant).
func (p Params) WaitFill(s State, input, fill float64, now, soon int64) int64 {
	least := min(LeastFill, fill)
	if input+least > p.Capacity {
		return Never
	}
	if s.Held > 0 {
		least = max(least, min(p.worthwhile(fill), p.Capacity-input))
	}
	return p.Wait(s, input+least, now, soon)
}

// untilSettled is how long until the settled part has drained to most, Never if it
// cannot get there.
func (p Params) untilSettled(s State, most float64, now int64) int64 {
	switch {
	case most < 0:
		return Never
	case s.Settled <= most:
		return 0
	case p.Window > 0:
		return max(p.Anew(now), s.At+p.Window-now)
	case p.Rate <= 0:
		return Never
	}
	return ceil((s.Settled-most)/p.Rate) + max(0, s.At-now)
}

// Span is how long what is used counts at most, in microseconds: a window, or the time in which a full
// bucket drains; 0 for one that does not drain.
func (p Params) Span() float64 {
	switch {
	case p.Window > 0:
		return float64(p.Window)
	case p.Rate > 0:
		return p.Capacity / p.Rate
	}
	return 0
}

// Since is the moment from which on what was used may still count at now.
func (p Params) Since(now int64) int64 {
	if p.Window > 0 {
		return p.begin(now)
	}
	return now - int64(min(p.Span(), 366*24*3600*1e6))
}

// Reset is how long until the bucket is empty, holds taken for used, in microseconds.
func (p Params) Reset(s State, now int64) int64 {
	switch {
	case s.Level() <= 0:
		return 0
	case p.Window > 0:
		return p.Anew(now)
	case p.Rate <= 0:
		return 0
	}
	return ceil(s.Level() / p.Rate)
}

// Anew is how long until a window starts again, in microseconds; 0 for a bucket.
func (p Params) Anew(now int64) int64 {
	if p.Window <= 0 {
		return 0
	}
	return p.begin(now) + p.Window - now
}

// begin is when the window of now began. Of a time before Origin that is Origin: who counts windows
// of the calendar by a clock that is ahead is in the next one.
func (p Params) begin(now int64) int64 { return now - (now-p.Origin)%p.Window }

// ceil rounds up to whole microseconds and a bit more, so that rounding of the
// drain does not refuse who came back exactly on time. It is bounded to stay an int64.
func ceil(us float64) int64 {
	const year = 366 * 24 * 3600 * 1e6
	return int64(math.Ceil(min(us, year))) + 1
}
