package oauth

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/leaky-tokens/leaky-tokens/identity/audit"
	"github.com/leaky-tokens/leaky-tokens/identity/identitydb"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/revocation"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
	"github.com/leaky-tokens/leaky-tokens/internal/jwks"
)

const (
	maxClientName = 100 // characters
	maxRedirects  = 20
)

// registration is what an administrator states of a new client.
type registration struct {
	Name           string   `json:"name"`
	Public         bool     `json:"public"`         // has no secret: an app on somebody's machine or in a browser
	RedirectURIs   []string `json:"redirectUris"`   // for authorization_code
	GrantTypes     []string `json:"grantTypes"`     //
	Scopes         []string `json:"scopes"`         // the most it may ask for
	OwnerID        string   `json:"ownerId"`        // whom client_credentials acts for; empty: an account of its own
	OrgID          string   `json:"orgId"`          // acts for this organisation, and so for its members alone
	ResourceServer bool     `json:"resourceServer"` // may introspect every token
	// JWKS are the public keys by which it proves who it is (private_key_jwt); it has no secret then.
	JWKS          json.RawMessage `json:"jwks,omitempty"`
	IDTokenClaims bool            `json:"idTokenClaims"` // name and e-mail stand in its ID tokens too, by its scopes
	// Where people may go who have signed out there, and where it hears that a grant of theirs has ended.
	LogoutRedirectURIs []string `json:"postLogoutRedirectUris"`
	LogoutURI          string   `json:"backchannelLogoutUri"`
	DPoP               bool     `json:"dpopBoundAccessTokens"` // its tokens are bound to a key (RFC 9449)

	schemes []string // without a dot that redirect URIs may have
	told    bool     // whether clients are told of grants that end
}

// keys is the key set as it is kept, empty without one.
func (n *registration) keys() string {
	if len(n.JWKS) == 0 || string(n.JWKS) == "null" {
		return ""
	}
	return string(n.JWKS)
}

// check finds every mistake of a registration.
func (n *registration) check() error {
	var bad []httpapi.FieldError
	fail := func(field, format string, args ...any) {
		bad = append(bad, httpapi.FieldError{Field: field, Message: field + " " + fmt.Sprintf(format, args...)})
	}
	n.Name = strings.TrimSpace(n.Name)
	if n.Name == "" || utf8.RuneCountInString(n.Name) > maxClientName || !plain(n.Name) {
		fail("name", "must be 1 to %d characters without control characters", maxClientName)
	}
	n.checkGrants(fail)
	n.checkScopes(fail)
	n.checkRedirects(fail)
	if n.Public && n.ResourceServer {
		fail("resourceServer", "needs a client with a secret or keys")
	}
	n.checkKeys(fail)
	n.checkLogout(fail)
	if len(bad) == 0 {
		return nil
	}
	messages := make([]string, len(bad))
	for i, f := range bad {
		messages[i] = f.Message
	}
	return &httpapi.Error{Status: http.StatusBadRequest, Message: strings.Join(messages, "; "), Fields: bad}
}

const maxKeys = 16 << 10 // bytes of a key set

func (n *registration) checkKeys(fail func(string, string, ...any)) {
	text := n.keys()
	if text == "" {
		return
	}
	if _, err := jwks.Parse([]byte(text)); err != nil || len(text) > maxKeys || strings.Contains(text, `"d"`) {
		fail("jwks", "must be a set of public RSA, P-256 or Ed25519 keys with kid, of at most %d bytes", maxKeys)
	}
	if n.Public {
		fail("jwks", "is for a client that is not public")
	}
}

func (n *registration) checkGrants(fail func(string, string, ...any)) {
	has := func(grant string) bool { return slices.Contains(n.GrantTypes, grant) }
	switch {
	case len(n.GrantTypes) == 0 && !n.ResourceServer:
		fail("grantTypes", "must name at least one of %s", strings.Join(grantTypes(), ", "))
	case slices.ContainsFunc(n.GrantTypes, func(g string) bool { return !slices.Contains(grantTypes(), g) }) || repeated(n.GrantTypes):
		fail("grantTypes", "must be some of %s, each once", strings.Join(grantTypes(), ", "))
	case n.Public && has(grantClient):
		fail("grantTypes", "must not have client_credentials, as a public client has no credentials")
	case has(grantRefresh) && !has(grantCode) && !has(grantDevice):
		fail("grantTypes", "has refresh_token, which needs authorization_code or %s", grantDevice)
	}
}

func (n *registration) checkScopes(fail func(string, string, ...any)) {
	switch {
	case len(n.Scopes) == 0 && len(n.GrantTypes) > 0:
		fail("scopes", "must name at least one of %s", strings.Join(offeredScopes(), ", "))
	case slices.ContainsFunc(n.Scopes, func(s string) bool { return !slices.Contains(offeredScopes(), s) }) || repeated(n.Scopes):
		fail("scopes", "must be some of %s, each once", strings.Join(offeredScopes(), ", "))
	case slices.Contains(n.Scopes, scopeOffline) && !slices.Contains(n.GrantTypes, grantRefresh):
		fail("scopes", "has offline_access, which needs the grant type refresh_token")
	}
}

func (n *registration) checkRedirects(fail func(string, string, ...any)) {
	code := slices.Contains(n.GrantTypes, grantCode)
	switch {
	case code && len(n.RedirectURIs) == 0:
		fail("redirectUris", "must name at least one URI for authorization_code")
	case !code && len(n.RedirectURIs) > 0:
		fail("redirectUris", "must be empty without authorization_code")
	case len(n.RedirectURIs) > maxRedirects || repeated(n.RedirectURIs):
		fail("redirectUris", "must be at most %d URIs, each once", maxRedirects)
	}
	for i, uri := range n.RedirectURIs[:min(len(n.RedirectURIs), maxRedirects)] {
		if why := checkRedirect(uri, n.schemes...); why != "" {
			fail("redirectUris["+strconv.Itoa(i)+"]", "%s", why)
		}
	}
}

func (n *registration) checkLogout(fail func(string, string, ...any)) {
	if len(n.LogoutRedirectURIs) > maxRedirects || repeated(n.LogoutRedirectURIs) {
		fail("postLogoutRedirectUris", "must be at most %d URIs, each once", maxRedirects)
	}
	for i, uri := range n.LogoutRedirectURIs[:min(len(n.LogoutRedirectURIs), maxRedirects)] {
		if why := checkRedirect(uri, n.schemes...); why != "" {
			fail("postLogoutRedirectUris["+strconv.Itoa(i)+"]", "%s", why)
		}
	}
	if n.LogoutURI == "" {
		return
	}
	if !n.told {
		fail("backchannelLogoutUri", "needs auth.backchannel_logout: true")
	}
	if why := checkRedirect(n.LogoutURI); why != "" || !strings.HasPrefix(n.LogoutURI, "http") {
		fail("backchannelLogoutUri", "%s", cmp.Or(why, "must be http or https"))
	}
}

func repeated(list []string) bool {
	sorted := slices.Sorted(slices.Values(list))
	return len(slices.Compact(sorted)) != len(list)
}

// Who made a client.
const (
	byAdmin    = "admin"
	byItself   = "open"
	byDocument = "document"
)

// register adds a client and gives its secret, "" for a public one. admin is who asks.
func (p *Provider) register(ctx context.Context, n registration, admin uuid.UUID) (identitydb.OauthClient, string, error) {
	c := identitydb.OauthClient{ID: "app-" + strings.ToLower(rand.Text()[:20]), Name: n.Name, RedirectUris: notNil(n.RedirectURIs),
		GrantTypes: notNil(n.GrantTypes), Scopes: notNil(n.Scopes), ResourceServer: n.ResourceServer, Family: uuid.New(),
		Keys: n.keys(), IDTokenClaims: n.IDTokenClaims, Registered: byAdmin, LogoutRedirectUris: notNil(n.LogoutRedirectURIs),
		LogoutUri: n.LogoutURI, Dpop: n.DPoP}
	secret := ""
	if !n.Public && c.Keys == "" {
		secret = token()
		c.SecretHash = hashed(secret)
	}
	err := pgx.BeginFunc(ctx, p.cfg.Pool, func(tx pgx.Tx) error {
		if err := p.own(ctx, tx, &c, n, admin); err != nil {
			return err
		}
		if err := insertClient(ctx, tx, c); err != nil {
			return err
		}
		return audit.Record(ctx, tx, audit.Entry{Action: "client.create", Target: c.ID, Detail: map[string]string{"name": c.Name,
			"owner":  c.OwnerID.String(),
			"grants": strings.Join(c.GrantTypes, " "), "scopes": strings.Join(c.Scopes, " "), "redirects": strings.Join(c.RedirectUris, " ")}})
	})
	if err != nil {
		return c, "", err
	}
	c, err = p.client(ctx, c.ID)
	return c, secret, err
}

func notNil(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

// own sets whom a new client belongs to and acts for.
func (p *Provider) own(ctx context.Context, tx pgx.Tx, c *identitydb.OauthClient, n registration, admin uuid.UUID) error {
	q := identitydb.New(tx)
	switch {
	case n.OwnerID != "":
		id, err := parseUUID("ownerId", n.OwnerID)
		if err != nil {
			return err
		}
		there, err := q.OAuthUserExists(ctx, id)
		if err != nil {
			return fmt.Errorf("look for owner: %w", err)
		}
		if !there {
			return badField("ownerId", "no such user")
		}
		c.OwnerID = id
	case slices.Contains(c.GrantTypes, grantClient):
		c.OwnerID = uuid.New()
		if err := addServiceAccount(ctx, q, *c); err != nil {
			return err
		}
	default:
		c.OwnerID = admin
	}
	if n.OrgID == "" {
		return nil
	}
	org, err := parseUUID("orgId", n.OrgID)
	if err != nil {
		return err
	}
	member, err := q.OAuthIsMember(ctx, identitydb.OAuthIsMemberParams{OrgID: org, UserID: c.OwnerID})
	if err != nil {
		return fmt.Errorf("look for membership: %w", err)
	}
	if !member {
		return badField("orgId", "the client's owner must be a member of the organisation; name one with ownerId")
	}
	c.OrgID = &org
	return nil
}

// addServiceAccount makes the user that a client acts as. Its name has a random end,
// so that nobody can take it before.
func addServiceAccount(ctx context.Context, q *identitydb.Queries, c identitydb.OauthClient) error {
	err := q.OAuthInsertServiceAccount(ctx, identitydb.OAuthInsertServiceAccountParams{ID: c.OwnerID,
		Username: "client." + c.ID + "." + strings.ToLower(rand.Text()[:6]), Email: c.OwnerID.String() + "@clients.invalid"})
	if err != nil {
		return fmt.Errorf("add service account: %w", err)
	}
	return nil
}

func insertClient(ctx context.Context, tx pgx.Tx, c identitydb.OauthClient) error {
	err := identitydb.New(tx).OAuthInsertClient(ctx, identitydb.OAuthInsertClientParams{ID: c.ID, Name: c.Name, SecretHash: c.SecretHash,
		RedirectUris: c.RedirectUris, Origins: originsOf(c.RedirectUris),
		GrantTypes: c.GrantTypes, Scopes: c.Scopes, OwnerID: c.OwnerID, OrgID: c.OrgID, ResourceServer: c.ResourceServer, Family: c.Family,
		Keys: c.Keys, IDTokenClaims: c.IDTokenClaims, Registered: c.Registered, UsedAt: c.UsedAt, FetchedAt: c.FetchedAt,
		LogoutRedirectUris: notNil(c.LogoutRedirectUris), LogoutUri: c.LogoutUri, Dpop: c.Dpop})
	if err != nil {
		return fmt.Errorf("add client: %w", err)
	}
	return nil
}

// remove deletes a client and ends every token that it was given.
func (p *Provider) remove(ctx context.Context, id string) error {
	var ended []revocation.Revocation
	err := pgx.BeginFunc(ctx, p.cfg.Pool, func(tx pgx.Tx) error {
		q := identitydb.New(tx)
		c, err := q.OAuthLockClient(ctx, id)
		if errors.Is(err, pgx.ErrNoRows) {
			return errNoClient
		}
		if err != nil {
			return fmt.Errorf("read client: %w", err)
		}
		if ended, err = p.cfg.Grants.EndOfClient(ctx, tx, id, "client deleted"); err != nil {
			return err
		}
		own, err := p.endOwn(ctx, tx, c.Family)
		if err != nil {
			return err
		}
		ended = append(ended, own)
		if _, err := q.OAuthDeleteClient(ctx, id); err != nil {
			return fmt.Errorf("delete client: %w", err)
		}
		return audit.Record(ctx, tx, audit.Entry{Action: "client.delete", Target: id, Detail: map[string]string{"name": c.Name}})
	})
	if err == nil {
		p.cfg.Announce(ended...)
	}
	return err
}

// newSecret replaces the secret of a client. What it got by the old one by client
// credentials ends; its users' grants stay, as they need the new secret to be refreshed.
func (p *Provider) newSecret(ctx context.Context, id string) (c identitydb.OauthClient, secret string, err error) {
	secret = token()
	var ended revocation.Revocation
	err = pgx.BeginFunc(ctx, p.cfg.Pool, func(tx pgx.Tx) error {
		q := identitydb.New(tx)
		old, err := q.OAuthLockClient(ctx, id)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			return errNoClient
		case err != nil:
			return fmt.Errorf("read client: %w", err)
		case len(old.SecretHash) == 0:
			return httpapi.Fail(http.StatusConflict, "the client has no secret")
		}
		if ended, err = p.endOwn(ctx, tx, old.Family); err != nil {
			return err
		}
		c, err = q.OAuthSetSecret(ctx, identitydb.OAuthSetSecretParams{ID: id, SecretHash: hashed(secret), Family: uuid.New()})
		if err != nil {
			return fmt.Errorf("replace secret: %w", err)
		}
		return audit.Record(ctx, tx, audit.Entry{Action: "client.secret", Target: id})
	})
	if err == nil {
		p.cfg.Announce(ended)
	}
	return c, secret, err
}
