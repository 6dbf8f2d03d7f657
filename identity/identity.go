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
	"net/http"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
	"github.com/leaky-tokens/leaky-tokens/internal/jwks"
	"github.com/leaky-tokens/leaky-tokens/internal/principal"
)

// Audience is what identities minted for this service name.
const Audience = "identity"

// Config is what New needs. Pool may not be connected yet: Run waits for Postgres.
type Config struct {
	Pool          *pgxpool.Pool
	NATS          string       // nats://..., where revocations are announced; empty: nowhere
	Auth          config.Auth  //
	Tiers         config.Tiers // their names become roles
	Secrets       string       // folder of generated secrets
	KeysSecret    string       // LEAKY_KEYS_SECRET: seals signing keys; empty: a generated file
	AdminUsername string       // first administrator; empty: generated into Secrets/admin.json
	AdminPassword string       //
	IdentityKeys  string       // URL of extauthz' key set: whose signed identities are trusted
	Log           *slog.Logger
	Metrics       prometheus.Registerer
}

// Service is identity. Its handler answers 503 until Run has prepared the database.
type Service struct {
	cfg       Config
	log       *slog.Logger
	store     store
	passwords *passwords
	keys      *keyring
	revoked   *revocations
	callers   *jwks.Keys
	verifier  *principal.Verifier
	metrics   *metrics
	prepared  atomic.Bool
}

// New checks the configuration and starts nothing.
func New(cfg Config) (*Service, error) {
	if (cfg.AdminUsername == "") != (cfg.AdminPassword == "") {
		return nil, errors.New("LEAKY_ADMIN_USERNAME and LEAKY_ADMIN_PASSWORD go together: set both or none")
	}
	if cfg.AdminUsername != "" {
		if bad := append(checkUsername(cfg.AdminUsername), checkPassword(cfg.AdminPassword)...); len(bad) > 0 {
			return nil, fmt.Errorf("first administrator (LEAKY_ADMIN_USERNAME, LEAKY_ADMIN_PASSWORD): %s", bad[0].Message)
		}
	}
	sealer, err := newSealer(cfg.KeysSecret, cfg.Secrets)
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
	db := store{pool: cfg.Pool}
	return &Service{cfg: cfg, log: cfg.Log, store: db, passwords: passwords, callers: callers,
		keys:     &keyring{store: db, sealer: sealer, issuer: cfg.Auth.Issuer, audience: cfg.Auth.Audience, life: cfg.Auth.TokenTTL},
		revoked:  newRevocations(cfg.NATS, cfg.Log),
		verifier: principal.NewVerifier(Audience, callers.Keyfunc),
		metrics:  newMetrics(cfg.Metrics)}, nil
}

// Run prepares the database (waiting for it), then keeps keys fresh and announces
// revocations until ctx ends. It fails only when waiting would not help.
func (s *Service) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.callers.Run(ctx) })
	group.Go(func() error { return s.revoked.run(ctx) })
	group.Go(func() error {
		if err := s.prepare(ctx); err != nil || ctx.Err() != nil {
			return err
		}
		return s.reload(ctx)
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
	pause, logged := 100*time.Millisecond, time.Time{}
	for ctx.Err() == nil {
		err := s.prepareOnce(ctx)
		if err == nil {
			s.prepared.Store(true)
			s.log.Info("ready")
			return nil
		}
		if errors.Is(err, errForeignSecret) || errors.Is(err, errNameTaken) || errors.Is(err, errEmailTaken) || errors.Is(err, errBadAdminFile) {
			return err
		}
		if ctx.Err() == nil && time.Since(logged) > 10*time.Second {
			logged = time.Now()
			s.log.Warn("database not ready, waiting", slog.Any("error", err))
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, 2*time.Second)
	}
	return nil
}

func (s *Service) prepareOnce(ctx context.Context) error {
	ping, cancel := context.WithTimeout(ctx, queryTime)
	defer cancel()
	if err := s.cfg.Pool.Ping(ping); err != nil {
		return err
	}
	if err := s.store.migrate(ctx); err != nil {
		return err
	}
	tiers := make([]string, 0, len(s.cfg.Tiers.Levels)+1)
	for name := range s.cfg.Tiers.Levels {
		tiers = append(tiers, name)
	}
	if err := s.store.ensureRoles(ctx, tiers); err != nil {
		return err
	}
	if err := s.keys.ensure(ctx); err != nil {
		return err
	}
	return s.ensureAdmin(ctx, filepath.Join(s.cfg.Secrets, "admin.json"))
}

// reload picks up signing keys that another replica or a rotation made.
func (s *Service) reload(ctx context.Context) error {
	every := time.NewTicker(30 * time.Second)
	defer every.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-every.C:
			if err := s.keys.load(ctx); err != nil && ctx.Err() == nil {
				s.log.Warn("signing keys not reloaded, keeping what is at hand", slog.Any("error", err))
			}
		}
	}
}

// Handler is the API: /api/v1/auth/**, /api/v1/me, /api/v1/admin/** and /oauth2/jwks.
func (s *Service) Handler() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, h httpapi.HandlerFunc) {
		mux.Handle(pattern, httpapi.Handle(s.log, s.whenReady(h)))
	}
	handle("POST /api/v1/auth/register", s.register)
	handle("POST /api/v1/auth/login", s.login)
	handle("POST /api/v1/auth/api-keys", s.known(s.createKey))
	handle("GET /api/v1/auth/api-keys", s.known(s.listKeys))
	handle("DELETE /api/v1/auth/api-keys", s.known(s.revokeKey))
	handle("GET /api/v1/auth/api-keys/validate", s.inside(s.validateKey))
	handle("GET /api/v1/me", s.known(s.me))
	handle("GET /api/v1/admin/users", s.known(s.admin(s.listUsers)))
	handle("PUT /api/v1/admin/users/{id}/roles", s.known(s.admin(s.setRoles)))
	handle("GET /oauth2/jwks", s.jwks)
	return mux
}
