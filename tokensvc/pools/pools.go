// Package pools is the token service's window on the ledger: what an account has left, the
// entries behind it, what an ADMIN grants and takes, and the balances that ratelimit asks
// for.
package pools

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/membership"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
	"github.com/leaky-tokens/leaky-tokens/internal/retry"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/ledger"
)

// Members tells what a user is in an organisation. An error means that it is not known.
type Members interface {
	Ask(ctx context.Context, org, user string) (membership.Answer, error)
}

// Limiter is ratelimit as pools see it: who decides with an account's pool knows what its calls
// have taken before the ledger has booked it.
type Limiter interface {
	GetAccountState(context.Context, *limitpb.GetAccountStateRequest, ...grpc.CallOption) (*limitpb.GetAccountStateResponse, error)
}

// Config is what New needs.
type Config struct {
	DB        *pgxpool.Pool
	Ready     func() bool          // the schema is in place
	Members   Members              // nil: a caller belongs to the organisation that they act for
	Limiter   Limiter              // nil: what is told is what is booked
	Providers func() []string      // names, lower-case, as they are now
	Policy    func() ledger.Policy // of a pool that a grant makes; nil: windows of a day
	Timeout   time.Duration        // of one request to Postgres, default 2 s
	Metrics   prometheus.Registerer
	Log       *slog.Logger
}

// API answers the routes of pools and entries.
type API struct {
	cfg     Config
	lookups *prometheus.CounterVec
	said    *retry.Troubles
}

// New makes the API.
func New(cfg Config) (*API, error) {
	if cfg.DB == nil || cfg.Ready == nil || cfg.Metrics == nil || cfg.Log == nil {
		return nil, errors.New("make pools: DB, Ready, Metrics and Log are needed")
	}
	if cfg.Policy == nil {
		cfg.Policy = func() ledger.Policy { return ledger.Policy{} }
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 2 * time.Second
	}
	a := &API{cfg: cfg, said: retry.NewTroubles(cfg.Log),
		lookups: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "token_quota_lookup_total",
			Help: "Quota lookups of users and organisations."}, []string{"provider", "outcome"})}
	cfg.Metrics.MustRegister(a.lookups)
	return a, nil
}

// Routes are handlers by pattern, for callers whose identity is checked and who have a role.
func (a *API) Routes() map[string]httpapi.HandlerFunc {
	return map[string]httpapi.HandlerFunc{
		"GET /api/v1/tokens/quota":        a.quota(ofUser),
		"GET /api/v1/tokens/quota/org":    a.quota(ofOrg),
		"POST /api/v1/tokens/quota/org":   a.admin(a.grantOrg),
		"GET /api/v1/tokens/ledger":       a.entries,
		"POST /api/v1/admin/pools/grant":  a.admin(a.grant),
		"POST /api/v1/admin/pools/adjust": a.admin(a.adjust),
		"POST /api/v1/admin/pools/refund": a.admin(a.refund),
		"GET /api/v1/admin/ledger/verify": a.admin(a.verify),
	}
}

// admin lets ADMINs through.
func (a *API) admin(h httpapi.HandlerFunc) httpapi.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		if who, _ := principal.From(r.Context()); !who.Is(principal.RoleAdmin) {
			return httpapi.Fail(http.StatusForbidden, "role ADMIN is required")
		}
		return h(w, r)
	}
}

// bounded is a request's context with the time that Postgres gets.
func (a *API) bounded(r *http.Request) (context.Context, context.CancelFunc) {
	return context.WithTimeout(r.Context(), a.cfg.Timeout)
}

// fail turns an error of the ledger into what the caller is told: 4xx where the order was
// wrong, 503 while Postgres is away, else the bare error.
func (a *API) fail(r *http.Request, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ledger.ErrNoPool):
		return httpapi.Fail(http.StatusNotFound, "quota not found")
	case errors.Is(err, ledger.ErrOverflow):
		return bad("tokens exceed what a pool can hold")
	case errors.Is(err, ledger.ErrRefill):
		return httpapi.Fail(http.StatusConflict, "the account has a pool that refills otherwise")
	case errors.Is(err, ledger.ErrShort):
		return httpapi.Fail(http.StatusConflict, "the pool does not hold so many tokens")
	case errors.Is(err, ledger.ErrReferenceTaken):
		return httpapi.Fail(http.StatusConflict, "reference reuse with different payload")
	case errors.Is(err, ledger.ErrInvalid):
		return bad("invalid request")
	case errors.Is(err, membership.ErrUnavailable):
		return httpapi.Unavailable("memberships cannot be looked up now")
	}
	if _, shown := errors.AsType[*httpapi.Error](err); shown {
		return err
	}
	// Classes 53 (no resources) and 57 (shutting down) pass; other answers of Postgres
	// are our own mistakes. What is no answer at all is a Postgres that is away.
	answer, answered := errors.AsType[*pgconn.PgError](err)
	if r.Context().Err() != nil || answered && !strings.HasPrefix(answer.Code, "53") && !strings.HasPrefix(answer.Code, "57") {
		return err
	}
	a.said.Warn(r.Context(), "token store did not answer", err, slog.String("path", r.URL.Path))
	return httpapi.Unavailable("the token store is not available")
}

func (a *API) known(provider string) bool { return slices.Contains(a.cfg.Providers(), provider) }

func bad(format string, args ...any) *httpapi.Error {
	return httpapi.Fail(http.StatusBadRequest, format, args...)
}
