// Package identity is who may call: users, roles, API keys and the keys that sign
// access tokens, in Postgres. It stands beside the request path: Envoy routes logins
// and key management to it, extauthz asks it about keys it has not cached and fetches
// its public keys. Nothing of a provider call waits for it otherwise.
package identity

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/leaky-tokens/leaky-tokens/identity/grants"
	"github.com/leaky-tokens/leaky-tokens/identity/keyring"
	"github.com/leaky-tokens/leaky-tokens/identity/migrations"
	"github.com/leaky-tokens/leaky-tokens/identity/oauth"
	"github.com/leaky-tokens/leaky-tokens/identity/revocations"
	"github.com/leaky-tokens/leaky-tokens/identity/throttle"
	"github.com/leaky-tokens/leaky-tokens/identity/upstream"
	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/counted"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/revocation"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
	"github.com/leaky-tokens/leaky-tokens/internal/jwks"
	"github.com/leaky-tokens/leaky-tokens/internal/redisconn"
	"github.com/leaky-tokens/leaky-tokens/internal/retry"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// Audience is what identities minted for this service name.
const Audience = topology.Identity

// Config is what New needs. Pool may not be connected yet: Run waits for Postgres.
type Config struct {
	Pool          *pgxpool.Pool
	NATS          string          // nats://..., where revocations are announced; empty: nowhere
	Redis         string          // redis://..., where failed logins are counted; empty: by this process alone
	RedisPrefix   string          // of its keys
	Auth          config.Auth     //
	Tiers         config.Tiers    // their names become roles
	Secrets       string          // folder of generated secrets
	KeysSecret    string          // LEAKY_KEYS_SECRET: seals signing keys; empty: a generated file
	AdminUsername string          // first administrator; empty: generated into Secrets/admin.json
	AdminPassword string          //
	IdentityKeys  string          // URL of extauthz' key set: whose signed identities are trusted
	Limiter       Limiter         // tells callers how they stand; nil: nobody does
	Requests      counted.Limiter // counts requests of OAuth2 clients; nil: nobody does
	LimitsOff     func() bool     // whether requests are not counted now; nil: they are
	Providers     []string        // whose limits and balances GET /api/v1/me tells
	Upstreams     []string        // secrets at Auth.Upstreams, in their order
	Console       []string        // origins of the console, which signs its users in by OAuth2; empty: there is none
	Log           *slog.Logger
	Metrics       prometheus.Registerer
}

// Service is identity. Its handler answers 503 until Run has prepared the database.
type Service struct {
	cfg       Config
	log       *slog.Logger
	said      *retry.Troubles
	store     store
	passwords *passwords
	throttle  *throttle.Throttle
	keys      *keyring.Ring
	grants    *grants.Store
	tokens    *grants.Tokens
	oauth     *oauth.Provider
	upstreams *upstream.Set
	asking    asking
	announcer *revocations.Announcer
	callers   *jwks.Keys
	verifier  *principal.Verifier
	metrics   *metrics
	redis     redis.UniversalClient // nil without one
	prepared  atomic.Bool
}

// New checks the configuration and starts nothing.
func New(cfg Config) (*Service, error) {
	if (cfg.AdminUsername == "") != (cfg.AdminPassword == "") {
		return nil, errors.New("LEAKY_ADMIN_USERNAME and LEAKY_ADMIN_PASSWORD go together: set both or none")
	}
	if cfg.AdminUsername != "" {
		if bad := append(checkUsername(cfg.AdminUsername), checkPassword("password", cfg.AdminPassword, cfg.AdminUsername)...); len(bad) > 0 {
			return nil, fmt.Errorf("first administrator (LEAKY_ADMIN_USERNAME, LEAKY_ADMIN_PASSWORD): %s", bad[0].Message)
		}
	}
	sealer, err := keyring.NewSealer(cfg.KeysSecret, cfg.Secrets)
	if err != nil {
		return nil, err
	}
	passwords, err := newPasswords()
	if err != nil {
		return nil, err
	}
	callers, err := jwks.New(jwks.Config{URL: cfg.IdentityKeys, Log: cfg.Log})
	if err != nil {
		return nil, err
	}
	s := &Service{cfg: cfg, log: cfg.Log, said: retry.NewTroubles(cfg.Log),
		passwords: passwords, callers: callers, metrics: newMetrics(cfg.Metrics),
		verifier:  principal.NewVerifier(Audience, callers.Keyfunc),
		keys:      keyring.New(keyring.Config{Pool: cfg.Pool, Sealer: sealer, Ahead: cfg.Auth.RotateAhead, Life: cfg.Auth.TokenTTL}),
		announcer: revocations.NewAnnouncer(cfg.Log)}
	s.grants = grants.New(grants.Config{Pool: cfg.Pool, Announcer: s.announcer, TokenTTL: cfg.Auth.TokenTTL, Idle: cfg.Auth.RefreshTTL,
		Longest: cfg.Auth.SessionTTL, Grace: cfg.Auth.RefreshGrace})
	s.tokens = &grants.Tokens{DB: cfg.Pool, Signer: s.keys, Issuer: cfg.Auth.Issuer, Audience: cfg.Auth.Audience, TTL: cfg.Auth.TokenTTL}
	s.store = store{pool: cfg.Pool, grants: s.grants, tell: s.announcer, life: cfg.Auth.TokenTTL + clockSkew}
	counting := throttle.Config{Prefix: cfg.RedisPrefix, Settings: cfg.Auth.Throttle, Log: cfg.Log}
	if cfg.Redis != "" {
		// A login waits for it: no retries, and the throttle's own deadline counts.
		if s.redis, _, err = redisconn.Dial(redisconn.Config{URL: cfg.Redis, DialTimeout: time.Second, Timeout: 3 * time.Second}); err != nil {
			return nil, err
		}
		counting.Redis = s.redis
	}
	s.throttle = throttle.New(counting)
	if s.asking, err = newAsking(sealer); err != nil {
		return nil, err
	}
	s.upstreams, err = upstream.New(upstream.Config{Upstreams: cfg.Auth.Upstreams, Secrets: cfg.Upstreams,
		Callback: cfg.Auth.PublicURL + config.UpstreamCallback})
	if err != nil {
		return nil, err
	}
	s.oauth, err = s.newOAuth(sealer)
	return s, err
}

// clockSkew is how much longer than what it concerns a revocation is kept.
const clockSkew = 2 * time.Minute

// Run prepares the database (waiting for it), then keeps keys fresh and announces
// revocations until ctx ends, which is to be after the last call is served. It fails only
// when waiting would not help.
func (s *Service) Run(ctx context.Context) error {
	if s.redis != nil {
		defer s.redis.Close()
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.callers.Run(ctx) })
	group.Go(func() error { return s.link(ctx) })
	group.Go(func() error { return s.oauth.Run(ctx) })
	group.Go(func() error {
		if err := s.prepare(ctx); err != nil || ctx.Err() != nil {
			return err
		}
		return s.jobs(ctx)
	})
	return group.Wait()
}

// Ready is nil once requests can be served, and tells what is missing otherwise.
func (s *Service) Ready(ctx context.Context) error {
	if !s.prepared.Load() {
		return errors.New("waiting for Postgres")
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if err := s.cfg.Pool.Ping(ctx); err != nil {
		return errors.New("postgres does not answer")
	}
	return nil
}

// prepare retries until the database is there. Errors that no waiting cures end it.
func (s *Service) prepare(ctx context.Context) error {
	const waiting = "database not ready, waiting"
	err := retry.Policy{First: 100 * time.Millisecond, Most: 2 * time.Second}.Do(ctx, func(ctx context.Context) error {
		err := s.prepareOnce(ctx)
		if errors.Is(err, keyring.ErrForeignSecret) || errors.Is(err, errNameTaken) || errors.Is(err, errEmailTaken) ||
			errors.Is(err, errBadAdminFile) || errors.Is(err, oauth.ErrBadDevelopmentFile) {
			return retry.Permanent(err)
		}
		return err
	}, func(_ int, err error) {
		if ctx.Err() == nil {
			s.said.Warn(ctx, waiting, err)
		}
	})
	switch {
	case err == nil:
		s.said.Over(ctx, waiting, "database is ready")
		s.prepared.Store(true)
		s.log.Info("ready")
	case ctx.Err() != nil:
		return nil
	}
	return err
}

func (s *Service) prepareOnce(ctx context.Context) error {
	ping, cancel := context.WithTimeout(ctx, queryTime)
	defer cancel()
	if err := s.cfg.Pool.Ping(ping); err != nil {
		return err
	}
	if err := migrations.Up(ctx, s.cfg.Pool); err != nil {
		return err
	}
	tiers := make([]string, 0, len(s.cfg.Tiers.Levels)+1)
	for name := range s.cfg.Tiers.Levels {
		tiers = append(tiers, name)
	}
	if err := s.store.ensureRoles(ctx, tiers); err != nil {
		return err
	}
	if err := s.keys.Ensure(ctx); err != nil {
		return err
	}
	if err := s.prepareOAuth(ctx); err != nil {
		return err
	}
	return s.ensureAdmin(ctx, filepath.Join(s.cfg.Secrets, "admin.json"))
}

// Handler is the API: /api/v1/auth/**, /api/v1/me, /api/v1/orgs/**, /api/v1/admin/**,
// /oauth2/** and /.well-known/**, and what extauthz alone asks for.
func (s *Service) Handler() *httpapi.Mux {
	mux := &httpapi.Mux{Unmatched: s.oauth.Unmatched}
	handle := func(pattern string, h httpapi.HandlerFunc) {
		mux.Handle(pattern, httpapi.Handle(s.log, s.whenReady(h)))
	}
	const account = attributes.ScopeAccount
	handle("POST /api/v1/auth/register", s.register)
	handle("POST /api/v1/auth/login", s.login)
	handle("POST /api/v1/auth/refresh", s.refresh)
	handle("POST /api/v1/auth/logout", s.logout)
	handle("POST /api/v1/auth/password", s.loggedIn("", s.changePassword))
	handle("POST /api/v1/auth/api-keys", s.loggedIn(account, s.createKey))
	handle("GET /api/v1/auth/api-keys", s.loggedIn(account, s.listKeys))
	handle("DELETE /api/v1/auth/api-keys", s.loggedIn(account, s.revokeKey))
	handle("GET /api/v1/auth/api-keys/validate", s.inside(s.validateKey))
	handle("GET /api/v1/me", s.known(s.me))
	handle("POST /api/v1/orgs", s.loggedIn(account, s.createOrg))
	handle("GET /api/v1/orgs", s.known(s.listOrgs))
	handle("PATCH /api/v1/orgs/{id}", s.loggedIn(account, s.renameOrg))
	handle("GET /api/v1/orgs/{id}/teams", s.known(s.listTeams))
	handle("POST /api/v1/orgs/{id}/teams", s.loggedIn(account, s.createTeam))
	handle("DELETE /api/v1/orgs/{id}/teams/{team}", s.loggedIn(account, s.deleteTeam))
	handle("GET /api/v1/orgs/{id}/members", s.known(s.listMembers))
	handle("POST /api/v1/orgs/{id}/members", s.loggedIn(account, s.setMember))
	handle("DELETE /api/v1/orgs/{id}/members/{userId}", s.loggedIn(account, s.removeMember))
	handle("GET /api/v1/orgs/invitations", s.known(s.listOwnInvitations))
	handle("GET /api/v1/orgs/{id}/invitations", s.known(s.listOrgInvitations))
	handle("POST /api/v1/orgs/{id}/invitations/accept", s.loggedIn(account, s.acceptInvitation))
	handle("POST /api/v1/orgs/{id}/invitations/decline", s.loggedIn(account, s.declineInvitation))
	handle("DELETE /api/v1/orgs/{id}/invitations/{userId}", s.loggedIn(account, s.withdrawOrgInvitation))
	handle("POST /api/v1/admin/invitations", s.known(s.admin(s.createInvitation)))
	handle("GET /api/v1/admin/invitations", s.known(s.admin(s.listInvitations)))
	handle("DELETE /api/v1/admin/invitations/{id}", s.known(s.admin(s.withdrawInvitation)))
	handle("GET /api/v1/admin/orgs", s.known(s.admin(s.listAllOrgs)))
	handle("GET /api/v1/admin/users", s.known(s.admin(s.listUsers)))
	handle("PUT /api/v1/admin/users/{id}/roles", s.known(s.admin(s.setRoles)))
	handle("POST /api/v1/admin/users/{id}/disable", s.known(s.admin(s.setDisabled(true))))
	handle("POST /api/v1/admin/users/{id}/enable", s.known(s.admin(s.setDisabled(false))))
	handle("GET /api/v1/admin/audit", s.known(s.admin(s.listAudit)))
	handle("GET /api/v1/admin/keys", s.known(s.admin(s.listSigningKeys)))
	handle("POST /api/v1/admin/keys/rotate", s.known(s.admin(s.rotateSigningKeys)))
	handle("POST /api/v1/admin/keys/{id}/withdraw", s.known(s.admin(s.withdrawSigningKey)))
	handle("GET /api/v1/auth/grants", s.loggedIn(account, s.listGrants))
	handle("DELETE /api/v1/auth/grants", s.loggedIn(account, s.endGrant))
	handle("GET "+revocation.Path, s.inside(s.listRevocations))
	s.mountOAuth(mux, func(pattern string, h callerFunc) { handle(pattern, s.known(h)) })
	return mux
}
