// Package upstream signs people in by other OpenID providers, such as a company's own: the client's
// side of OpenID Connect by the code flow, with PKCE and a nonce. It stands behind the pages of package
// oauth, knows no account, and keeps nothing: who asks keeps a Login until the provider has answered.
package upstream

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
)

// Bounds of what a provider is waited for and listened to. A page waits for it.
const (
	askTime    = 5 * time.Second  // for one answer
	finishTime = 12 * time.Second // for all that a login asks it
	maxAnswer  = 1 << 20          // bytes of one answer
)

// Config is what New needs.
type Config struct {
	Upstreams []config.AuthUpstream
	Secrets   []string // our secrets there, in the order of Upstreams; empty: none
	Callback  string   // URL where providers send people back to
}

// Set is all providers that people may sign in by. A nil one has none.
type Set struct{ all []*provider }

// New starts nothing: a provider that is away fails logins by it, and nothing else.
func New(cfg Config) (*Set, error) {
	if len(cfg.Secrets) != len(cfg.Upstreams) {
		return nil, fmt.Errorf("%d secrets for %d upstream providers", len(cfg.Secrets), len(cfg.Upstreams))
	}
	client, s := boundedClient(), &Set{}
	for i, u := range cfg.Upstreams {
		s.all = append(s.all, &provider{cfg: u, client: client,
			oauth: oauth2.Config{ClientID: u.ClientID, ClientSecret: cfg.Secrets[i], RedirectURL: cfg.Callback, Scopes: u.Scopes}})
	}
	return s, nil
}

// Names are those of the providers, as buttons show them.
func (s *Set) Names() []string {
	if s == nil {
		return nil
	}
	names := make([]string, len(s.all))
	for i, p := range s.all {
		names[i] = p.cfg.Name
	}
	return names
}

// ErrUnknown says that there is no provider of a name, or none any more.
var ErrUnknown = errors.New("no such upstream provider")

func (s *Set) named(name string) (*provider, error) {
	if s != nil {
		for _, p := range s.all {
			if p.cfg.Name == name {
				return p, nil
			}
		}
	}
	return nil, ErrUnknown
}

// Refused says that nobody was signed in. Message is for the person, Detail for the operator's log:
// short, and without what was secret.
type Refused struct {
	Message string
	Detail  string
}

func (r *Refused) Error() string { return r.Detail }

// Login is a login that is under way: what its answer must fit. Verifier is a secret.
type Login struct {
	Upstream string `json:"upstream"`
	Issuer   string `json:"issuer"`
	Nonce    string `json:"nonce"`
	Verifier string `json:"verifier"`
}

// Person is who signed in, as the provider says. Issuer and Subject are who they are; all else may
// change, and may be anything.
type Person struct {
	Upstream string // name of the provider
	Issuer   string
	Subject  string
	Username string
	Email    string // empty where the provider says that it was not verified
	Groups   []string
	Refresh  string // refresh token, by which Ask asks about them; empty: the provider gave none. A secret
}

// Begin gives the URL where a browser signs in by the named provider, which comes back with state.
// ErrUnknown, or *Refused when the provider cannot be had.
func (s *Set) Begin(ctx context.Context, name, state string) (Login, string, error) {
	p, err := s.named(name)
	if err != nil {
		return Login{}, "", err
	}
	f, err := p.discovered(ctx)
	if err != nil {
		return Login{}, "", err
	}
	l := Login{Upstream: name, Issuer: p.cfg.Issuer, Nonce: oauth2.GenerateVerifier(), Verifier: oauth2.GenerateVerifier()}
	to := p.at(f).AuthCodeURL(state, oauth2.S256ChallengeOption(l.Verifier), oidc.Nonce(l.Nonce))
	return l, to, nil
}

// Finish redeems the code that a browser came back with, and checks who it was given for (OpenID
// Connect Core, 3.1.3). ErrUnknown when the provider is configured no more, *Refused when what it says
// is not good.
func (s *Set) Finish(ctx context.Context, l Login, code string) (Person, error) {
	p, err := s.named(l.Upstream)
	if err != nil || p.cfg.Issuer != l.Issuer {
		return Person{}, ErrUnknown
	}
	ctx, cancel := context.WithTimeout(ctx, finishTime)
	defer cancel()
	f, err := p.discovered(ctx)
	if err != nil {
		return Person{}, err
	}
	token, err := p.at(f).Exchange(p.context(ctx), code, oauth2.VerifierOption(l.Verifier))
	if err != nil {
		return Person{}, p.unanswered("the code was not redeemed", err)
	}
	id, err := p.verified(ctx, f, token, l.Nonce)
	if err != nil {
		return Person{}, err
	}
	said, err := p.claims(ctx, f, token, id)
	if err != nil {
		return Person{}, err
	}
	who, err := p.person(id.Subject, said)
	who.Refresh = token.RefreshToken
	return who, err
}

// ErrEnded says that a provider lets somebody in no more.
var ErrEnded = errors.New("the provider refused the refresh token")

// Ask asks the provider of an issuer whether somebody may still come in, by a refresh token, and gives the
// next one. ErrEnded when it says no, ErrUnknown when it is configured no more, *Refused when it says
// nothing.
func (s *Set) Ask(ctx context.Context, issuer, refresh string) (next string, err error) {
	i := slices.IndexFunc(s.all, func(p *provider) bool { return p.cfg.Issuer == issuer })
	if i < 0 {
		return "", ErrUnknown
	}
	p := s.all[i]
	f, err := p.discovered(ctx)
	if err != nil {
		return "", err
	}
	token, err := p.at(f).TokenSource(p.context(ctx), &oauth2.Token{RefreshToken: refresh}).Token()
	if answer, ok := errors.AsType[*oauth2.RetrieveError](err); ok && refusal(answer) {
		return "", ErrEnded
	}
	if err != nil {
		return "", p.unanswered("it was not said whether somebody may still come in", err)
	}
	return token.RefreshToken, nil
}

// refusal says whether an answer refuses a refresh token (RFC 6749, 5.2). dex calls that invalid_request,
// and a failure of its own too, but with another status.
func refusal(answer *oauth2.RetrieveError) bool {
	return answer.ErrorCode == "invalid_grant" || answer.ErrorCode == "invalid_request" && answer.Response.StatusCode == http.StatusBadRequest
}

// verified checks the ID token: signature, iss, aud and exp by go-oidc, then what it leaves to us.
func (p *provider) verified(ctx context.Context, f *found, token *oauth2.Token, nonce string) (*oidc.IDToken, error) {
	raw, ok := token.Extra("id_token").(string)
	if !ok || raw == "" {
		return nil, p.bad("there is no ID token")
	}
	id, err := f.oidc.Verifier(&oidc.Config{ClientID: p.cfg.ClientID}).Verify(p.context(ctx), raw)
	if err != nil {
		return nil, p.unanswered("the ID token is not good", err)
	}
	var more struct {
		Party string `json:"azp"`
	}
	switch {
	case subtle.ConstantTimeCompare([]byte(id.Nonce), []byte(nonce)) != 1:
		return nil, p.bad("the ID token has another nonce: it is of another login")
	case id.Claims(&more) != nil:
		return nil, p.bad("the ID token has an azp that is no text")
	case more.Party != "" && more.Party != p.cfg.ClientID:
		return nil, p.bad("the ID token was issued to another client (azp)")
	case len(id.Audience) > 1 && !slices.Contains(id.Audience, more.Party):
		return nil, p.bad("the ID token is for several, and does not say whom it was issued to (azp)")
	case id.Subject == "" || len(id.Subject) > maxSubject || !visible(id.Subject):
		return nil, p.bad("the ID token has no sub of at most 255 ASCII characters")
	case id.AccessTokenHash != "" && id.VerifyAccessToken(token.AccessToken) != nil:
		return nil, p.bad("the access token is not that of the ID token (at_hash)")
	}
	return id, nil
}
