// Package oauth is the OAuth2 and OpenID Connect provider of identity: clients, the
// authorize and device pages, and the endpoints under /oauth2. Envoy routes it as
// public, since each endpoint authenticates in its own way; the tokens it issues are
// identity's own access tokens, which extauthz checks like those of a login.
//
// It speaks RFC 6749 (client_credentials, authorization_code, refresh_token), RFC 7636
// (PKCE, S256 only, for every client), RFC 7009 (revocation), RFC 7662
// (introspection), RFC 8414 (metadata), RFC 8628 (devices), RFC 9068 (access tokens),
// RFC 9207 (iss in the answer), RFC 9449 (DPoP) as RFC 9700 wants them, and OpenID Connect Core,
// Discovery, RP-Initiated and Back-Channel Logout. It keeps no session: each page asks for the password, or
// sends to another provider (package upstream), for which alone there is a cookie, until the browser is back.
package oauth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/leaky-tokens/leaky-tokens/identity/grants"
	"github.com/leaky-tokens/leaky-tokens/identity/identitydb"
	"github.com/leaky-tokens/leaky-tokens/identity/throttle"
	"github.com/leaky-tokens/leaky-tokens/identity/upstream"
	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/counted"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/revocation"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
	"github.com/leaky-tokens/leaky-tokens/internal/retry"
)

// SignIn checks a password and gives the user's id. It throttles and audits as a login
// does, and its refusals are *httpapi.Error: 401, 429 or 503.
type SignIn func(ctx context.Context, username, password string) (uuid.UUID, error)

// Keys sign ID tokens and verify access tokens.
type Keys interface {
	Sign(typ string, claims jwt.Claims) (string, error)
	Keyfunc(t *jwt.Token) (any, error)
	JWKS() ([]byte, error) // the key set as it is published
}

// Config is what New needs. All but Interval, Upstreams, Welcome, Limiter, LimitsOff, Ready, Outage and
// Metrics is required.
type Config struct {
	Pool         *pgxpool.Pool
	Issuer       string        // public URL of the gateway, without a slash at the end: iss of what is issued here
	Login        string        // iss of the tokens of a plain login, which introspection knows too
	Registration string        // who may register clients beside an ADMIN: one of config's; empty: nobody
	Schemes      []string      // without a dot that redirect URIs may have
	Documents    *http.Client  // fetches clients' documents; nil: one that reaches public addresses alone
	Resources    []string      // resource servers beside the gateway that tokens may be for
	TellClients  bool          // whether clients with an address for it hear that a grant has ended
	Interval     time.Duration // between two polls of a device, whole seconds; default 5s (RFC 8628 section 3.2)
	FormKey      []byte        // 32 bytes: seals what pages remember; the same for all replicas
	SignIn       SignIn
	Upstreams    *upstream.Set      // other providers that people sign in by; nil: none
	Welcome      Welcome            // their accounts
	Throttle     *throttle.Throttle // slows down guessing of client secrets and user codes
	Limiter      counted.Limiter    // counts requests of clients; nil: nobody does
	Grants       *grants.Store
	Tokens       *grants.Tokens // issues with Issuer as iss
	Keys         Keys
	Announce     func(...revocation.Revocation) // tells every extauthz; after the commit
	LimitsOff    func() bool                    // whether requests are not counted now; nil: they are
	Ready        func() bool                    // whether the database is prepared; nil: it is
	Outage       func(error) bool               // whether an error is a database that is away, so that callers retry
	Log          *slog.Logger
	Metrics      prometheus.Registerer
}

// Provider is the OAuth2 server.
type Provider struct {
	cfg       Config
	log       *slog.Logger
	said      *retry.Troubles
	db        *identitydb.Queries
	forms     *forms
	documents *documents
	pages     *pages
	metrics   *metrics
	origins   *http.CrossOriginProtection
}

// New checks the configuration and starts nothing.
func New(cfg Config) (*Provider, error) {
	u, err := url.Parse(cfg.Issuer)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil ||
		strings.HasSuffix(cfg.Issuer, "/") {
		return nil, fmt.Errorf("oauth issuer %q: write http(s)://host[:port] without a slash at the end (auth.public_url)", cfg.Issuer)
	}
	if cfg.Documents == nil {
		cfg.Documents = publicClient()
	}
	if cfg.Interval == 0 {
		cfg.Interval = 5 * time.Second
	}
	sealed, err := newForms(cfg.FormKey)
	if err != nil {
		return nil, err
	}
	pages, err := newPages()
	if err != nil {
		return nil, err
	}
	origins := http.NewCrossOriginProtection()
	if err := origins.AddTrustedOrigin(u.Scheme + "://" + u.Host); err != nil {
		return nil, fmt.Errorf("oauth issuer: %w", err)
	}
	return &Provider{cfg: cfg, log: cfg.Log, said: retry.NewTroubles(cfg.Log),
		db: identitydb.New(cfg.Pool), forms: sealed, documents: newDocuments(), pages: pages,
		metrics: newMetrics(cfg.Metrics),
		origins: origins}, nil
}

// Routes gives every public endpoint to handle, which mounts them.
func (p *Provider) Routes(handle func(pattern string, h http.Handler)) {
	for path, h := range map[string]httpapi.HandlerFunc{"/.well-known/openid-configuration": p.metadata,
		"/.well-known/oauth-authorization-server": p.metadata, "/oauth2/jwks": p.keySet,
		config.ResourceMetadata: p.protectedResource, config.ResourceMetadata + "/{path...}": p.protectedResource} {
		handle("GET "+path, anyOrigin(p.endpoint(h)))
		handle("OPTIONS "+path, preflight("GET", everybody))
	}
	for path, h := range map[string]httpapi.HandlerFunc{"/oauth2/token": p.token, "/oauth2/revoke": p.revoke,
		pushPath: p.push, "/oauth2/device_authorization": p.deviceAuthorization, "/oauth2/userinfo": p.userinfo} {
		handle("POST "+path, p.ofClients(p.endpoint(h)))
		handle("OPTIONS "+path, preflight("GET, POST", p.allowOrigin))
	}
	handle("GET /oauth2/userinfo", p.ofClients(p.endpoint(p.userinfo))) // OpenID Connect Core section 5.3.1
	if p.cfg.Registration == config.ClientsOpen {
		handle("POST "+registerPath, anyOrigin(p.endpoint(p.registerItself)))
		handle("OPTIONS "+registerPath, preflight("POST", everybody))
	}
	handle("POST /oauth2/introspect", p.endpoint(p.introspect))
	handle("GET /oauth2/authorize", p.page(p.showAuthorize))
	handle("POST /oauth2/authorize", p.page(p.decideAuthorize))
	if len(p.cfg.Upstreams.Names()) > 0 {
		handle("GET "+config.UpstreamCallback, p.page(p.comeBack))
	}
	handle("GET "+logoutPath, p.page(p.endSession))
	handle("POST "+logoutPath, p.page(p.endSession))
	handle("GET /oauth2/device", p.page(p.showDevice))
	handle("POST /oauth2/device", p.page(p.decideDevice))
}

// Run removes what has expired, now and then, and tells clients of grants that have ended, until ctx
// ends. Several replicas may.
func (p *Provider) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return p.purgeEach(ctx) })
	if p.cfg.TellClients {
		group.Go(func() error { return p.tellClients(ctx) })
	}
	return group.Wait()
}

func (p *Provider) purgeEach(ctx context.Context) error {
	every := time.NewTicker(10 * time.Minute)
	defer every.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-every.C:
			if err := p.Purge(ctx, time.Now()); err != nil && ctx.Err() == nil {
				p.said.Warn(ctx, "expired codes not removed, trying again later", err)
			}
		}
	}
}

const (
	codeLife = time.Minute // RFC 6749 section 4.1.2: ten minutes at most
	// codeKept is how long a code is remembered after its end, so that using it again
	// still revokes what it gave.
	codeKept   = 24 * time.Hour
	deviceLife = 10 * time.Minute
	// deviceKept lets a late poll hear expired_token and not invalid_grant.
	deviceKept = 10 * time.Minute
	// queryTime bounds what one request asks of the database.
	queryTime = 5 * time.Second
)

// Purge removes the codes and device codes that mean nothing any more.
func (p *Provider) Purge(ctx context.Context, now time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if _, err := p.db.OAuthPurgeCodes(ctx, now.Add(-codeKept)); err != nil {
		return fmt.Errorf("remove codes: %w", err)
	}
	if _, err := p.db.OAuthPurgeDevices(ctx, now.Add(-deviceKept)); err != nil {
		return fmt.Errorf("remove device codes: %w", err)
	}
	if _, err := p.db.PurgeUpstreamLogins(ctx, now); err != nil {
		return fmt.Errorf("remove upstream logins: %w", err)
	}
	if err := p.purgeClients(ctx, now); err != nil {
		return err
	}
	if _, err := p.db.OAuthPurgeAssertions(ctx, now); err != nil {
		return fmt.Errorf("remove assertions: %w", err)
	}
	if _, err := p.db.OAuthPurgeLogouts(ctx, now.Add(-logoutKept)); err != nil {
		return fmt.Errorf("remove logouts: %w", err)
	}
	return nil
}

// errGone says that a user is not there or disabled.
var errGone = errors.New("no such user")

// person is a user as they are now; errGone when they may not be acted for.
func (p *Provider) person(ctx context.Context, id uuid.UUID) (identitydb.OAuthPersonRow, error) {
	who, err := p.db.OAuthPerson(ctx, id)
	switch {
	case errors.Is(err, pgx.ErrNoRows) || err == nil && who.Disabled:
		return who, errGone
	case err != nil:
		return who, fmt.Errorf("read user: %w", err)
	}
	return who, nil
}

// mayAct says whether a client may act for a user: one that is bound to an
// organisation acts for it, and so for its members alone.
func (p *Provider) mayAct(ctx context.Context, c identitydb.OauthClient, user uuid.UUID) (bool, error) {
	if c.OrgID == nil {
		return true, nil
	}
	member, err := p.db.OAuthIsMember(ctx, identitydb.OAuthIsMemberParams{OrgID: *c.OrgID, UserID: user})
	if err != nil {
		return false, fmt.Errorf("look for membership: %w", err)
	}
	return member, nil
}
