package pools

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/uuid"

	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/ledger"
)

// Outcomes of a quota lookup.
const (
	outcomeFound    = "found"
	outcomeNotFound = "not_found"
	outcomeInvalid  = "invalid"
	outcomeFailure  = "failure"
)

// unknownProvider is the label of a provider that is not configured.
const unknownProvider = "unknown"

// longestProvider is what the column holds, in bytes.
const longestProvider = 50

// ErrNotReady says that Postgres has not answered yet.
var ErrNotReady = errors.New("token store is not ready")

// target is a pool that a caller names.
type target struct {
	user, org uuid.UUID // one of them
	provider  string    // trimmed, lower-case
}

func (t target) key() ledger.Key {
	return ledger.Key{Account: ledger.Account(t.user, t.org), Provider: t.provider}
}

// quotaAnswer has userId or orgId.
type quotaAnswer struct {
	UserID          string     `json:"userId,omitzero"`
	OrgID           string     `json:"orgId,omitzero"`
	Provider        string     `json:"provider"`
	TotalTokens     int64      `json:"totalTokens"`
	RemainingTokens int64      `json:"remainingTokens"` // what a call may use now
	HeldTokens      int64      `json:"heldTokens"`      // by calls that run
	BookedTokens    int64      `json:"bookedTokens"`    // what the ledger says is left; it follows within seconds
	ResetTime       *time.Time `json:"resetTime"`       // null: never refills
	UpdatedAt       time.Time  `json:"updatedAt"`
}

// quota answers a lookup whose target parse reads from the query string.
func (a *API) quota(parse func(url.Values, principal.Principal) (target, error)) httpapi.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		who, _ := principal.From(r.Context())
		values, err := url.ParseQuery(r.URL.RawQuery)
		if err != nil {
			a.lookups.WithLabelValues(unknownProvider, outcomeInvalid).Inc()
			return bad("malformed query string")
		}
		t, err := parse(values, who)
		if err == nil {
			err = a.mayRead(r.Context(), who, t)
		}
		if err != nil {
			a.lookups.WithLabelValues(a.label(providerOf(values.Get("provider"))), outcomeInvalid).Inc()
			return a.fail(r, err)
		}
		ctx, cancel := a.bounded(r)
		defer cancel()
		pool, err := a.find(ctx, t)
		a.lookups.WithLabelValues(a.label(t.provider), outcome(err)).Inc()
		if err != nil {
			return a.fail(r, err)
		}
		answer := answerOf(pool)
		a.live(ctx, pool, &answer)
		httpapi.WriteJSON(w, http.StatusOK, answer)
		return nil
	}
}

func (a *API) find(ctx context.Context, t target) (ledger.Pool, error) {
	if !a.cfg.Ready() {
		return ledger.Pool{}, ErrNotReady
	}
	return ledger.Find(ctx, a.cfg.DB, t.key())
}

// limiterTimeout bounds the question what calls have taken that are not booked yet.
const limiterTimeout = 300 * time.Millisecond

// live puts what ratelimit knows beside what is booked. Credits are those of the newer version:
// ratelimit is told of a purchase a moment after it is booked, the ledger of usage. Spending only
// grows within a window, so the greater of two numbers is the later one.
func (a *API) live(ctx context.Context, p ledger.Pool, answer *quotaAnswer) {
	if a.cfg.Limiter == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, limiterTimeout)
	defer cancel()
	state, err := a.cfg.Limiter.GetAccountState(ctx, &limitpb.GetAccountStateRequest{Account: p.Account, Providers: []string{p.Provider}})
	if err != nil {
		a.cfg.Log.LogAttrs(ctx, slog.LevelDebug, "ratelimit does not tell the balance", slog.Any("error", err))
		return
	}
	for _, b := range state.GetBalances() {
		if !b.GetPresent() || b.GetUnknown() {
			continue // it asks when the next call comes
		}
		credits := p.Total
		if b.GetVersion() > p.Version {
			credits = b.GetCredits()
		}
		answer.HeldTokens = b.GetHeld()
		answer.RemainingTokens = credits - max(b.GetSpent(), p.Total-p.Remaining) - b.GetHeld()
	}
}

func answerOf(p ledger.Pool) quotaAnswer {
	answer := quotaAnswer{Provider: p.Provider, TotalTokens: p.Total, RemainingTokens: p.Remaining, BookedTokens: p.Remaining,
		UpdatedAt: p.UpdatedAt.UTC()}
	if p.Window > 0 {
		at := p.ResetTime.UTC()
		answer.ResetTime = &at
	}
	if user, org := p.Owner(); org != uuid.Nil {
		answer.OrgID = org.String()
	} else {
		answer.UserID = user.String()
	}
	return answer
}

func outcome(err error) string {
	switch {
	case err == nil:
		return outcomeFound
	case errors.Is(err, ledger.ErrNoPool):
		return outcomeNotFound
	}
	return outcomeFailure
}

// mayRead refuses the pools of others: a user's are theirs, an organisation's its members',
// and an ADMIN's are all.
func (a *API) mayRead(ctx context.Context, who principal.Principal, t target) error {
	switch {
	case who.Is(principal.RoleAdmin):
		return nil
	case t.org == uuid.Nil:
		if t.user.String() != who.UserID {
			return httpapi.Fail(http.StatusForbidden, "userId is not the caller's")
		}
		return nil
	case t.org.String() == who.OrgID:
		return nil
	case a.cfg.Members != nil:
		answer, err := a.cfg.Members.Ask(ctx, t.org.String(), who.UserID)
		if err != nil || answer.Member {
			return err
		}
	}
	return httpapi.Fail(http.StatusForbidden, "the caller is no member of this organisation")
}

// ofUser reads userId (default: the caller) and provider.
func ofUser(values url.Values, who principal.Principal) (target, error) {
	text := strings.TrimSpace(values.Get("userId"))
	if !values.Has("userId") {
		text = who.UserID
	}
	if text == "" {
		return target{}, bad("userId is required")
	}
	t, id, err := parseTarget(text, values.Get("provider"), "invalid userId")
	t.user = id
	return t, err
}

// ofOrg reads orgId and provider.
func ofOrg(values url.Values, _ principal.Principal) (target, error) {
	text := strings.TrimSpace(values.Get("orgId"))
	if text == "" {
		return target{}, bad("orgId is required")
	}
	t, id, err := parseTarget(text, values.Get("provider"), "invalid orgId")
	t.org = id
	return t, err
}

func parseTarget(owner, provider, invalid string) (target, uuid.UUID, error) {
	t := target{provider: providerOf(provider)}
	switch {
	case t.provider == "":
		return target{}, uuid.Nil, bad("provider is required")
	case len(t.provider) > longestProvider || strings.ContainsRune(t.provider, 0) || !validText(t.provider):
		return target{}, uuid.Nil, bad("invalid provider")
	}
	id, err := uuid.Parse(owner)
	if err != nil || len(owner) != 36 || id == uuid.Nil { // the other spellings of a UUID would name the same owner twice
		return target{}, uuid.Nil, bad("%s", invalid)
	}
	return t, id, nil
}

func providerOf(text string) string { return strings.ToLower(strings.TrimSpace(text)) }

func (a *API) label(provider string) string {
	if a.known(provider) {
		return provider
	}
	return unknownProvider
}
