package consume

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/membership"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
	"github.com/leaky-tokens/leaky-tokens/internal/retry"
)

// Limiter holds and settles: ratelimit's gRPC API.
type Limiter interface {
	Hold(ctx context.Context, in *limitpb.HoldRequest, opts ...grpc.CallOption) (*limitpb.HoldResponse, error)
	Settle(ctx context.Context, in *limitpb.SettleRequest, opts ...grpc.CallOption) (*limitpb.SettleResponse, error)
}

// ErrProvider says that a provider gave no answer: refused, broken, too slow, or kept
// from us by Envoy's breaker. Call wraps it.
var ErrProvider = errors.New("provider call failed")

// Provider calls a provider with a prompt (nil: none) and gives its answer, a JSON object.
type Provider interface {
	Call(ctx context.Context, provider, correlationID string, prompt *string) (json.RawMessage, error)
}

// Members tells what a user is in an organisation.
type Members interface {
	Ask(ctx context.Context, org, user string) (membership.Answer, error)
}

// Books keep the event of a call: it is safe when Book returns nil, and counts once
// however often it is booked.
type Books interface {
	Book(ctx context.Context, e usage.Event, correlationID string) error
	// Correct replaces what may have been booked of the call, by the event's version.
	Correct(ctx context.Context, e usage.Event, correlationID string) error
}

// Config is what New needs.
type Config struct {
	Limiter   Limiter
	Provider  Provider
	Members   Members
	Books     Books
	Providers func() []string // names, lower-case, as they are now
	Timeout   time.Duration   // how long a caller waits for the limiter, a second at least
	Enforce   func() bool     // false: pools are not asked (flags.token_service.quota_enforcement)
	Log       *slog.Logger
	Metrics   prometheus.Registerer
}

// API answers POST /api/v1/tokens/consume.
type API struct {
	cfg       Config
	calls     *prometheus.CounterVec
	spent     *prometheus.CounterVec
	said      *retry.Troubles
	undecided chan undecided
}

// New makes the API; Run corrects what it could not book for certain.
func New(cfg Config) (*API, error) {
	if cfg.Limiter == nil || cfg.Provider == nil || cfg.Members == nil || cfg.Books == nil || cfg.Enforce == nil || cfg.Log == nil ||
		cfg.Metrics == nil {
		return nil, errors.New("make consume: every part of its configuration is needed")
	}
	a := &API{cfg: cfg, said: retry.NewTroubles(cfg.Log), undecided: make(chan undecided, mostUndecided),
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "token_consume_total", Help: "Calls of consume by what came of them."},
			[]string{"provider", "outcome"}),
		spent: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "token_consumed_tokens_total", Help: "Tokens consumed."},
			[]string{"provider"})}
	cfg.Metrics.MustRegister(a.calls, a.spent)
	for _, provider := range cfg.Providers() {
		for _, outcome := range []string{outcomeAttempt, outcomeAllowed, outcomeLimited, outcomeQuota, outcomeProvider, outcomeUnbooked} {
			a.calls.WithLabelValues(provider, outcome)
		}
		a.spent.WithLabelValues(provider)
	}
	return a, nil
}

// Outcomes of token_consume_total, and the reasons of events.
const (
	outcomeAttempt  = "attempt"
	outcomeAllowed  = "allowed"
	outcomeLimited  = "rate_limited"
	outcomeQuota    = "quota_insufficient"
	outcomeProvider = "provider_failure"
	outcomeUnbooked = "unbooked"
)

// Serve is the handler; the caller is in the request's context.
//
// A hold stands before the provider is asked and is settled after it answered. Whoever
// dies in between leaves a hold that is given back when it expires.
func (a *API) Serve(w http.ResponseWriter, r *http.Request) error {
	begun := time.Now()
	who, _ := principal.From(r.Context())
	var b body
	if err := httpapi.ReadJSON(w, r, &b); err != nil {
		return err
	}
	o, err := b.read(who, a.cfg.Providers())
	if err != nil {
		return err
	}
	if o.team, err = a.may(r.Context(), who, o); err != nil {
		return err
	}
	a.calls.WithLabelValues(o.provider, outcomeAttempt).Inc()
	c := call{order: o, id: requestID(r), correlation: r.Header.Get(httpapi.HeaderCorrelation), key: who.KeyID, tier: who.Tier, begun: begun}
	held, err := a.hold(r.Context(), c)
	if err != nil {
		return err
	}
	report(w.Header(), held)
	if !held.GetAdmitted() {
		return a.refused(w, r, c, held)
	}
	// A caller who hangs up does not end the call: who could, would have their prompt answered
	// and their tokens back. Envoy's deadline ends it.
	answer, err := a.cfg.Provider.Call(context.WithoutCancel(r.Context()), o.provider, c.correlation, o.prompt)
	if err != nil {
		return a.failed(r.Context(), c, held, err)
	}
	if err := a.allowed(r.Context(), c, held); err != nil {
		return err
	}
	httpapi.WriteJSON(w, http.StatusOK, newResult(true, held, answer))
	return nil
}

// call is one order on its way.
type call struct {
	order
	id          string // of the request; names the hold and the event
	correlation string
	key, tier   string
	begun       time.Time
}

// requestID is Envoy's. A caller who comes past Envoy (with a signed identity, from inside)
// gets a fresh one, so that no hold is shared.
func requestID(r *http.Request) string {
	if id, err := uuid.Parse(r.Header.Get("X-Request-Id")); err == nil {
		return id.String()
	}
	return uuid.NewString()
}

// may checks whose tokens are spent: the caller's, or anybody's for an administrator; an
// organisation's by its members. A credential that is bound to an organisation spends no
// other's.
func (a *API) may(ctx context.Context, who principal.Principal, o order) (team string, err error) {
	admin := who.Is(principal.RoleAdmin)
	if o.user != who.UserID && !admin {
		return "", httpapi.Fail(http.StatusForbidden, "userId is not the caller's")
	}
	switch {
	case o.org == "":
		return "", nil
	case o.org == who.OrgID:
		return who.Team, nil
	case who.OrgID != "" && !admin:
		return "", httpapi.Fail(http.StatusForbidden, "the credential acts for another organisation")
	}
	answer, err := a.cfg.Members.Ask(ctx, o.org, o.user)
	switch {
	case err != nil:
		a.said.Warn(ctx, "membership is not known", err)
		return "", httpapi.Unavailable("the membership cannot be checked now")
	case !answer.Member && !admin:
		return "", httpapi.Fail(http.StatusForbidden, "the caller is no member of this organisation")
	}
	return answer.Team, nil
}
