package match

import (
	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
)

// Cost is what a request asked of its limits.
type Cost struct {
	Requests int64 // of each limit of requests that the request states no hits of its own for
	Input    int64 // tokens
	Output   int64 // tokens; 0 asks for Fill
	Fill     int64 // most tokens to grant for the output then
}

// Of is what a limit was asked for at most.
func (c Cost) Of(l *Limit) float64 {
	if l.Rule.Unit == limits.Requests {
		return float64(c.Requests)
	}
	return float64(c.Input + max(c.Output, c.Fill))
}

// Refusal is a limit that said no.
type Refusal struct {
	Limit *Limit
	Label string // of metrics
	Wait  int64  // microseconds until the request may fit, bucket.Never if it cannot ever
	Anew  int64  // microseconds until a fixed window starts again; 0: the limit is a bucket
}

// Blame finds the limit that refused a request at now (microseconds): the one with the
// longest wait. states are those of the limits; soon is how long other calls may take to
// give back what they hold.
func (m *Matched) Blame(states []bucket.State, c Cost, now, soon int64) Refusal {
	var worst Refusal
	for i, l := range m.Limits {
		if !l.Kind.Refuses() {
			continue
		}
		wait := m.wait(i, states[i], c, now, soon)
		if wait < 0 {
			return Refusal{Limit: l, Label: m.Label(i), Wait: wait, Anew: l.Params.Anew(now)}
		}
		if worst.Limit == nil || wait > worst.Wait {
			worst = Refusal{Limit: l, Label: m.Label(i), Wait: wait, Anew: l.Params.Anew(now)}
		}
	}
	return worst
}

// wait is how long until limit i may have room.
func (m *Matched) wait(i int, state bucket.State, c Cost, now, soon int64) int64 {
	p := m.Limits[i].Params
	switch {
	case m.Buckets[i].HasOwn:
		return p.Wait(state, float64(max(0, m.Buckets[i].Own)), now, soon)
	case m.Limits[i].Rule.Unit == limits.Requests:
		return p.Wait(state, float64(c.Requests), now, soon)
	case c.Output == 0 && c.Fill > 0:
		return p.WaitFill(state, float64(c.Input), float64(c.Fill), now, soon)
	}
	return p.Wait(state, float64(c.Input+c.Output), now, soon)
}
