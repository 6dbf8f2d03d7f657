package wire

import (
	"math"
	"strconv"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
)

// describe adds the state of the limits, for SDKs and for people: of each unit the
// limit with the least left, and every limit in the IETF draft's two headers.
func (r *Response) describe(d *Decision) {
	if len(d.Limits) == 0 {
		return
	}
	tokens, requests := d.tightest(limits.Tokens), d.tightest(limits.Requests)
	r.describeUnit(d, requests, "x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests")
	r.describeUnit(d, tokens, "x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens")
	var room, more [256]byte
	policy, state := room[:0], more[:0]
	for i, l := range d.Limits {
		if i > 0 {
			policy, state = append(policy, ", "...), append(state, ", "...)
		}
		policy = append(policy, l.Policy...)
		state = append(state, l.Item...)
		state = strconv.AppendInt(state, d.remaining(i), 10)
		state = append(state, ";t="...)
		state = strconv.AppendInt(state, up(d.reset(i), second), 10)
	}
	r.addHeader("ratelimit-policy", string(policy))
	r.addHeader("ratelimit", string(state))
	if tokens < 0 {
		tokens = requests
	}
	r.addHeader("x-leaky-policy", d.Limits[tokens].Rule.Name)
}

// describeUnit adds the three headers of limit i, none if i is -1.
func (r *Response) describeUnit(d *Decision, i int, limit, left, reset string) {
	if i < 0 {
		return
	}
	r.addHeader(limit, d.Limits[i].Capacity)
	r.addHeader(left, strconv.FormatInt(d.remaining(i), 10))
	r.addHeader(reset, duration(d.reset(i)))
}

// tightest is the limit of a unit with the least left, -1 when there is none.
func (d *Decision) tightest(unit limits.Unit) int {
	best := -1
	for i, l := range d.Limits {
		if l.Rule.Unit == unit && (best < 0 || d.remaining(i) < d.remaining(best)) {
			best = i
		}
	}
	return best
}

// remaining is capacity less level of limit i, holds included, rounded down and not below
// zero.
func (d *Decision) remaining(i int) int64 {
	return int64(max(0, math.Floor(d.Limits[i].Params.Capacity-d.States[i].Level())))
}

// reset is how long until limit i is empty, in microseconds.
func (d *Decision) reset(i int) int64 { return d.Limits[i].Params.Reset(d.States[i], d.Now) }
