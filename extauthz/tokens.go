package extauthz

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/revocation"
	"github.com/leaky-tokens/leaky-tokens/internal/jwks"
)

var (
	// errInvalid: a credential is not (or no longer) good.
	errInvalid = errors.New("invalid credential")
	// errExpired: it was good once.
	errExpired = fmt.Errorf("%w: it has expired", errInvalid)
	// errUnreachable: identity, which would know, does not answer.
	errUnreachable = errors.New("identity does not answer")
	// errUnknown: nothing is remembered that would decide.
	errUnknown = errors.New("not remembered")
)

const (
	// maxToken is the longest JWT that is looked at, in bytes.
	maxToken = 8 << 10
	// skew is how far clocks may be apart.
	skew = 30 * time.Second
	// tokenTTL is how long a verified token is not verified again.
	tokenTTL = 30 * time.Second
)

// tokens checks access tokens of identity: RFC 9068, by the rules of RFC 8725.
type tokens struct {
	tiers     config.Tiers
	keys      *jwks.Keys
	issuer    string // of our own logins
	public    string // of what OAuth2 clients get; may be empty
	validator *jwt.Validator
	audience  string // of what no other resource was named for
	denied    *denylist
	fresh     *freshness
	cache     tokenCache
}

func newValidator() *jwt.Validator {
	return jwt.NewValidator(jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithLeeway(skew))
}

// recall answers from memory; errUnknown for a token that has to be verified.
func (t *tokens) recall(token string, now time.Time) (*caller, error) {
	if len(token) > maxToken {
		return nil, fmt.Errorf("%w: longer than %d bytes", errInvalid, maxToken)
	}
	found := t.cache.get(token)
	if found == nil || !now.Before(found.until) {
		return nil, errUnknown
	}
	return t.stands(found, now)
}

// check gives the caller of a token; errInvalid or errUnreachable otherwise.
func (t *tokens) check(ctx context.Context, token string, now time.Time) (*caller, error) {
	found, err := t.recall(token, now)
	if !errors.Is(err, errUnknown) {
		return found, err
	}
	if found, err = t.verify(ctx, token, now); err != nil {
		return nil, err
	}
	t.cache.add(token, found)
	return t.stands(found, now)
}

// stands compares a verified token with what was revoked. Unlike a key's, its state
// cannot be asked for: when revocations may have been missed, nobody knows.
func (t *tokens) stands(found *caller, now time.Time) (*caller, error) {
	switch {
	case t.denied.judge(found) != good:
		return nil, fmt.Errorf("%w: revoked", errInvalid)
	case t.fresh.at(now) == stale:
		return nil, fmt.Errorf("%w: revocations are not known", errUnreachable)
	}
	return found, nil
}

// verify checks the signature before anything of the claims is read.
func (t *tokens) verify(ctx context.Context, token string, now time.Time) (*caller, error) {
	header, signed, signature, err := splitToken(token)
	if err != nil {
		return nil, err
	}
	key, err := t.keys.Key(ctx, header.kid)
	if errors.Is(err, jwks.ErrUnavailable) {
		return nil, fmt.Errorf("%w: %w", errUnreachable, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errInvalid, err)
	}
	// The method is one of two, and each takes keys of one type only: a public RSA key
	// is nobody's secret, and no key serves two algorithms (RFC 8725, 3.1).
	if err := jwt.GetSigningMethod(header.alg).Verify(signed, signature, key); err != nil {
		return nil, fmt.Errorf("%w: %w", errInvalid, err)
	}
	_, payload, _ := strings.Cut(signed, ".")
	text, err := base64.RawURLEncoding.Strict().DecodeString(payload)
	if err != nil {
		return nil, fmt.Errorf("%w: claims are not base64url", errInvalid)
	}
	claims, err := parseClaims(text)
	if err != nil {
		return nil, err
	}
	if err := t.validator.Validate(claims); errors.Is(err, jwt.ErrTokenExpired) {
		return nil, errExpired
	} else if err != nil {
		return nil, fmt.Errorf("%w: %w", errInvalid, err)
	}
	if !slices.ContainsFunc(claims.Audience, t.meant) {
		return nil, fmt.Errorf("%w: for another resource", errInvalid)
	}
	if claims.Issuer != t.issuer && (t.public == "" || claims.Issuer != t.public) {
		return nil, fmt.Errorf("%w: another issuer", errInvalid)
	}
	if err := claims.check(); err != nil {
		return nil, err
	}
	found := t.caller(claims, now)
	found.names.signer = nameOf(revocation.Signer, header.kid)
	return found, nil
}

// meant says whether a token with an audience may be used here: one for the gateway, or for a path of it,
// which OAuth2 clients may name (RFC 8707).
func (t *tokens) meant(audience string) bool {
	return audience == t.audience || config.AtGateway(t.public, audience)
}

// caller is who a token stands for. An OAuth2 client that was not granted the scope
// admin is no ADMIN, whoever let it act for them.
func (t *tokens) caller(c *accessClaims, now time.Time) *caller {
	until := now.Add(tokenTTL)
	if end := c.ExpiresAt.Add(skew); end.Before(until) {
		until = end
	}
	who := principal.Principal{UserID: c.Subject, OrgID: c.Org, Team: c.Team, Client: c.Client, Roles: c.Roles}
	oauth := c.scoped || c.Client != "" && c.Client != firstParty || c.Issuer != t.issuer
	if oauth {
		who.Scope = strings.Join(strings.Fields(c.Scope), " ")
		if who.Scope == "" {
			who.Scope = attributes.ScopeNone // no scope at all must not read as no bounds at all
		}
		if !granted(who.Scope, attributes.ScopeAdmin) {
			who.Roles = slices.DeleteFunc(who.Roles, func(role string) bool { return role == principal.RoleAdmin })
		}
	} else {
		who.Client = ""
	}
	slices.Sort(who.Roles)
	who.Tier = principal.TierOf(who.Roles, t.tiers)
	found := &caller{who: who, oauth: oauth, asked: now, until: until, key: c.Bound.JKT,
		names: names{user: nameOf(revocation.User, c.Subject), ver: c.Version}}
	if c.IssuedAt != nil {
		found.names.issued = c.IssuedAt.Time
	}
	if c.ID != "" {
		found.names.token = nameOf(revocation.Token, c.ID)
	}
	if c.Session != "" {
		found.names.family = nameOf(revocation.Family, c.Session)
	}
	return found
}
