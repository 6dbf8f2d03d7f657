package wire

import (
	"strconv"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/errorbody"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/match"
)

// AdmitPlain answers that a request may pass that is no LLM call, in the gateway's own
// header family.
func AdmitPlain(d *Decision) *Response {
	r := newResponse(codeOK)
	if i := d.tightest(limits.Requests); i >= 0 {
		r.addHeader("x-ratelimit-limit", d.Limits[i].Capacity)
		r.addHeader("x-ratelimit-remaining", strconv.FormatInt(d.remaining(i), 10))
		r.addHeader("x-ratelimit-reset", d.resetTime(i))
	}
	return r
}

// RefusePlain answers that such a request may not pass.
func RefusePlain(d *Decision, no match.Refusal) *Response {
	r := newResponse(codeOverLimit)
	for i, l := range d.Limits {
		if l == no.Limit {
			r.addHeader("x-ratelimit-limit", l.Capacity)
			r.addHeader("x-ratelimit-remaining", "0")
			r.addHeader("x-ratelimit-reset", d.resetTime(i))
		}
	}
	var seconds int64
	if no.Wait >= 0 { // else it never can
		seconds = max(1, up(no.Wait, second))
		r.addHeader("retry-after", strconv.FormatInt(seconds, 10))
	}
	body, contentType := errorbody.Body(attributes.FamilyProblem, errorbody.Refusal{Status: 429, Message: "rate limit exceeded",
		RetryAfterSeconds: int(seconds)})
	r.addHeader("content-type", contentType)
	r.setBody(body)
	return r
}

// resetTime is when limit i will be empty, in epoch seconds.
func (d *Decision) resetTime(i int) string {
	return strconv.FormatInt(up(d.Now+d.reset(i), second), 10)
}
