// Package tokensvc is beside the request's way: it keeps the pools of tokens that
// accounts own, and tells a caller which models they may call.
package tokensvc

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/consume"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/pools"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/saga"
)

// Audience is what signed identities for this service name.
const Audience = topology.TokenSvc

// Policy says whether a caller may call a model.
type Policy func(who principal.Principal, model config.Model) bool

// EveryModel lets every caller call every configured model.
func EveryModel(principal.Principal, config.Model) bool { return true }

// Config is what New needs.
type Config struct {
	Store     *Store
	Verifier  *principal.Verifier
	KeysReady func() error                      // not nil while identities cannot be checked; may be nil
	Models    func() []config.Model             // as they are now, wildcards too
	Protocols func() map[string]config.Protocol // of providers; OpenAI's of one that is not here
	MayCall   Policy                            // nil: EveryModel
	Purchases *saga.Service                     // nil: none are sold
	Pools     *pools.API                        // nil: none are kept
	Consume   *consume.API                      // nil: nothing is spent here
	Metrics   prometheus.Registerer
	Log       *slog.Logger
}

// API answers the routes of tokensvc.
type API struct {
	cfg Config
}

// New makes the API.
func New(cfg Config) (*API, error) {
	if cfg.Store == nil || cfg.Verifier == nil || cfg.Metrics == nil || cfg.Log == nil {
		return nil, errors.New("make tokensvc api: Store, Verifier, Metrics and Log are needed")
	}
	if cfg.MayCall == nil {
		cfg.MayCall = EveryModel
	}
	return &API{cfg: cfg}, nil
}

// Routes are the service's own; httpapi.Common wraps them. On /v1 errors have OpenAI's
// shape, for SDKs, elsewhere RFC 9457's.
func (a *API) Routes() *httpapi.Mux {
	mux := &httpapi.Mux{}
	mux.Handle("GET /api/v1/tokens/status", httpapi.Handle(a.cfg.Log, a.status))
	if a.cfg.Pools != nil {
		for pattern, h := range a.cfg.Pools.Routes() {
			mux.Handle(pattern, a.forUsers(h))
		}
	}
	if a.cfg.Consume != nil {
		mux.Handle("POST /api/v1/tokens/consume", a.forUsers(a.cfg.Consume.Serve))
	}
	if a.cfg.Purchases != nil {
		for pattern, h := range a.cfg.Purchases.Routes() {
			mux.Handle(pattern, a.forUsers(h))
		}
	}
	for path, shape := range shapes() {
		mux.Handle("GET "+path, a.forSDKs(a.listModels(shape)))
		mux.Handle("GET "+path+"/{model...}", a.forSDKs(a.findModel(shape)))
	}
	mux.HandleFunc("/v1/", noSuchRoute)
	mux.HandleFunc("/v1beta/", noSuchRoute)
	mux.HandleFunc("/anthropic/", noSuchRoute)
	return mux
}

// Ready is nil once pools can be read and callers told apart.
func (a *API) Ready(context.Context) error {
	if !a.cfg.Store.Ready() {
		return ErrNotReady
	}
	if a.cfg.KeysReady != nil {
		return a.cfg.KeysReady()
	}
	return nil
}

func (a *API) status(w http.ResponseWriter, _ *http.Request) error {
	httpapi.WriteJSON(w, http.StatusOK, struct {
		Service   string    `json:"service"`
		Status    string    `json:"status"`
		Timestamp time.Time `json:"timestamp"`
	}{"token-service", "ok", time.Now().UTC()})
	return nil
}

// forUsers lets callers with the role through, refusing others as a problem.
func (a *API) forUsers(h httpapi.HandlerFunc) http.Handler {
	refuse := func(w http.ResponseWriter, r *http.Request) {
		httpapi.WriteError(w, r, a.cfg.Log, a.unknownCaller())
	}
	return a.cfg.Verifier.Middleware(refuse, httpapi.Handle(a.cfg.Log, func(w http.ResponseWriter, r *http.Request) error {
		if who, _ := principal.From(r.Context()); !isUser(who) {
			return errNoRole()
		}
		return h(w, r)
	}))
}

func isUser(who principal.Principal) bool {
	return who.Is(principal.RoleUser) || who.Is(principal.RoleAdmin)
}

func errNoRole() *httpapi.Error { return httpapi.Fail(http.StatusForbidden, "role USER is required") }

// unknownCaller is 401, or 503 while identities cannot be checked at all.
func (a *API) unknownCaller() *httpapi.Error {
	if a.cfg.KeysReady != nil && a.cfg.KeysReady() != nil {
		return httpapi.Unavailable("identities cannot be checked now")
	}
	return httpapi.Fail(http.StatusUnauthorized, "authentication is required")
}
