package grants

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/leaky-tokens/leaky-tokens/identity/identitydb"
	"github.com/leaky-tokens/leaky-tokens/identity/keyring"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
)

// Claims are those of an access token (RFC 9068, 2.2, and our own).
type Claims struct {
	jwt.RegisteredClaims
	ClientID   string        `json:"client_id"`
	Scope      string        `json:"scope,omitzero"` // absent: whatever the roles allow
	Roles      []string      `json:"roles"`
	Generation int64         `json:"ver"`           // the user's, when it was issued
	Family     string        `json:"sid,omitzero"`  // the login or grant it came from
	OrgID      string        `json:"org,omitzero"`  // organisation it acts for
	Team       string        `json:"team,omitzero"` // within that organisation
	AuthTime   int64         `json:"auth_time,omitzero"`
	Bound      *Confirmation `json:"cnf,omitempty"`
}

// Confirmation names the key without which a token is no good (RFC 7800; RFC 9449 section 6.1).
type Confirmation struct {
	JKT string `json:"jkt"`
}

// Key is the thumbprint of the key that the token is bound to, empty without one.
func (c Claims) Key() string {
	if c.Bound == nil {
		return ""
	}
	return c.Bound.JKT
}

// Signer signs tokens; *keyring.Ring does.
type Signer interface {
	Sign(typ string, claims jwt.Claims) (string, error)
}

// Tokens issues access tokens.
type Tokens struct {
	DB       identitydb.DBTX
	Signer   Signer
	Issuer   string
	Audience string
	TTL      time.Duration
}

// In issues by what a transaction sees.
func (t *Tokens) In(tx identitydb.DBTX) *Tokens {
	inside := *t
	inside.DB = tx
	return &inside
}

// Issue signs an access token for a grant, with what the user is now. family is the one
// it came from, the zero UUID for none. expiresIn is in seconds. ErrGone when they are
// gone, disabled or no member of the grant's organisation.
func (t *Tokens) Issue(ctx context.Context, g Grant, family uuid.UUID) (token string, expiresIn int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, queryTime)
	defer cancel()
	q := identitydb.New(t.DB)
	user, err := q.Holder(ctx, g.UserID)
	if errors.Is(err, pgx.ErrNoRows) || err == nil && user.Disabled {
		return "", 0, ErrGone
	}
	if err != nil {
		return "", 0, fmt.Errorf("read token holder: %w", err)
	}
	now := time.Now()
	audience := jwt.ClaimStrings{t.Audience}
	if g.Resources != "" {
		audience = strings.Fields(g.Resources) // RFC 8707, 2
	}
	claims := Claims{ClientID: g.ClientID, Scope: g.Scope, Roles: Allowed(user.Roles, g.Scope), Generation: user.Generation,
		RegisteredClaims: jwt.RegisteredClaims{Issuer: t.Issuer, Audience: audience, Subject: g.UserID.String(),
			ID:       uuid.NewString(),
			IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.Add(t.TTL))}}
	if family != uuid.Nil {
		claims.Family = family.String()
	}
	if g.Key != "" {
		claims.Bound = &Confirmation{JKT: g.Key}
	}
	if !g.AuthTime.IsZero() {
		claims.AuthTime = g.AuthTime.Unix()
	}
	if g.OrgID != uuid.Nil {
		member, err := q.Membership(ctx, identitydb.MembershipParams{OrgID: g.OrgID, UserID: g.UserID})
		if errors.Is(err, pgx.ErrNoRows) {
			return "", 0, ErrGone
		}
		if err != nil {
			return "", 0, fmt.Errorf("read membership: %w", err)
		}
		claims.OrgID, claims.Team = g.OrgID.String(), member.Team
	}
	token, err = t.Signer.Sign(keyring.TypeAccess, claims)
	return token, int64(t.TTL / time.Second), err
}

// Allowed are the roles that a token with the scope carries: an OAuth2 token without the
// scope admin has no role ADMIN, whoever owns it.
func Allowed(roles []string, scope string) []string {
	if scope == "" || slices.Contains(strings.Fields(scope), attributes.ScopeAdmin) {
		return roles
	}
	return slices.DeleteFunc(slices.Clone(roles), func(r string) bool { return r == principal.RoleAdmin })
}
