package oauth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/leaky-tokens/leaky-tokens/identity/grants"
	"github.com/leaky-tokens/leaky-tokens/identity/identitydb"
	"github.com/leaky-tokens/leaky-tokens/identity/keyring"
	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/dpop"
)

// errDead says that a token is not good (any longer), whatever the reason.
var errDead = errors.New("the token is not valid")

// read checks an access token by itself: signature, type, issuer, times. Where it may be used is for the
// one who is shown it to say.
func (p *Provider) read(access string) (grants.Claims, error) {
	var claims grants.Claims
	token, err := jwt.ParseWithClaims(access, &claims, p.cfg.Keys.Keyfunc, jwt.WithValidMethods([]string{"RS256"}),
		jwt.WithExpirationRequired(), jwt.WithIssuedAt())
	switch {
	case errors.Is(err, keyring.ErrNoKey):
		return claims, err
	case err != nil:
		return claims, errDead
	}
	if typ, _ := token.Header["typ"].(string); typ != keyring.TypeAccess || claims.Issuer != p.cfg.Issuer && claims.Issuer != p.cfg.Login {
		return claims, errDead
	}
	return claims, nil
}

// live checks an access token against the database too, and gives its user. Errors
// other than errDead say nothing about the token.
func (p *Provider) live(ctx context.Context, access string) (grants.Claims, identitydb.OAuthPersonRow, error) {
	claims, err := p.read(access)
	if err != nil {
		return claims, identitydb.OAuthPersonRow{}, err
	}
	id, err := uuid.Parse(claims.Subject)
	if err != nil {
		return claims, identitydb.OAuthPersonRow{}, errDead
	}
	who, err := p.person(ctx, id)
	if errors.Is(err, errGone) || err == nil && claims.Generation < who.Generation {
		return claims, who, errDead
	}
	if err != nil {
		return claims, who, err
	}
	revoked, err := p.db.OAuthRevoked(ctx, identitydb.OAuthRevokedParams{Jti: claims.ID, Sid: claims.Family})
	if err != nil {
		return claims, who, fmt.Errorf("look for revocations: %w", err)
	}
	if revoked {
		return claims, who, errDead
	}
	return claims, who, nil
}

// description is what introspection tells of a token (RFC 7662 section 2.2).
type description struct {
	Active    bool                 `json:"active"`
	Scope     string               `json:"scope,omitzero"`
	ClientID  string               `json:"client_id,omitzero"`
	Username  string               `json:"username,omitzero"`
	TokenType string               `json:"token_type,omitzero"`
	Expires   int64                `json:"exp,omitzero"`
	Issued    int64                `json:"iat,omitzero"`
	NotBefore int64                `json:"nbf,omitzero"`
	Subject   string               `json:"sub,omitzero"`
	Audience  []string             `json:"aud,omitzero"`
	Issuer    string               `json:"iss,omitzero"`
	ID        string               `json:"jti,omitzero"`
	OrgID     string               `json:"org,omitzero"`
	Roles     []string             `json:"roles,omitzero"`
	Bound     *grants.Confirmation `json:"cnf,omitempty"`
}

// introspect is POST /oauth2/introspect (RFC 7662) for confidential clients. A client
// sees its own tokens, a resource server everybody's; of all others it hears the same
// active:false as of nonsense (section 4).
func (p *Provider) introspect(w http.ResponseWriter, r *http.Request) error {
	c, form, err := p.tokenRequest(w, r)
	if err != nil {
		return err
	}
	if public(c) {
		return badClient()
	}
	d, err := p.describe(r.Context(), form["token"])
	if err != nil {
		return err
	}
	if d.ClientID != c.ID && !c.ResourceServer {
		d = description{}
	}
	writeJSON(w, http.StatusOK, d)
	return nil
}

// tokenRequest reads what introspection and revocation have in common. The
// token_type_hint is not needed: the two kinds of tokens look different.
func (p *Provider) tokenRequest(w http.ResponseWriter, r *http.Request) (identitydb.OauthClient, params, error) {
	form, err := readForm(w, r)
	if err != nil {
		return identitydb.OauthClient{}, nil, err
	}
	c, err := p.authenticate(r, form)
	if err != nil {
		return c, nil, err
	}
	if form["token"] == "" {
		return c, nil, refuse(codeInvalidRequest, "token is required")
	}
	return c, form, nil
}

func (p *Provider) describe(ctx context.Context, text string) (description, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTime)
	defer cancel()
	if grants.Looks(text) {
		return p.describeRefresh(ctx, text)
	}
	claims, who, err := p.live(ctx, text)
	if errors.Is(err, errDead) {
		return description{}, nil
	}
	if err != nil {
		return description{}, err
	}
	return description{Active: true, Scope: claims.Scope, ClientID: claims.ClientID, Username: who.Username,
		TokenType: tokenType(claims.Key()), Bound: claims.Bound,
		Expires: unix(claims.ExpiresAt), Issued: unix(claims.IssuedAt), NotBefore: unix(claims.NotBefore), Subject: claims.Subject,
		Audience: claims.Audience, Issuer: claims.Issuer, ID: claims.ID, OrgID: claims.OrgID, Roles: claims.Roles}, nil
}

func unix(d *jwt.NumericDate) int64 {
	if d == nil {
		return 0
	}
	return d.Unix()
}

func (p *Provider) describeRefresh(ctx context.Context, text string) (description, error) {
	row, err := p.db.OAuthRefreshToken(ctx, hashed(text))
	if errors.Is(err, pgx.ErrNoRows) {
		return description{}, nil
	}
	if err != nil {
		return description{}, fmt.Errorf("read refresh token: %w", err)
	}
	who, err := p.person(ctx, row.UserID)
	now := time.Now()
	switch {
	case errors.Is(err, errGone):
		return description{}, nil
	case err != nil:
		return description{}, err
	case row.UsedAt != nil || row.RevokedAt != nil || !now.Before(row.EndsAt) || !now.Before(row.ExpiresAt):
		return description{}, nil
	}
	d := description{Active: true, Scope: row.Scope, ClientID: row.ClientID, Username: who.Username, Expires: row.EndsAt.Unix(),
		Issued: row.IssuedAt.Unix(), Subject: row.UserID.String(), Issuer: p.cfg.Issuer}
	if row.OrgID != nil {
		d.OrgID = row.OrgID.String()
	}
	return d, nil
}

// revoke is POST /oauth2/revoke (RFC 7009): a refresh token, or an access token of a
// user's grant, ends the whole grant; an access token by client credentials ends
// alone. The answer is 200 also for what is unknown or another client's.
func (p *Provider) revoke(w http.ResponseWriter, r *http.Request) error {
	c, form, err := p.tokenRequest(w, r)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), queryTime)
	defer cancel()
	if text := form["token"]; grants.Looks(text) {
		err = p.cfg.Grants.RevokeByToken(ctx, text, c.ID)
	} else {
		err = p.revokeAccess(ctx, c, text)
	}
	if err != nil && !errors.Is(err, grants.ErrUnknown) && !errors.Is(err, errDead) {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

func (p *Provider) revokeAccess(ctx context.Context, c identitydb.OauthClient, text string) error {
	claims, err := p.read(text)
	if err != nil {
		return err
	}
	if claims.ClientID != c.ID {
		return errDead
	}
	family, err := uuid.Parse(claims.Family)
	if err != nil || family == c.Family || claims.AuthTime == 0 {
		return p.revokeOne(ctx, c, claims)
	}
	return p.cfg.Grants.RevokeFamily(ctx, family, "revoked by the client")
}

// userinfo is GET and POST /oauth2/userinfo (OpenID Connect Core section 5.3): who the
// access token speaks of, by its scopes. Its errors are those of RFC 6750.
func (p *Provider) userinfo(w http.ResponseWriter, r *http.Request) error {
	text, bound, err := p.bearer(r)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), queryTime)
	defer cancel()
	claims, who, err := p.live(ctx, text)
	if err == nil && !p.forUs(claims.Audience) {
		err = errDead // a resource server that was shown it must not act with it here
	}
	if err == nil && (bound || claims.Key() != "") {
		err = p.holds(r.WithContext(ctx), claims, text, bound)
	}
	if errors.Is(err, errDead) {
		return &protocolError{status: http.StatusUnauthorized, code: codeInvalidToken, description: "the access token is not valid",
			challenge: `Bearer realm="leaky-tokens", error="invalid_token", ` + p.resourceMetadata()}
	}
	if err != nil {
		return err
	}
	if !hasScope(claims.Scope, scopeOpenID) {
		return &protocolError{status: http.StatusForbidden, code: codeInsufficientScope, description: "the access token lacks the scope openid",
			challenge: `Bearer realm="leaky-tokens", error="insufficient_scope", scope="openid", ` + p.resourceMetadata()}
	}
	info := map[string]any{"sub": claims.Subject}
	if hasScope(claims.Scope, scopeProfile) {
		info["preferred_username"], info["name"] = who.Username, who.Username
	}
	if hasScope(claims.Scope, scopeEmail) {
		info["email"], info["email_verified"] = who.Email, false // nobody has proved that the mailbox is theirs
	}
	writeJSON(w, http.StatusOK, info)
	return nil
}

// bearer is the token of the Authorization header, the one way that RFC 9700 leaves.
// With the scheme DPoP it is bound to a key (RFC 9449 section 7.1).
func (p *Provider) bearer(r *http.Request) (token string, bound bool, err error) {
	none := &protocolError{status: http.StatusUnauthorized, code: codeInvalidToken, description: "an access token is required",
		challenge: `Bearer realm="leaky-tokens", ` + p.resourceMetadata()}
	headers := r.Header.Values("Authorization")
	if len(headers) > 1 {
		return "", false, refuse(codeInvalidRequest, "more than one Authorization header")
	}
	if len(headers) == 0 {
		return "", false, none
	}
	scheme, text, ok := strings.Cut(headers[0], " ")
	if bound = strings.EqualFold(scheme, dpop.Scheme); !ok || !bound && !strings.EqualFold(scheme, "Bearer") {
		return "", false, none
	}
	return strings.TrimSpace(text), bound, nil
}

// resourceMetadata is the parameter of a challenge by which a client finds the way to a token (RFC 9728
// section 5.1).
func (p *Provider) resourceMetadata() string {
	return `resource_metadata="` + p.cfg.Issuer + config.ResourceMetadata + `"`
}

// forUs says whether a token may be used here.
func (p *Provider) forUs(audience []string) bool {
	return slices.ContainsFunc(audience, func(a string) bool { return a == p.cfg.Tokens.Audience || p.ours(a) })
}
