package identity

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/identity/clientinfo"
	"github.com/leaky-tokens/leaky-tokens/identity/grants"
	"github.com/leaky-tokens/leaky-tokens/identity/keyring"
	"github.com/leaky-tokens/leaky-tokens/identity/oauth"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
)

// newOAuth gives the OAuth2 provider what it shares with logins: keys, grants, the
// throttle and the check of passwords. Its tokens have an issuer of their own, the URL
// that its metadata is found at.
func (s *Service) newOAuth(sealer *keyring.Sealer) (*oauth.Provider, error) {
	key, err := sealer.Derive("leaky-tokens oauth pages v1")
	if err != nil {
		return nil, err
	}
	p, err := oauth.New(oauth.Config{Pool: s.cfg.Pool, Issuer: s.cfg.Auth.PublicURL, Login: s.cfg.Auth.Issuer, Resources: s.cfg.Auth.Resources,
		Registration: s.cfg.Auth.ClientRegistration, Schemes: s.cfg.Auth.ClientSchemes, FormKey: key,
		TellClients: s.cfg.Auth.BackchannelLogout,
		SignIn: func(ctx context.Context, username, password string) (uuid.UUID, error) {
			id, err := s.SignIn(ctx, username, password)
			if errors.Is(err, errBusy) {
				return id, httpapi.Unavailable("too many logins at once, try again")
			}
			return id, err
		},
		Upstreams: s.upstreams, Welcome: s.welcome,
		Throttle: s.throttle, Limiter: s.cfg.Requests, LimitsOff: s.cfg.LimitsOff, Grants: s.grants, Keys: s.keys, Announce: s.announcer.Announce,
		Tokens: &grants.Tokens{DB: s.cfg.Pool, Signer: s.keys, Issuer: s.cfg.Auth.PublicURL, Audience: s.cfg.Auth.Audience,
			TTL: s.cfg.Auth.TokenTTL},
		Ready:   s.prepared.Load,
		Outage:  outage,
		Log:     s.log,
		Metrics: s.cfg.Metrics})
	if err != nil {
		return nil, fmt.Errorf("oauth2 provider: %w", err)
	}
	return p, nil
}

// mountOAuth adds the endpoints of OAuth2, which authenticate their callers themselves,
// and the management of clients, for an ADMIN.
func (s *Service) mountOAuth(mux *httpapi.Mux, handle func(string, callerFunc)) {
	s.oauth.Routes(func(pattern string, h http.Handler) { mux.Handle(pattern, clientinfo.Handler(h)) })
	s.oauth.AdminRoutes(func(pattern string, h oauth.AdminFunc) { handle(pattern, s.admin(h)) })
}

// prepareOAuth makes the console's client, and the development client or removes it elsewhere.
func (s *Service) prepareOAuth(ctx context.Context) error {
	if err := s.oauth.PrepareConsole(ctx, s.cfg.Console); err != nil {
		return err
	}
	return s.oauth.Prepare(ctx, s.cfg.Auth.Development != nil && *s.cfg.Auth.Development, s.cfg.Secrets)
}
