package oauth

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
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
)

// answer is the successful answer of the token endpoint (RFC 6749 section 5.1, OpenID
// Connect Core section 3.1.3.3).
type answer struct {
	AccessToken  string `json:"access_token"`
	TokenType    string `json:"token_type"`
	ExpiresIn    int64  `json:"expires_in"` // seconds
	RefreshToken string `json:"refresh_token,omitzero"`
	Scope        string `json:"scope"`
	IDToken      string `json:"id_token,omitzero"`
}

// token is POST /oauth2/token.
func (p *Provider) token(w http.ResponseWriter, r *http.Request) error {
	form, err := readForm(w, r)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), queryTime)
	defer cancel()
	grant := form["grant_type"]
	if grant == "" {
		return refuse(codeInvalidRequest, "grant_type is required")
	}
	c, err := p.authenticate(r.WithContext(ctx), form)
	if err != nil {
		return err
	}
	key, err := p.proven(r.WithContext(ctx), c, "/oauth2/token")
	if err != nil {
		return err
	}
	give, known := map[string]func(context.Context, identitydb.OauthClient, params, string) (answer, error){
		grantCode: p.byCode, grantClient: p.byClient, grantRefresh: p.byRefresh, grantDevice: p.byDevice,
	}[grant]
	switch {
	case !known:
		return refuse(codeUnsupportedGrant, "grant_type must be one of %s", strings.Join(grantTypes(), ", "))
	case !allows(c, grant):
		return refuse(codeUnauthorizedClient, "the client is not registered for this grant type")
	}
	a, err := give(ctx, c, form, key)
	if err != nil {
		return err
	}
	p.metrics.granted(grant)
	if c.Registered != byAdmin {
		if err := p.db.OAuthClientUsed(ctx, c.ID); err != nil {
			p.warn(r, err)
		}
	}
	writeJSON(w, http.StatusOK, a)
	return nil
}

// badGrant is a code, device code or refresh token that is not good (any longer).
func badGrant(what string) *protocolError {
	return refuse(codeInvalidGrant, "%s is unknown, used, expired or not this client's", what)
}

// issue makes the access token of a grant. Its user may have gone meanwhile.
func (p *Provider) issue(ctx context.Context, g grants.Grant, family uuid.UUID) (answer, error) {
	return p.issueBy(ctx, p.cfg.Tokens, g, family)
}

func (p *Provider) issueBy(ctx context.Context, tokens *grants.Tokens, g grants.Grant, family uuid.UUID) (answer, error) {
	access, life, err := tokens.Issue(ctx, g, family)
	if errors.Is(err, grants.ErrGone) {
		return answer{}, refuse(codeInvalidGrant, "the user may not be acted for any more")
	}
	if err != nil {
		return answer{}, err
	}
	return answer{AccessToken: access, TokenType: tokenType(g.Key), ExpiresIn: life, Scope: g.Scope}, nil
}

// byClient is the client credentials grant (RFC 6749 section 4.4): the client acts for
// its owner, mostly a service account of its own. There is no refresh token (4.4.3) and
// no row: all such tokens of a client share its family, and end with it.
func (p *Provider) byClient(ctx context.Context, c identitydb.OauthClient, form params, key string) (answer, error) {
	if public(c) {
		return answer{}, refuse(codeUnauthorizedClient, "a public client has no credentials of its own")
	}
	allowed := withoutScopes(c.Scopes, scopeOpenID, scopeProfile, scopeEmail, scopeOffline)
	scopes, err := requestedScopes(form["scope"], allowed)
	if err != nil {
		return answer{}, err
	}
	owner, err := p.person(ctx, c.OwnerID)
	if errors.Is(err, errGone) {
		return answer{}, refuse(codeUnauthorizedClient, "the client's owner is gone or disabled")
	}
	if err != nil {
		return answer{}, err
	}
	if scopes, err = grantedScopes(scopes, owner.Roles); err != nil {
		return answer{}, err
	}
	g := p.grantOf(c, c.OwnerID, strings.Join(scopes, " "), time.Time{})
	g.Key = key
	if g.Resources, err = p.knownResources(form[paramResource]); err != nil {
		return answer{}, err
	}
	return p.issue(ctx, g, c.Family)
}

func withoutScopes(scopes []string, out ...string) []string {
	var kept []string
	for _, s := range scopes {
		if !hasScope(strings.Join(out, " "), s) {
			kept = append(kept, s)
		}
	}
	return kept
}

func (p *Provider) grantOf(c identitydb.OauthClient, user uuid.UUID, scope string, proved time.Time) grants.Grant {
	g := grants.Grant{UserID: user, ClientID: c.ID, Scope: scope, AuthTime: proved}
	if c.OrgID != nil {
		g.OrgID = *c.OrgID
	}
	return g
}

// byCode redeems an authorization code (RFC 6749 section 4.1.3, RFC 7636 section 4.5).
func (p *Provider) byCode(ctx context.Context, c identitydb.OauthClient, form params, key string) (answer, error) {
	code, verifier, redirect := form["code"], form["code_verifier"], form["redirect_uri"]
	switch {
	case code == "":
		return answer{}, refuse(codeInvalidRequest, "code is required")
	case len(verifier) < 43 || len(verifier) > 128 || !unreserved(verifier):
		return answer{}, refuse(codeInvalidRequest, "code_verifier is required: 43 to 128 unreserved characters (RFC 7636)")
	}
	var row identitydb.OauthCode
	var grant grants.Grant
	var family uuid.UUID
	var refresh, resources string
	var replayed *uuid.UUID
	var refused error
	err := pgx.BeginFunc(ctx, p.cfg.Pool, func(tx pgx.Tx) error {
		q := identitydb.New(tx)
		var err error
		row, err = q.OAuthLockCode(ctx, hashed(code))
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			refused = badGrant("the code")
			return nil
		case err != nil:
			return fmt.Errorf("read code: %w", err)
		case row.UsedAt != nil:
			refused, replayed = badGrant("the code"), row.Family
			return nil
		case row.ClientID == c.ID && redirect == "" && row.RedirectUri != "":
			refused = refuse(codeInvalidRequest, "redirect_uri is required, as in the authorization request")
			return nil
		case row.ClientID != c.ID || !sameRedirect(c, row.RedirectUri, redirect) || !verifies(row.Challenge, verifier) ||
			!time.Now().Before(row.ExpiresAt) || row.Jkt != "" && row.Jkt != key:
			// Whoever presents it, it has leaked or is late: nobody gets anything for it.
			refused = badGrant("the code")
			return q.OAuthUseCode(ctx, identitydb.OAuthUseCodeParams{CodeHash: row.CodeHash})
		}
		if grant, err = p.codeGrant(ctx, q, c, row); err != nil {
			return err
		}
		grant.Key, grant.Bound = key, public(c)
		if resources, refused = p.fewerResources(form[paramResource], grant.Resources); refused != nil {
			return nil
		}
		family, refresh, err = p.cfg.Grants.BeginIn(ctx, tx, grant)
		if err != nil {
			return err
		}
		return q.OAuthUseCode(ctx, identitydb.OAuthUseCodeParams{CodeHash: row.CodeHash, Family: &family})
	})
	if replayed != nil {
		err = p.cfg.Grants.RevokeFamily(ctx, *replayed, "authorization code used twice")
	}
	if err == nil {
		err = refused
	}
	if err != nil {
		return answer{}, err
	}
	grant.Resources = resources // of this token; the grant keeps its own
	return p.complete(ctx, c, grant, family, refresh, row.Nonce)
}

func (p *Provider) codeGrant(ctx context.Context, q *identitydb.Queries, c identitydb.OauthClient,
	row identitydb.OauthCode) (g grants.Grant, err error) {
	g = p.grantOf(c, row.UserID, row.Scope, row.AuthTime)
	g.Resources = strings.Join(row.Resources, " ")
	g.OrgID, err = actsFor(ctx, q, c, row.UserID)
	return g, err
}

// actsFor is the organisation that a grant by a user acts for: the client's, else that of the company by
// whose provider the user signs in, so that what they use stands under their team. The console manages
// what is theirs, and acts for nobody else.
func actsFor(ctx context.Context, q *identitydb.Queries, c identitydb.OauthClient, user uuid.UUID) (uuid.UUID, error) {
	switch {
	case c.OrgID != nil:
		return *c.OrgID, nil
	case c.ID == ConsoleClient:
		return uuid.Nil, nil
	}
	org, err := q.ActsForUpstreamOrg(ctx, user)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return uuid.Nil, fmt.Errorf("look for organisation: %w", err)
	}
	return org, nil
}

// sameRedirect says whether a code is redeemed with the redirect URI of its authorization request. A
// client that left it out there may leave it out here, or name the one it is registered with.
func sameRedirect(c identitydb.OauthClient, asked, given string) bool {
	if asked == "" {
		return given == "" || len(c.RedirectUris) == 1 && c.RedirectUris[0] == given
	}
	return asked == given
}

// complete issues what a new family gives: the access token, a refresh token if
// offline_access was granted, an ID token if openid was.
func (p *Provider) complete(ctx context.Context, c identitydb.OauthClient, g grants.Grant, family uuid.UUID, refresh,
	nonce string) (answer, error) {
	a, err := p.issue(ctx, g, family)
	if err != nil {
		return answer{}, err
	}
	if hasScope(g.Scope, scopeOffline) && allows(c, grantRefresh) {
		a.RefreshToken = refresh
	}
	if g.Family = family; hasScope(g.Scope, scopeOpenID) {
		a.IDToken, err = p.idToken(ctx, c, g, a.AccessToken, nonce)
	}
	return a, err
}

// byRefresh rotates a refresh token (RFC 6749 section 6, RFC 9700 section 4.14). The
// next one keeps the whole scope, also when this access token has less.
func (p *Provider) byRefresh(ctx context.Context, c identitydb.OauthClient, form params, key string) (answer, error) {
	given := form["refresh_token"]
	if given == "" {
		return answer{}, refuse(codeInvalidRequest, "refresh_token is required")
	}
	// Before the token is used up: a refused scope must not cost it.
	if form["scope"] != "" {
		row, err := p.db.OAuthRefreshToken(ctx, hashed(given))
		if errors.Is(err, pgx.ErrNoRows) || err == nil && row.ClientID != c.ID {
			return answer{}, badGrant("the refresh token")
		}
		if err != nil {
			return answer{}, fmt.Errorf("read refresh token: %w", err)
		}
		if _, err := narrowed(form["scope"], row.Scope); err != nil {
			return answer{}, err
		}
	}
	text, err := p.cfg.Grants.Rotate(ctx, given, c.ID, func(ctx context.Context, tx pgx.Tx, g grants.Grant, next string) ([]byte, error) {
		var err error
		if g.Resources, err = p.fewerResources(form[paramResource], g.Resources); err != nil {
			return nil, err
		}
		if g.Key != "" && g.Key != key {
			return nil, badGrant("the refresh token") // it is bound to another key, or to one that is not proved
		}
		g.Key = key
		return p.refreshed(ctx, tx, c, g, next, form["scope"])
	})
	if errors.Is(err, grants.ErrUnknown) || errors.Is(err, grants.ErrReused) || errors.Is(err, grants.ErrExpired) ||
		errors.Is(err, grants.ErrGone) {
		return answer{}, badGrant("the refresh token")
	}
	if err != nil {
		return answer{}, err
	}
	var a answer
	if err := json.Unmarshal(text, &a); err != nil {
		return answer{}, fmt.Errorf("read answer: %w", err)
	}
	return a, nil
}

// refreshed makes the answer with the next refresh token.
func (p *Provider) refreshed(ctx context.Context, tx pgx.Tx, c identitydb.OauthClient, g grants.Grant, next, scope string) ([]byte, error) {
	// What the client may not have any more it does not get again; the grant keeps it.
	left := strings.Join(slices.DeleteFunc(strings.Fields(g.Scope), func(s string) bool { return !slices.Contains(c.Scopes, s) }), " ")
	if left == "" {
		return nil, badGrant("the refresh token")
	}
	var err error
	if g.Scope, err = narrowed(scope, left); err != nil {
		return nil, err
	}
	a, err := p.issueBy(ctx, p.cfg.Tokens.In(tx), g, g.Family)
	if err != nil {
		return nil, err
	}
	a.RefreshToken = next
	if hasScope(g.Scope, scopeOpenID) {
		if a.IDToken, err = p.idToken(ctx, c, g, a.AccessToken, ""); err != nil {
			return nil, err
		}
	}
	text, err := json.Marshal(a)
	if err != nil {
		return nil, fmt.Errorf("encode answer: %w", err)
	}
	return text, nil
}

// idClaims are those of an ID token (OpenID Connect Core section 2).
type idClaims struct {
	jwt.RegisteredClaims
	Nonce    string `json:"nonce,omitzero"`
	Session  string `json:"sid"` // the grant, by which a client signs out of it
	AuthTime int64  `json:"auth_time"`
	AtHash   string `json:"at_hash"`
	// Only for clients that are to have them here and not at userinfo alone, by the scopes profile and email.
	Name     string `json:"name,omitzero"`
	Username string `json:"preferred_username,omitzero"`
	Email    string `json:"email,omitzero"`
	Verified *bool  `json:"email_verified,omitzero"`
}

// idToken says who signed in, for the client alone. Its aud is the client and its typ
// is not at+jwt, so that nobody takes it for an access token.
func (p *Provider) idToken(ctx context.Context, c identitydb.OauthClient, g grants.Grant, access, nonce string) (string, error) {
	sum, now := sha256.Sum256([]byte(access)), time.Now()
	claims := idClaims{Nonce: nonce, Session: g.Family.String(), AuthTime: g.AuthTime.Unix(),
		AtHash: base64.RawURLEncoding.EncodeToString(sum[:len(sum)/2]), // OpenID Connect Core section 3.1.3.6
		RegisteredClaims: jwt.RegisteredClaims{Issuer: p.cfg.Issuer, Subject: g.UserID.String(), Audience: jwt.ClaimStrings{c.ID},
			IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.Add(p.cfg.Tokens.TTL))}}
	if c.IDTokenClaims {
		who, err := p.person(ctx, g.UserID)
		if errors.Is(err, errGone) {
			return "", badGrant("the grant")
		}
		if err != nil {
			return "", err
		}
		if hasScope(g.Scope, scopeProfile) {
			claims.Name, claims.Username = who.Username, who.Username
		}
		if hasScope(g.Scope, scopeEmail) {
			claims.Email, claims.Verified = who.Email, new(bool) // nobody has proved that the mailbox is theirs
		}
	}
	return p.cfg.Keys.Sign(keyring.TypeID, claims)
}
