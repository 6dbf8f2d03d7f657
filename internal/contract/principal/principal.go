// Package principal is the signed internal identity: extauthz mints it for each
// caller, Envoy forwards it, services verify it and trust nothing else. It is a JWT
// signed with EdDSA (RFC 8037), valid for 60 s, for one audience.
package principal

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
)

// Lifetime is how long a minted identity is valid.
const Lifetime = 60 * time.Second

// Issuer is the iss of minted identities.
const Issuer = "leaky-tokens-extauthz"

// Roles that the product itself knows.
const (
	RoleUser  = "USER"
	RoleAdmin = "ADMIN"
)

// Principal is who calls.
type Principal struct {
	UserID string   // lower-case UUID
	OrgID  string   // organisation they act for, or empty
	Team   string   // their team within it, or empty
	KeyID  string   // API key that was used, or empty
	Client string   // OAuth2 client that acts for them, or empty
	Scope  string   // of an OAuth2 token, space-separated; empty: whatever their roles allow
	Roles  []string // sorted
	Tier   string
}

// Is reports whether the caller has the role.
func (p Principal) Is(role string) bool { return slices.Contains(p.Roles, role) }

type claims struct {
	jwt.RegisteredClaims
	OrgID  string   `json:"org,omitzero"`
	Team   string   `json:"team,omitzero"`
	KeyID  string   `json:"key,omitzero"`
	Client string   `json:"client_id,omitzero"`
	Scope  string   `json:"scope,omitzero"`
	Roles  []string `json:"roles"`
	Tier   string   `json:"tier"`
}

// Signer mints identities.
type Signer struct {
	key ed25519.PrivateKey
	kid string
}

// NewSigner signs with key; its id is derived from the public part.
func NewSigner(key ed25519.PrivateKey) *Signer {
	return &Signer{key: key, kid: KeyID(key.Public().(ed25519.PublicKey))}
}

// KeyID is the kid of a public key: the first 16 bytes of its SHA-256, base64url.
func KeyID(pub ed25519.PublicKey) string {
	sum := sha256.Sum256(pub)
	return base64.RawURLEncoding.EncodeToString(sum[:16])
}

// Mint signs who calls for one audience, the service's name.
func (s *Signer) Mint(p Principal, audience string, now time.Time) (string, error) {
	t := jwt.NewWithClaims(jwt.SigningMethodEdDSA, claims{
		RegisteredClaims: jwt.RegisteredClaims{Issuer: Issuer, Subject: p.UserID, Audience: jwt.ClaimStrings{audience},
			IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.Add(Lifetime))},
		OrgID: p.OrgID, Team: p.Team, KeyID: p.KeyID, Client: p.Client, Scope: p.Scope, Roles: p.Roles, Tier: p.Tier,
	})
	t.Header["kid"] = s.kid
	signed, err := t.SignedString(s.key)
	if err != nil {
		return "", fmt.Errorf("mint identity: %w", err)
	}
	return signed, nil
}

// JWKS is the public key set (RFC 7517) that verifiers fetch.
func (s *Signer) JWKS() []byte {
	pub := s.key.Public().(ed25519.PublicKey)
	set, _ := json.Marshal(map[string]any{"keys": []map[string]string{{"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA",
		"kid": s.kid, "x": base64.RawURLEncoding.EncodeToString(pub)}}})
	return set
}

// Verifier checks identities for one audience.
type Verifier struct {
	audience string
	keys     jwt.Keyfunc
	parser   *jwt.Parser
}

// NewVerifier checks identities minted for audience against keys, which finds the
// public key by kid (keyfunc over the JWKS of extauthz).
func NewVerifier(audience string, keys jwt.Keyfunc) *Verifier {
	return &Verifier{audience: audience, keys: keys, parser: jwt.NewParser(jwt.WithValidMethods([]string{"EdDSA"}),
		jwt.WithIssuer(Issuer), jwt.WithAudience(audience), jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithLeeway(5*time.Second))}
}

// ErrNoIdentity says a request carries no valid signed identity.
var ErrNoIdentity = errors.New("no valid signed identity")

// Verify checks one identity.
func (v *Verifier) Verify(token string) (Principal, error) {
	if token == "" || len(token) > 4096 {
		return Principal{}, ErrNoIdentity
	}
	var c claims
	if _, err := v.parser.ParseWithClaims(token, &c, v.keys); err != nil {
		return Principal{}, fmt.Errorf("%w: %w", ErrNoIdentity, err)
	}
	if c.Subject == "" {
		return Principal{}, fmt.Errorf("%w: no subject", ErrNoIdentity)
	}
	return Principal{UserID: c.Subject, OrgID: c.OrgID, Team: c.Team, KeyID: c.KeyID, Client: c.Client, Scope: c.Scope, Roles: c.Roles,
		Tier: c.Tier}, nil
}

// Authenticate checks the identity that a request carries. None, more than one or an
// invalid one is ErrNoIdentity; the reason is wrapped with it, for instance that the
// keys could not be fetched.
func (v *Verifier) Authenticate(r *http.Request) (Principal, error) {
	values := r.Header.Values(attributes.HeaderIdentity)
	if len(values) != 1 {
		return Principal{}, ErrNoIdentity
	}
	return v.Verify(values[0])
}

type contextKey struct{}

// From is the caller that Middleware put into the context.
func From(ctx context.Context) (Principal, bool) {
	p, ok := ctx.Value(contextKey{}).(Principal)
	return p, ok
}

// With puts a caller into the context.
func With(ctx context.Context, p Principal) context.Context {
	return context.WithValue(ctx, contextKey{}, p)
}

// Middleware lets only callers with a valid signed identity through; refuse writes the 401.
func (v *Verifier) Middleware(refuse func(http.ResponseWriter, *http.Request), next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p, err := v.Authenticate(r)
		if err != nil {
			refuse(w, r)
			return
		}
		next.ServeHTTP(w, r.WithContext(With(r.Context(), p)))
	})
}
