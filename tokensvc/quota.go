package tokensvc

import (
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
	"github.com/leaky-tokens/leaky-tokens/internal/principal"
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

// quotaQuery is one lookup that may be made.
type quotaQuery struct {
	kind     Owner
	owner    uuid.UUID
	provider string // trimmed, lower-case
}

// quotaAnswer has userId or orgId.
type quotaAnswer struct {
	UserID          string     `json:"userId,omitzero"`
	OrgID           string     `json:"orgId,omitzero"`
	Provider        string     `json:"provider"`
	TotalTokens     int64      `json:"totalTokens"`
	RemainingTokens int64      `json:"remainingTokens"`
	ResetTime       *time.Time `json:"resetTime"` // null: never refills
	UpdatedAt       time.Time  `json:"updatedAt"`
}

// quota answers a lookup that parse reads from the query string.
func (a *API) quota(parse func(url.Values, principal.Principal) (quotaQuery, error)) httpapi.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		who, _ := principal.From(r.Context())
		values, err := url.ParseQuery(r.URL.RawQuery)
		if err != nil {
			a.lookups.WithLabelValues(unknownProvider, outcomeInvalid).Inc()
			return bad("malformed query string")
		}
		q, err := parse(values, who)
		if err != nil {
			a.lookups.WithLabelValues(a.label(providerOf(values)), outcomeInvalid).Inc()
			return err
		}
		pool, err := a.cfg.Store.Find(r.Context(), q.kind, q.owner, q.provider)
		a.lookups.WithLabelValues(a.label(q.provider), outcome(err)).Inc()
		if err != nil {
			return a.storeError(r, err)
		}
		answer := quotaAnswer{Provider: pool.Provider, TotalTokens: pool.Total, RemainingTokens: pool.Remaining, UpdatedAt: pool.UpdatedAt.UTC()}
		if pool.ResetTime != nil {
			at := pool.ResetTime.UTC()
			answer.ResetTime = &at
		}
		if q.kind == OwnerOrg {
			answer.OrgID = pool.OwnerID.String()
		} else {
			answer.UserID = pool.OwnerID.String()
		}
		httpapi.WriteJSON(w, http.StatusOK, answer)
		return nil
	}
}

func outcome(err error) string {
	switch {
	case err == nil:
		return outcomeFound
	case errors.Is(err, ErrNoPool):
		return outcomeNotFound
	}
	return outcomeFailure
}

// storeError is 404 without a pool, 503 while Postgres is away, else the bare error.
func (a *API) storeError(r *http.Request, err error) error {
	if errors.Is(err, ErrNoPool) {
		return httpapi.Fail(http.StatusNotFound, "quota not found")
	}
	// Classes 53 (no resources) and 57 (shutting down) pass; other answers of Postgres
	// are our own mistakes. What is no answer at all is a Postgres that is away.
	answer, answered := errors.AsType[*pgconn.PgError](err)
	if r.Context().Err() != nil || answered && !strings.HasPrefix(answer.Code, "53") && !strings.HasPrefix(answer.Code, "57") {
		return err
	}
	a.cfg.Log.LogAttrs(r.Context(), slog.LevelWarn, "token store did not answer", slog.String("path", r.URL.Path), slog.Any("error", err))
	return unavailable("the token store is not available")
}

// userQuota reads userId (default: the caller) and provider.
func userQuota(values url.Values, who principal.Principal) (quotaQuery, error) {
	text := strings.TrimSpace(values.Get("userId"))
	if !values.Has("userId") {
		text = who.UserID
	}
	if text == "" {
		return quotaQuery{}, bad("userId is required")
	}
	q, err := newQuotaQuery(OwnerUser, text, values, "invalid userId")
	if err != nil {
		return quotaQuery{}, err
	}
	if q.owner.String() != who.UserID && !who.Is(principal.RoleAdmin) {
		return quotaQuery{}, httpapi.Fail(http.StatusForbidden, "userId is not the caller's")
	}
	return q, nil
}

// orgQuota reads orgId and provider; the caller must belong to the organisation.
func orgQuota(values url.Values, who principal.Principal) (quotaQuery, error) {
	text := strings.TrimSpace(values.Get("orgId"))
	if text == "" {
		return quotaQuery{}, bad("orgId is required")
	}
	q, err := newQuotaQuery(OwnerOrg, text, values, "invalid orgId")
	if err != nil {
		return quotaQuery{}, err
	}
	if q.owner.String() != who.OrgID && !who.Is(principal.RoleAdmin) {
		return quotaQuery{}, httpapi.Fail(http.StatusForbidden, "the caller is no member of this organisation")
	}
	return q, nil
}

func newQuotaQuery(kind Owner, owner string, values url.Values, invalid string) (quotaQuery, error) {
	q := quotaQuery{kind: kind, provider: providerOf(values)}
	switch {
	case q.provider == "":
		return quotaQuery{}, bad("provider is required")
	case len(q.provider) > longestProvider || strings.ContainsRune(q.provider, 0):
		return quotaQuery{}, bad("invalid provider")
	}
	id, err := uuid.Parse(owner)
	if err != nil || len(owner) != 36 { // the other spellings of a UUID would name the same owner twice
		return quotaQuery{}, bad("%s", invalid)
	}
	q.owner = id
	return q, nil
}

func providerOf(values url.Values) string {
	return strings.ToLower(strings.TrimSpace(values.Get("provider")))
}

func (a *API) label(provider string) string {
	if slices.Contains(a.cfg.Providers, provider) {
		return provider
	}
	return unknownProvider
}

func bad(format string, args ...any) *httpapi.Error {
	return httpapi.Fail(http.StatusBadRequest, format, args...)
}
