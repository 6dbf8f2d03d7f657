package wire

import (
	"cmp"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/errorbody"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/match"
)

// Refuse answers that a call may not pass, in the shape of the call's family.
func Refuse(c *match.Call, d *Decision, no match.Refusal) *Response {
	r := newResponse(codeOverLimit)
	r.describe(d)
	if budget, spent := spentBudget(c, no); spent {
		r.addHeader("x-should-retry", "false")
		r.identify(c)
		r.refuse(c, budget)
		return r
	}
	if no.Wait < 0 {
		r.addHeader("x-should-retry", "false")
	} else {
		r.retryAfter(no.Wait)
		r.addHeader("x-should-retry", "true")
	}
	r.identify(c)
	r.refuseRate(c, explain(c, no), max(0, no.Wait))
	return r
}

// topUp is where a balance is bought.
const topUp = "Top up with POST /api/v1/tokens/purchase."

// RefuseBalance answers that the account's pool does not cover the call, or with noPool
// that there is none. Coming back does not help, so SDKs are told not to.
func RefuseBalance(c *match.Call, d *Decision, noPool bool) *Response {
	r := newResponse(codeOverLimit)
	r.describe(d)
	r.addHeader("x-leaky-balance", strconv.FormatInt(d.Pool.Left, 10))
	r.addHeader("x-should-retry", "false")
	r.identify(c)
	var b strings.Builder
	if noPool {
		fmt.Fprintf(&b, "No tokens were bought for provider %q. ", c.Provider)
	} else {
		fmt.Fprintf(&b, "The request may use %d tokens (%d for its input), more than the %d left of the balance for provider %q. ",
			least(c), c.Input, d.Pool.Left, c.Provider)
		if d.Pool.Held > 0 {
			fmt.Fprintf(&b, "Running calls hold %d. ", d.Pool.Held)
		}
	}
	b.WriteString(topUp)
	r.refuse(c, errorbody.Refusal{Status: 429, Message: b.String(), Type: errorbody.TypeQuota, Code: errorbody.CodeBalanceEmpty,
		RequestID: c.ID})
	return r
}

// RefuseMalformed refuses a call whose attributes make no sense or whose content has no bound.
// Envoy answers 400 where it sees attributes.HeaderRefusal: coming back does not help.
func RefuseMalformed(c *match.Call, why error) *Response {
	r := newResponse(codeOverLimit)
	r.addHeader("x-should-retry", "false")
	r.addHeader(attributes.HeaderRefusal, "invalid_request")
	r.identify(c)
	param, code := c.Blame(why)
	r.refuse(c, errorbody.Refusal{Status: http.StatusBadRequest, Message: why.Error(), Type: errorbody.TypeInvalidRequest, Param: param,
		Code: code, RequestID: c.ID})
	return r
}

// least is the fewest tokens that a call may be admitted with.
func least(c *match.Call) int64 { return c.Input + max(c.Output, min(c.Fill, c.Choices)) }

func (r *Response) refuseRate(c *match.Call, message string, wait int64) {
	r.refuse(c, errorbody.Refusal{Status: 429, Message: message, Type: errorbody.TypeRateLimit, Code: errorbody.CodeRateLimit,
		RequestID: c.ID, RetryAfterSeconds: int(up(wait, second))})
}

// refuse adds a refusal's body in the shape of the call's family.
func (r *Response) refuse(c *match.Call, what errorbody.Refusal) {
	family := cmp.Or(string(c.Protocol), attributes.FamilyOpenAI) // a protocol is named like its family
	body, contentType := errorbody.Body(family, what)
	r.addHeader("content-type", contentType)
	if family == attributes.FamilyAnthropic {
		r.addHeader("request-id", c.ID)
	}
	r.setBody(body)
}

// explain says what was asked, what there is, and what would fit.
func explain(c *match.Call, no match.Refusal) string {
	l := no.Limit
	if no.Wait >= 0 {
		return fmt.Sprintf("Rate limit %q reached: %s", l.Rule.Name, reached(no))
	}
	if l.Rule.Unit == limits.Requests {
		return fmt.Sprintf("Rate limit %q allows no requests.", l.Rule.Name)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "The request may use %d tokens (%d for its input), more than rate limit %q can ever hold (%s).",
		least(c), c.Input, l.Rule.Name, l.Capacity)
	if fit := (int64(l.Params.Capacity) - c.Input) / c.Choices; fit > 0 {
		fmt.Fprintf(&b, " A max_tokens of at most %d would fit.", fit)
	} else {
		b.WriteString(" Its input alone does not fit; send a shorter one.")
	}
	return b.String()
}

// reached says what a limit allows, in the words of its algorithm, and when to come back.
func reached(no match.Refusal) string {
	l := no.Limit
	unit := l.Rule.Unit.String()
	if l.Params.Capacity == 1 {
		unit = strings.TrimSuffix(unit, "s")
	}
	verb := "drains"
	switch l.Rule.Algorithm {
	case limits.FixedWindow:
		text := fmt.Sprintf("%s %s per %s; starts again in %s.", l.Capacity, unit, limits.PeriodName(l.Rule.Period), duration(no.Anew))
		if no.Wait < no.Anew {
			text += fmt.Sprintf(" Running calls may give back what they hold before: try again in %s.", duration(no.Wait))
		}
		return text
	case limits.TokenBucket:
		verb = "refills"
	case limits.LeakyBucket:
	}
	return fmt.Sprintf("holds %s %s, %s %s. Try again in %s.", l.Capacity, unit, verb, pace(l.PerSecond()), duration(no.Wait))
}

// pace writes a rate in the shortest period in which it comes to one: people read "30 per day", not
// "0.0003472 per second".
func pace(perSecond float64) string {
	const nearly = 1 - 1e-9 // a rate that was divided by a period lost its last digits
	period := 24 * time.Hour
	for _, shorter := range []time.Duration{time.Hour, time.Minute, time.Second} {
		if perSecond*shorter.Seconds() >= nearly {
			period = shorter
		}
	}
	n := strconv.FormatFloat(perSecond*period.Seconds(), 'f', 2, 64)
	return strings.TrimSuffix(strings.TrimRight(n, "0"), ".") + " per " + limits.PeriodName(period)
}

// retryAfter adds when to come back: SDKs read the milliseconds, others the seconds.
func (r *Response) retryAfter(wait int64) {
	r.addHeader("retry-after-ms", strconv.FormatInt(max(1, up(wait, milli)), 10))
	r.addHeader("retry-after", strconv.FormatInt(max(1, up(wait, second)), 10))
}

// patience is the longest wait after which an SDK tries again by itself (openai-python and
// openai-node give up above 120 s).
const patience = 120 * second

// spentBudget is what a call is told whose organisation or team has used up its budget;
// false for every other refusal, also when there will be room in so short a time that
// waiting is the better advice.
func spentBudget(c *match.Call, no match.Refusal) (errorbody.Refusal, bool) {
	codes := map[string]string{"org": errorbody.CodeOrganizationCap, "team": errorbody.CodeProjectCap}
	whose := no.Limit.Rule.Budget()
	if whose == "" || no.Wait <= patience {
		return errorbody.Refusal{}, false
	}
	message := fmt.Sprintf("The spend limit %q of the %s is reached: %s tokens. There is room for this request in %s.", no.Limit.Rule.Name,
		map[string]string{"org": "organisation", "team": "team"}[whose], no.Limit.Capacity, duration(no.Wait))
	return errorbody.Refusal{Status: 429, Message: message, Type: errorbody.TypeQuota, Code: codes[whose], RequestID: c.ID}, true
}
