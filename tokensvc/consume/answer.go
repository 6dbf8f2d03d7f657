package consume

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"time"

	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
)

// result is the body of 200 and 429. Numbers are whole tokens of the bucket that decides.
type result struct {
	Allowed          bool            `json:"allowed"`
	Capacity         int64           `json:"capacity"`
	Used             int64           `json:"used"`
	Remaining        int64           `json:"remaining"`
	WaitSeconds      int64           `json:"waitSeconds"`
	Timestamp        time.Time       `json:"timestamp"`
	ProviderResponse json.RawMessage `json:"providerResponse"`
}

func newResult(allowed bool, held *limitpb.HoldResponse, answer json.RawMessage) result {
	out := result{Allowed: allowed, Timestamp: time.Now().UTC(), ProviderResponse: answer}
	out.Capacity, out.Used, out.Remaining = levels(held)
	if !allowed {
		out.WaitSeconds = waitSeconds(held)
	}
	return out
}

// deciding is the bucket that is told: the one that refused, else the one of tokens with
// the least room; nil when no limit matches.
func deciding(held *limitpb.HoldResponse) *limitpb.Bucket {
	var least *limitpb.Bucket
	for _, b := range held.GetBuckets() {
		if b.GetRule() == held.GetRule() {
			return b
		}
		if b.GetUnit() == "tokens" && (least == nil || room(b) < room(least)) {
			least = b
		}
	}
	return least
}

func room(b *limitpb.Bucket) float64 { return b.GetCapacity() - b.GetLevel() }

// levels are whole tokens: what is used is rounded up, so that nobody is promised a token
// that is not there.
func levels(held *limitpb.HoldResponse) (capacity, used, remaining int64) {
	b := deciding(held)
	if b == nil {
		return 0, 0, 0
	}
	capacity, used = int64(b.GetCapacity()), int64(math.Ceil(b.GetLevel()))
	return capacity, used, max(0, capacity-used)
}

// waitSeconds is how long until the call may fit, at least 1.
func waitSeconds(held *limitpb.HoldResponse) int64 {
	return max(1, (held.GetRetryAfterUs()+999_999)/1_000_000)
}

// report writes the X-TokenBucket headers: X-RateLimit belongs to the gateway's own limiter.
func report(h http.Header, held *limitpb.HoldResponse) {
	capacity, used, remaining := levels(held)
	reset := int64(0)
	if !held.GetAdmitted() && held.GetRetryAfterUs() >= 0 {
		reset = waitSeconds(held)
	}
	for name, n := range map[string]int64{"Limit": capacity, "Remaining": remaining, "Used": used, "Reset": reset} {
		h.Set("X-TokenBucket-"+name, strconv.FormatInt(n, 10))
	}
}

// refused answers a call that nothing was held for, and books the attempt.
func (a *API) refused(w http.ResponseWriter, r *http.Request, c call, held *limitpb.HoldResponse) error {
	refusal := held.GetRefusal()
	if refusal == limitpb.Refusal_REFUSAL_BALANCE || refusal == limitpb.Refusal_REFUSAL_NO_POOL {
		a.calls.WithLabelValues(c.provider, outcomeQuota).Inc()
		_ = a.book(r.Context(), a.event(c, held, outcomeQuota, http.StatusPaymentRequired), c.correlation)
		return httpapi.Fail(http.StatusPaymentRequired, "insufficient token quota")
	}
	a.calls.WithLabelValues(c.provider, outcomeLimited).Inc()
	if held.GetRetryAfterUs() < 0 {
		_ = a.book(r.Context(), a.event(c, held, outcomeLimited, http.StatusBadRequest), c.correlation)
		return refuse("tokens exceed bucket capacity")
	}
	_ = a.book(r.Context(), a.event(c, held, outcomeLimited, http.StatusTooManyRequests), c.correlation)
	w.Header().Set("Retry-After", strconv.FormatInt(waitSeconds(held), 10))
	httpapi.WriteJSON(w, http.StatusTooManyRequests, newResult(false, held, json.RawMessage("{}")))
	return nil
}

// failed gives everything back.
func (a *API) failed(ctx context.Context, c call, held *limitpb.HoldResponse, cause error) error {
	if !errors.Is(cause, ErrProvider) {
		return errors.Join(cause, a.settle(ctx, c, held, 0))
	}
	a.calls.WithLabelValues(c.provider, outcomeProvider).Inc()
	a.said.Warn(ctx, "provider call failed", cause, slog.String("provider", c.provider), slog.String("request_id", c.id))
	_ = a.settle(ctx, c, held, 0) // logged; it expires and is given back
	_ = a.book(ctx, a.event(c, held, outcomeProvider, http.StatusBadGateway), c.correlation)
	return httpapi.Fail(http.StatusBadGateway, "%s", ErrProvider.Error())
}

// allowed books and settles: the event is safe before the caller has their answer. One that
// cannot be booked anywhere is not sold: the caller gets no answer and their tokens back.
func (a *API) allowed(ctx context.Context, c call, held *limitpb.HoldResponse) error {
	if err := a.book(ctx, a.event(c, held, "", http.StatusOK), c.correlation); err != nil {
		a.calls.WithLabelValues(c.provider, outcomeUnbooked).Inc()
		a.withdraw(ctx, c, held)
		_ = a.settle(ctx, c, held, 0) // logged; it expires and is given back
		return httpapi.Unavailable("the call cannot be booked now")
	}
	a.calls.WithLabelValues(c.provider, outcomeAllowed).Inc()
	a.spent.WithLabelValues(c.provider).Add(float64(c.tokens))
	_ = a.settle(ctx, c, held, c.tokens) // logged
	return nil
}

// event is what the books say of the call. Of a refused one, the tokens are those asked for.
func (a *API) event(c call, held *limitpb.HoldResponse, reason string, code int) usage.Event {
	e := usage.Event{RequestID: c.id, UserID: c.user, OrgID: c.org, Team: c.team, KeyID: c.key, Tier: c.tier, Account: held.GetAccount(),
		Route:    routeName,
		Provider: c.provider, Charged: c.tokens, Source: usage.FromRequest, Allowed: reason == "", Pool: usage.PoolNone, Status: code,
		Reason:    reason,
		LatencyMS: time.Since(c.begun).Milliseconds(), Timestamp: c.begun.UTC()}
	if !e.Allowed {
		e.Source = usage.FromRefusal
		return e
	}
	e.Held = held.GetHeld()
	if held.GetBalance().GetPresent() {
		e.Pool = usage.PoolDrawn
	}
	return e
}

// book makes an event safe. Of a refused call nothing hangs on it; the log tells that some are lost.
func (a *API) book(ctx context.Context, e usage.Event, correlationID string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), bookTimeout)
	defer cancel()
	err := a.cfg.Books.Book(ctx, e, correlationID)
	if err != nil {
		a.said.Say(ctx, slog.LevelError, "call cannot be booked", err, slog.String("request_id", e.RequestID), slog.Bool("allowed", e.Allowed),
			slog.Int64("tokens", e.Charged))
	}
	return err
}
