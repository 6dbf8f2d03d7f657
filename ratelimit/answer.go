package ratelimit

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/errorbody"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
)

const (
	second = int64(1e6) // microseconds
	milli  = int64(1e3)
)

// admit answers Envoy that a call holds.
func (c *call) admit(m matched, t store.Taken) *response {
	r := newResponse(codeOK)
	r.describe(m, t)
	r.header("x-leaky-hold", strconv.FormatInt(t.Held, 10))
	if t.Pool.Present {
		r.header("x-leaky-balance", strconv.FormatInt(t.Pool.Left(), 10))
	}
	r.text(attributes.Account, c.account)
	r.number(attributes.Held, float64(t.Held))
	r.number(attributes.Input, float64(min(c.input, t.Held)))
	c.identify(r)
	c.spliceInto(r, t.Output)
	return r
}

// spliceInto tells Envoy what to append to the body.
func (c *call) spliceInto(r *response, output int64) {
	members, generation := c.splice(output)
	if members != "" {
		r.text(attributes.Splice, members)
	}
	if generation != "" {
		r.text(attributes.SpliceGeneration, generation)
	}
}

// identify is what the spool tells of a call, admitted or not.
func (c *call) identify(r *response) {
	r.text(attributes.Model, c.model)
	r.text(attributes.Stream, strconv.FormatBool(c.stream))
}

// describe adds the state of the limits, for SDKs and for people: of each unit the
// limit with the least left, and every limit in the IETF draft's two headers.
func (r *response) describe(m matched, t store.Taken) {
	if len(m.limits) == 0 {
		return
	}
	tokens, requests := tightest(m, t, limits.Tokens), tightest(m, t, limits.Requests)
	r.unit(m, t, requests, "x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests")
	r.unit(m, t, tokens, "x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens")
	var room, more [256]byte
	policy, state := room[:0], more[:0]
	for i, l := range m.limits {
		if i > 0 {
			policy, state = append(policy, ", "...), append(state, ", "...)
		}
		policy = append(policy, l.policy...)
		state = append(state, l.name...)
		state = strconv.AppendInt(state, remaining(l, t, i), 10)
		state = append(state, ";t="...)
		state = strconv.AppendInt(state, up(l.store.Params.Reset(t.States[i], t.Now), second), 10)
	}
	r.header("ratelimit-policy", string(policy))
	r.header("ratelimit", string(state))
	if tokens < 0 {
		tokens = requests
	}
	r.header("x-leaky-policy", m.limits[tokens].rule.Name)
}

func (r *response) unit(m matched, t store.Taken, i int, limit, left, reset string) {
	if i < 0 {
		return
	}
	l := m.limits[i]
	r.header(limit, l.capacity)
	r.header(left, strconv.FormatInt(remaining(l, t, i), 10))
	r.header(reset, duration(l.store.Params.Reset(t.States[i], t.Now)))
}

// tightest is the limit of a unit with the least left, -1 when there is none.
func tightest(m matched, t store.Taken, unit limits.Unit) int {
	best := -1
	for i, l := range m.limits {
		if l.rule.Unit == unit && (best < 0 || remaining(l, t, i) < remaining(m.limits[best], t, best)) {
			best = i
		}
	}
	return best
}

// remaining is capacity less level, holds included, rounded down and not below zero.
func remaining(l *limit, t store.Taken, i int) int64 {
	return int64(max(0, math.Floor(l.store.Params.Capacity-t.States[i].Level())))
}

// up divides microseconds by a unit, rounding up.
func up(us, unit int64) int64 { return (us + unit - 1) / unit }

// duration is a Go duration in whole milliseconds, as OpenAI writes them.
func duration(us int64) string {
	return (time.Duration(up(us, milli)) * time.Millisecond).String()
}

// refused is a limit that said no, with the wait.
type refused struct {
	limit *limit
	label string // of metrics
	wait  int64  // microseconds, bucket.Never if it cannot ever fit
}

// blame finds the limit that refused: the one with the longest wait.
func (s *Service) blame(m matched, t store.Taken, take store.Take) refused {
	soon := s.soon()
	var worst refused
	for i, l := range m.limits {
		p, state := l.store.Params, t.States[i]
		if !l.store.Kind.Refuses() {
			continue
		}
		var wait int64
		switch {
		case m.buckets[i].HasOwn:
			wait = p.Wait(state, float64(max(0, m.buckets[i].Own)), t.Now, soon)
		case l.rule.Unit == limits.Requests:
			wait = p.Wait(state, float64(take.Requests), t.Now, soon)
		case take.Output == 0 && take.Fill > 0:
			wait = p.WaitFill(state, float64(take.Input), float64(take.Fill), t.Now, soon)
		default:
			wait = p.Wait(state, float64(take.Input+take.Output), t.Now, soon)
		}
		if wait < 0 {
			return refused{limit: l, label: m.label(i), wait: wait}
		}
		if worst.limit == nil || wait > worst.wait {
			worst = refused{limit: l, label: m.label(i), wait: wait}
		}
	}
	return worst
}

// refuse answers Envoy that a call may not pass, in the shape of the call's family.
func (c *call) refuse(m matched, t store.Taken, no refused) *response {
	r := newResponse(codeOverLimit)
	r.describe(m, t)
	if budget, spent := c.spent(no); spent {
		r.header("x-should-retry", "false")
		c.identify(r)
		c.answer(r, budget)
		return r
	}
	if no.wait < 0 {
		r.header("x-should-retry", "false")
	} else {
		r.retry(no.wait)
		r.header("x-should-retry", "true")
	}
	c.identify(r)
	c.body(r, c.explain(no), max(0, no.wait))
	return r
}

// topUp is where a balance is bought.
const topUp = "Top up with POST /api/v1/tokens/purchase."

// refuseBalance answers that the account's pool does not cover the call. Coming back
// does not help, so SDKs are told not to.
func (c *call) refuseBalance(m matched, t store.Taken) *response {
	r := newResponse(codeOverLimit)
	r.describe(m, t)
	r.header("x-leaky-balance", strconv.FormatInt(t.Pool.Left(), 10))
	r.header("x-should-retry", "false")
	c.identify(r)
	var b strings.Builder
	if t.Outcome == store.NoPool {
		fmt.Fprintf(&b, "No tokens were bought for provider %q. ", c.provider)
	} else {
		fmt.Fprintf(&b, "The request may use %d tokens (%d for its input), more than the %d left of the balance for provider %q. ",
			c.input+max(c.output, min(c.fill, c.choices)), c.input, t.Pool.Left(), c.provider)
		if t.Pool.Held > 0 {
			fmt.Fprintf(&b, "Running calls hold %d. ", t.Pool.Held)
		}
	}
	b.WriteString(topUp)
	c.answer(r, errorbody.Refusal{Status: 429, Message: b.String(), Type: errorbody.TypeQuota, Code: errorbody.CodeBalanceEmpty,
		RequestID: c.id})
	return r
}

func (c *call) body(r *response, message string, wait int64) {
	c.answer(r, errorbody.Refusal{Status: 429, Message: message, Type: errorbody.TypeRateLimit, Code: errorbody.CodeRateLimit,
		RequestID: c.id, RetryAfterSeconds: int(up(wait, second))})
}

// answer adds a refusal's body in the shape of the call's family.
func (c *call) answer(r *response, what errorbody.Refusal) {
	family := attributes.FamilyOpenAI
	if c.protocol == config.ProtocolGemini {
		family = attributes.FamilyGemini
	}
	body, contentType := errorbody.Body(family, what)
	r.header("content-type", contentType)
	r.body(body)
}

// explain says what was asked, what there is, and what would fit.
func (c *call) explain(no refused) string {
	l := no.limit
	var b strings.Builder
	if no.wait >= 0 {
		fmt.Fprintf(&b, "Rate limit %q reached: %s of %s, leaking %.4g per second. Try again in %s.", l.rule.Name, l.capacity, l.rule.Unit,
			l.perSecond(), duration(no.wait))
		return b.String()
	}
	if l.rule.Unit == limits.Requests {
		fmt.Fprintf(&b, "Rate limit %q allows no requests.", l.rule.Name)
		return b.String()
	}
	fmt.Fprintf(&b, "The request may use %d tokens (%d for its input), more than rate limit %q can ever hold (%s).",
		c.input+max(c.output, min(c.fill, c.choices)), c.input, l.rule.Name, l.capacity)
	if fit := (int64(l.store.Params.Capacity) - c.input) / c.choices; fit > 0 {
		fmt.Fprintf(&b, " A max_tokens of at most %d would fit.", fit)
	} else {
		b.WriteString(" Its input alone does not fit; send a shorter one.")
	}
	return b.String()
}

// retry adds when to come back: SDKs read the milliseconds, others the seconds.
func (r *response) retry(wait int64) {
	r.header("retry-after-ms", strconv.FormatInt(max(1, up(wait, milli)), 10))
	r.header("retry-after", strconv.FormatInt(max(1, up(wait, second)), 10))
}

// malformed refuses a call whose facts make no sense. Envoy's guard answers such
// requests before with 400; what gets here must not pass unmetered.
func (c *call) malformed(why error) *response {
	r := newResponse(codeOverLimit)
	r.header("x-should-retry", "false")
	c.identify(r)
	c.body(r, why.Error(), 0)
	return r
}

// plainAdmit and plainRefuse answer for routes without tokens, in the gateway's own
// header family.
func plainAdmit(m matched, t store.Taken) *response {
	r := newResponse(codeOK)
	if i := tightest(m, t, limits.Requests); i >= 0 {
		r.plain(m.limits[i], t, i)
	}
	return r
}

func plainRefuse(m matched, t store.Taken, no refused) *response {
	r := newResponse(codeOverLimit)
	for i, l := range m.limits {
		if l == no.limit {
			r.header("x-ratelimit-limit", l.capacity)
			r.header("x-ratelimit-remaining", "0")
			r.header("x-ratelimit-reset", strconv.FormatInt(up(t.Now+l.store.Params.Reset(t.States[i], t.Now), second), 10))
		}
	}
	wait := no.wait
	if wait < 0 {
		wait = 3600 * second
	}
	seconds := max(1, up(wait, second))
	r.header("retry-after", strconv.FormatInt(seconds, 10))
	body, contentType := errorbody.Body(attributes.FamilyProblem, errorbody.Refusal{Status: 429, Message: "rate limit exceeded",
		RetryAfterSeconds: int(seconds)})
	r.header("content-type", contentType)
	r.body(body)
	return r
}

// plain adds X-RateLimit-Limit, -Remaining and -Reset (epoch seconds).
func (r *response) plain(l *limit, t store.Taken, i int) {
	r.header("x-ratelimit-limit", l.capacity)
	r.header("x-ratelimit-remaining", strconv.FormatInt(remaining(l, t, i), 10))
	r.header("x-ratelimit-reset", strconv.FormatInt(up(t.Now+l.store.Params.Reset(t.States[i], t.Now), second), 10))
}

// appendJSON appends s as a JSON string.
func appendJSON(b []byte, s string) []byte {
	quoted, err := json.Marshal(s)
	if err != nil { // a string always marshals
		return append(b, `""`...)
	}
	return append(b, quoted...)
}
