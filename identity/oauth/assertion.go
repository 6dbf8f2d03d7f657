package oauth

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/leaky-tokens/leaky-tokens/identity/identitydb"
	"github.com/leaky-tokens/leaky-tokens/internal/jwks"
)

// assertionType is the one that clients prove themselves by (RFC 7523 section 2.2).
const assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

const (
	maxAssertionLife = 10 * time.Minute
	maxAssertionID   = 200 // bytes of jti
	assertionLeeway  = 30 * time.Second
)

// errAssertion says that an assertion proves nothing, whatever the reason.
var errAssertion = errors.New("the assertion proves nothing")

// assertionMethods are the algorithms of assertions. Each takes keys of one type only.
func assertionMethods() []string { return []string{"RS256", "PS256", "ES256", "EdDSA"} }

// assertedCredentials reads private_key_jwt (OpenID Connect Core section 9), beside which nothing else may
// prove the client. Whom it speaks of stands in it; the signature is checked once its key is known.
func assertedCredentials(form params, header bool) (credentials, error) {
	switch {
	case header || form["client_secret"] != "":
		return credentials{}, refuse(codeInvalidRequest, "the client authenticates in two ways")
	case form["client_assertion_type"] != assertionType:
		return credentials{}, refuse(codeInvalidRequest, "client_assertion_type must be %s", assertionType)
	}
	var claims jwt.RegisteredClaims
	if _, _, err := jwt.NewParser().ParseUnverified(form["client_assertion"], &claims); err != nil {
		return credentials{}, credentials{}.refused()
	}
	if other := form["client_id"]; other != "" && other != claims.Subject {
		return credentials{}, refuse(codeInvalidRequest, "client_id is not that of the assertion")
	}
	return credentials{id: claims.Subject, assertion: form["client_assertion"]}, nil
}

// checkAssertion is errAssertion unless one of the client's keys signed it, for us, not long ago, and it
// was never used before (RFC 7523 section 3).
func (p *Provider) checkAssertion(ctx context.Context, c identitydb.OauthClient, text string) error {
	if c.Keys == "" {
		return errAssertion
	}
	keys, err := jwks.Parse([]byte(c.Keys))
	if err != nil {
		return fmt.Errorf("keys of client %s: %w", c.ID, err)
	}
	var claims jwt.RegisteredClaims
	_, err = jwt.ParseWithClaims(text, &claims, func(t *jwt.Token) (any, error) {
		kid, _ := t.Header["kid"].(string)
		if kid == "" && len(keys) == 1 {
			for _, only := range keys {
				return only, nil
			}
		}
		key, ok := keys[kid]
		if !ok {
			return nil, errAssertion
		}
		return key, nil
	}, jwt.WithValidMethods(assertionMethods()), jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithLeeway(assertionLeeway),
		jwt.WithIssuer(c.ID), jwt.WithSubject(c.ID))
	now := time.Now()
	if err != nil || claims.ID == "" || len(claims.ID) > maxAssertionID || claims.ExpiresAt.After(now.Add(maxAssertionLife)) ||
		!slices.ContainsFunc(claims.Audience, p.isUs) {
		return errAssertion
	}
	n, err := p.db.OAuthUseAssertion(ctx, identitydb.OAuthUseAssertionParams{Hash: hashed(c.ID + " " + claims.ID),
		ExpiresAt: claims.ExpiresAt.Add(2 * assertionLeeway)})
	if err != nil {
		return fmt.Errorf("remember assertion: %w", err)
	}
	if n == 0 {
		return errAssertion
	}
	return nil
}

// isUs says whether an audience is this server: its issuer, or an endpoint where clients prove themselves.
func (p *Provider) isUs(audience string) bool {
	return slices.Contains([]string{p.cfg.Issuer, p.cfg.Issuer + "/oauth2/token", p.cfg.Issuer + "/oauth2/introspect",
		p.cfg.Issuer + "/oauth2/revoke", p.cfg.Issuer + "/oauth2/device_authorization", p.cfg.Issuer + pushPath}, audience)
}
