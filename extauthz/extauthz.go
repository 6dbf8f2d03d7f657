// Package extauthz answers Envoy before anything else happens to a request: who is
// this, and may they? It checks JWTs and API keys, takes the credentials out, names
// the caller in Envoy's metadata and, for our own services, mints a signed identity.
// A caller it has seen lately costs no I/O.
package extauthz

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/counted"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
	"github.com/leaky-tokens/leaky-tokens/internal/jwks"
	"github.com/leaky-tokens/leaky-tokens/internal/retry"
	"github.com/leaky-tokens/leaky-tokens/internal/tracing"
)

// Config is what New needs.
type Config struct {
	Identity      string             // base URL of identity, http(s)://host:port
	NATS          string             // nats://..., where revocations come from; empty: nowhere
	Auth          config.Auth        // issuer, audience and for how long a key is trusted
	Tiers         config.Tiers       // roles to tier
	SigningKey    ed25519.PrivateKey // signs identities; see LoadSigningKey
	LookupTimeout time.Duration      // waiting for identity, default three quarters of what Envoy waits for us
	Transport     http.RoundTripper  // how identity is called; nil: Go's default
	PublicIssuer  string             // iss of OAuth2 tokens beside Auth.Issuer; empty: there are none
	Limiter       counted.Limiter    // counts failed authentication by address; nil: nobody does
	KeysOff       func() bool        // whether API keys are ignored, asked on every call; nil: never
	Log           *slog.Logger
	Metrics       prometheus.Registerer
	Traces        trace.TracerProvider // nil: no spans

	pace pace // of following revocations; zero: standardPace
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
	follower  *follower
	fresh     *freshness
	guesses   *guesses
	proofs    *proofs
	metrics   *metrics
	tracer    trace.Tracer
	keysOff   func() bool
	metadata  string             // where clients learn how to get a token (RFC 9728); may be empty
	anonymous [1 << forms]*reply // by form, for calls without credentials
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
		cfg.LookupTimeout = cmp.Or(cfg.Auth.CheckTimeout, config.CheckTimeout) * 3 / 4
	}
	issuers, err := jwks.New(jwks.Config{URL: cfg.Identity + "/oauth2/jwks", Client: newClient(cfg.Transport), Log: cfg.Log})
	if err != nil {
		return nil, err
	}
	signer := principal.NewSigner(cfg.SigningKey)
	s := &Service{log: cfg.Log, signer: signer, published: signer.JWKS(), issuers: issuers, fresh: newFreshness(),
		guesses: newGuesses(cfg.Limiter, cfg.Log), proofs: newProofs(cfg.PublicIssuer), tracer: tracing.Tracer(cfg.Traces)}
	if s.keysOff = cfg.KeysOff; s.keysOff == nil {
		s.keysOff = func() bool { return false }
	}
	if cfg.PublicIssuer != "" {
		s.metadata = cfg.PublicIssuer + config.ResourceMetadata
	}
	s.compose(cfg)
	for f := range s.anonymous {
		if s.anonymous[f], err = newReply(anonymousAnswer(form(f))); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// compose makes the parts and ties them together.
func (s *Service) compose(cfg Config) {
	directory := &directory{base: cfg.Identity, timeout: cfg.LookupTimeout, client: newClient(cfg.Transport)}
	grace := cfg.Auth.OfflineGrace
	denied := newDenylist(cfg.Auth.KeyTTL + grace + cfg.LookupTimeout)
	s.metrics = newMetrics(cfg.Metrics, s.fresh, denied)
	s.tokens = &tokens{tiers: cfg.Tiers, keys: s.issuers, issuer: cfg.Auth.Issuer, public: cfg.PublicIssuer,
		validator: newValidator(), audience: cfg.Auth.Audience,
		denied: denied, fresh: s.fresh, cache: newTokenCache()}
	s.keys = &keys{directory: directory, ttl: cfg.Auth.KeyTTL, grace: grace, tiers: cfg.Tiers, denied: denied, fresh: s.fresh,
		cache: newCache(), unknown: newUnknown(), slots: make(chan struct{}, maxLookups), metrics: s.metrics}
	if cfg.pace == (pace{}) {
		cfg.pace = standardPace()
	}
	s.follower = &follower{url: cfg.NATS, list: directory.revocations, pace: cfg.pace, grace: grace, denied: denied, fresh: s.fresh,
		forget: s.keys.cache.Purge, metrics: s.metrics, log: cfg.Log,
		said: retry.NewTroubles(cfg.Log)}
}

// Run fetches identity's keys and follows revocations until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.issuers.Run(ctx) })
	group.Go(func() error { return s.follower.run(ctx) })
	group.Go(func() error { return s.guesses.run(ctx) })
	return group.Wait()
}

// Handler serves the public key of the minted identities.
func (s *Service) Handler() *httpapi.Mux {
	mux := &httpapi.Mux{}
	mux.HandleFunc("GET /.well-known/jwks.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "public, max-age=60")
		_, _ = w.Write(s.published)
	})
	return mux
}

// Ready is nil once tokens can be checked, and whether they were revoked is known.
func (s *Service) Ready(context.Context) error {
	if err := s.issuers.Ready(); err != nil {
		return err
	}
	if s.fresh.heard.Load() == 0 {
		return errors.New("the list of revocations has not been fetched yet")
	}
	return nil
}
