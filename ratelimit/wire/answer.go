package wire

import (
	"strconv"
	"strings"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/match"
)

const (
	second = int64(1e6) // microseconds
	milli  = int64(1e3)
)

// Decision is what was decided of a request, as its answer tells it.
type Decision struct {
	Limits []*match.Limit
	States []bucket.State // of each limit, after the decision
	Now    int64          // microseconds, the clock of the decision
	Held   int64          // tokens
	Output int64          // of those, for the output
	Pool   Pool
}

// Pool is the account's balance with the call's provider, in tokens.
type Pool struct {
	Present bool
	Left    int64 // neither spent nor held
	Held    int64
}

// Admit answers that a call holds.
func Admit(c *match.Call, d *Decision) *Response {
	r := newResponse(codeOK)
	r.describe(d)
	r.addHeader("x-leaky-hold", strconv.FormatInt(d.Held, 10))
	if d.Pool.Present {
		r.addHeader("x-leaky-balance", strconv.FormatInt(d.Pool.Left, 10))
	}
	r.addText(attributes.Account, c.Account)
	r.addNumber(attributes.Held, float64(d.Held))
	r.addNumber(attributes.Input, float64(min(c.Input, d.Held)))
	r.identify(c)
	r.splice(c, d.Output)
	return r
}

// AdmitOutage answers that a request is admitted without Redis, as its route's mode says;
// c is nil for one that is no LLM call. It names no input: a spool line with a hold and no
// input of it is how the meter knows such a call.
func AdmitOutage(c *match.Call, mode config.OutageMode, input, output int64) *Response {
	r := newResponse(codeOK)
	r.addHeader("x-leaky-outage", string(mode))
	if c == nil {
		return r
	}
	r.addHeader("x-leaky-hold", strconv.FormatInt(input+output, 10))
	r.addText(attributes.Account, c.Account)
	r.addNumber(attributes.Held, float64(input+output))
	r.identify(c)
	r.splice(c, output)
	return r
}

// AddQuotas names the quota_mode rules that an admitted request is over in the answer's
// metadata, for filters behind the rate limit's to act on.
func (r *Response) AddQuotas(names []string) {
	r.addText("quota_exceeded", strings.Join(names, ","))
}

// identify is what the spool tells of a call, admitted or not.
func (r *Response) identify(c *match.Call) {
	r.addText(attributes.Model, c.Model)
	r.addText(attributes.Stream, strconv.FormatBool(c.Stream))
}

// up divides microseconds by a unit, rounding up.
func up(us, unit int64) int64 { return (us + unit - 1) / unit }

// duration is a Go duration in whole milliseconds, as OpenAI writes them.
func duration(us int64) string {
	return (time.Duration(up(us, milli)) * time.Millisecond).String()
}
