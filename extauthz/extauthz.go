// Package extauthz answers Envoy before anything else happens to a request: who is
// this, and may they? It checks JWTs and API keys, takes the credentials out, names
// the caller in Envoy's metadata and, for our own services, mints a signed identity.
// A caller it has seen lately costs no I/O.
package extauthz

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/jwks"
	"github.com/leaky-tokens/leaky-tokens/internal/principal"
)

// Config is what New needs.
type Config struct {
	Identity      string             // base URL of identity, http(s)://host:port
	NATS          string             // nats://..., where revocations come from; empty: nowhere
	Auth          config.Auth        // issuer, audience and for how long a key is trusted
	Tiers         config.Tiers       // roles to tier
	SigningKey    ed25519.PrivateKey // signs identities; see LoadSigningKey
	LookupTimeout time.Duration      // waiting for identity, default 2 s
	Log           *slog.Logger
	Metrics       prometheus.Registerer
}

// maxKeyTTL is the longest that a looked-up key may be trusted.
const maxKeyTTL = 2 * time.Minute

// Service is extauthz.
type Service struct {
	log       *slog.Logger
	signer    *principal.Signer
	published []byte // key set of signer
	issuers   *jwks.Keys
	tokens    *tokens
	keys      *keys
	revoked   *revocations
	metrics   *metrics
	anonymous [2]*reply // for calls without credentials; [1] removes ?key= too
}

// New checks the configuration and starts nothing.
func New(cfg Config) (*Service, error) {
	if len(cfg.SigningKey) != ed25519.PrivateKeySize {
		return nil, errors.New("extauthz: the signing key is missing")
	}
	if cfg.Auth.Issuer == "" || cfg.Auth.Audience == "" {
		return nil, errors.New("auth.issuer and auth.audience must be set: a token of anybody would do")
	}
	if cfg.Auth.KeyTTL <= 0 || cfg.Auth.KeyTTL > maxKeyTTL {
		return nil, fmt.Errorf("auth.key_ttl: %v is not above 0 and at most %v", cfg.Auth.KeyTTL, maxKeyTTL)
	}
	if cfg.LookupTimeout <= 0 {
		cfg.LookupTimeout = 2 * time.Second
	}
	issuers, err := jwks.New(jwks.Config{URL: cfg.Identity + "/oauth2/jwks", Log: cfg.Log})
	if err != nil {
		return nil, err
	}
	signer := principal.NewSigner(cfg.SigningKey)
	m := newMetrics(cfg.Metrics)
	s := &Service{log: cfg.Log, signer: signer, published: signer.JWKS(), issuers: issuers, metrics: m}
	s.tokens = newTokens(cfg.Auth, cfg.Tiers, issuers)
	s.keys = newKeys(&directory{base: cfg.Identity, timeout: cfg.LookupTimeout, client: newClient()}, cfg.Auth.KeyTTL, cfg.Tiers, m)
	s.revoked = &revocations{url: cfg.NATS, log: cfg.Log, forget: s, connected: m.linked}
	for n := range s.anonymous {
		if s.anonymous[n], err = newReply(anonymousAnswer(n == 1)); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Run fetches identity's keys and follows revocations until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.issuers.Run(ctx) })
	group.Go(func() error { return s.revoked.run(ctx) })
	return group.Wait()
}

// Handler serves the public key of the minted identities.
func (s *Service) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/jwks.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "public, max-age=60")
		_, _ = w.Write(s.published)
	})
	return mux
}

// Ready is nil once tokens can be checked.
func (s *Service) Ready(context.Context) error { return s.issuers.Ready() }

// forgetKey, forgetUser and forgetAll drop what a revocation names from the caches.
func (s *Service) forgetKey(hash string) { s.keys.forget(hash) }

func (s *Service) forgetUser(id string) {
	s.keys.cache.removeUser(id)
	s.tokens.cache.removeUser(id)
}

func (s *Service) forgetAll() {
	s.keys.cache.purge()
	s.tokens.cache.purge()
}
