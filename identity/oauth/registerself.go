package oauth

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/identity/audit"
	"github.com/leaky-tokens/leaky-tokens/identity/identitydb"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"

	"github.com/jackc/pgx/v5"
)

// Clients that no administrator registered: by RFC 7591 (here) or by a document (document.go). There are
// so many at most, they have no scope that buys or administers and no credentials of their own to act
// by, and they go when nobody uses them.

const (
	registerPath = "/oauth2/register"
	// clientIdle is how long a client is kept that nobody uses, and firstUse one that nobody ever used.
	clientIdle = 30 * 24 * time.Hour
	firstUse   = 24 * time.Hour
	// mostStrangers is the most such clients there are; more are refused until some have gone.
	mostStrangers = 10_000
	maxMetadata   = 64 << 10 // bytes of a client's metadata
)

// Errors of RFC 7591, section 3.2.2.
const (
	codeInvalidRedirect = "invalid_redirect_uri"
	codeInvalidMetadata = "invalid_client_metadata"
)

// registrarID owns the clients that nobody here registered. It has no role and cannot log in.
func registrarID() uuid.UUID {
	return uuid.NewSHA1(uuid.NameSpaceURL, []byte("leaky-tokens registrar"))
}

// metadataOfClient is how a client describes itself (RFC 7591, section 2). Members that are not known mean
// nothing, as the RFC has it.
type metadataOfClient struct {
	ID           string   `json:"client_id"`
	Name         string   `json:"client_name"`
	RedirectURIs []string `json:"redirect_uris"`
	GrantTypes   []string `json:"grant_types"`
	Responses    []string `json:"response_types"`
	Scope        string   `json:"scope"`
	AuthMethod   string   `json:"token_endpoint_auth_method"`
}

// strangersScopes are what a client may have that no administrator registered.
func strangersScopes() []string {
	return []string{scopeOpenID, scopeProfile, scopeEmail, attributes.ScopeModelsCall, attributes.ScopeTokensRead,
		attributes.ScopeAnalyticsRead, scopeOffline}
}

// registration is the client as an administrator would register it. What it asks for beyond its bounds is
// left out, and the answer says what it has (RFC 7591, section 3.2.1).
func (m *metadataOfClient) registration(schemes []string) (registration, error) {
	n := registration{Name: m.Name, RedirectURIs: m.RedirectURIs, schemes: schemes, Scopes: strangersScopes()}
	if n.Name == "" {
		n.Name = "An application without a name"
	}
	for _, grant := range m.GrantTypes {
		if (grant == grantCode || grant == grantRefresh || grant == grantDevice) && !slices.Contains(n.GrantTypes, grant) {
			n.GrantTypes = append(n.GrantTypes, grant)
		}
	}
	if len(m.GrantTypes) == 0 {
		n.GrantTypes = []string{grantCode, grantRefresh}
	}
	if m.Scope != "" {
		asked := strings.Fields(m.Scope)
		n.Scopes = slices.DeleteFunc(n.Scopes, func(s string) bool { return !slices.Contains(asked, s) })
	}
	if !slices.Contains(n.GrantTypes, grantRefresh) {
		n.Scopes = slices.DeleteFunc(n.Scopes, func(s string) bool { return s == scopeOffline })
	}
	switch m.AuthMethod {
	case "none":
		n.Public = true
	case "", "client_secret_basic", "client_secret_post":
	default:
		return n, refuse(codeInvalidMetadata, "token_endpoint_auth_method must be none, client_secret_basic or client_secret_post")
	}
	for _, one := range m.Responses {
		if one != "code" {
			return n, refuse(codeInvalidMetadata, "response_types must be code")
		}
	}
	return n, asMetadataError(n.check())
}

// asMetadataError words what is wrong with a registration as RFC 7591 does.
func asMetadataError(err error) error {
	wrong, ok := errors.AsType[*httpapi.Error](err)
	if !ok {
		return err
	}
	code := codeInvalidMetadata
	if len(wrong.Fields) > 0 && strings.HasPrefix(wrong.Fields[0].Field, "redirectUris") {
		code = codeInvalidRedirect
	}
	text := wrong.Message
	if len(text) > 500 {
		text = text[:500]
	}
	return refuse(code, "%s", text)
}

// registerItself is POST /oauth2/register (RFC 7591).
func (p *Provider) registerItself(w http.ResponseWriter, r *http.Request) error {
	if err := p.pace(r.Context(), ""); err != nil {
		return err
	}
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxMetadata))
	if err != nil {
		return &protocolError{status: http.StatusRequestEntityTooLarge, code: codeInvalidMetadata, description: "the metadata could not be read, or is too large"}
	}
	var m metadataOfClient
	if err := json.Unmarshal(text, &m); err != nil {
		return refuse(codeInvalidMetadata, "the metadata is no JSON object of the members that RFC 7591 names")
	}
	n, err := m.registration(p.cfg.Schemes)
	if err != nil {
		return err
	}
	c, secret, err := p.addStranger(r.Context(), n)
	if err != nil {
		return err
	}
	method := "none"
	answer := map[string]any{"client_id": c.ID, "client_id_issued_at": c.CreatedAt.Unix(), "client_name": c.Name,
		"redirect_uris": c.RedirectUris,
		"grant_types":   c.GrantTypes, "response_types": []string{"code"}, "scope": strings.Join(c.Scopes, " ")}
	if secret != "" {
		method = m.AuthMethod
		if method == "" {
			method = "client_secret_basic"
		}
		answer["client_secret"], answer["client_secret_expires_at"] = secret, 0
	}
	answer["token_endpoint_auth_method"] = method
	writeJSON(w, http.StatusCreated, answer)
	return nil
}

// addStranger stores a client that registered itself.
func (p *Provider) addStranger(ctx context.Context, n registration) (c identitydb.OauthClient, secret string, err error) {
	// Until it is used it has a day, and clientIdle after each use.
	used := time.Now().Add(firstUse - clientIdle)
	c = identitydb.OauthClient{ID: "app-" + strings.ToLower(rand.Text()[:20]), Name: n.Name, RedirectUris: notNil(n.RedirectURIs),
		GrantTypes: n.GrantTypes, Scopes: n.Scopes, OwnerID: registrarID(), Family: uuid.New(), Registered: byItself, UsedAt: &used}
	if !n.Public {
		secret = token()
		c.SecretHash = hashed(secret)
	}
	err = pgx.BeginFunc(ctx, p.cfg.Pool, func(tx pgx.Tx) error {
		if err := p.roomForStranger(ctx, identitydb.New(tx)); err != nil {
			return err
		}
		if err := insertClient(ctx, tx, c); err != nil {
			return err
		}
		return audit.Record(ctx, tx, audit.Entry{Action: "client.register", Target: c.ID, Detail: map[string]string{"name": c.Name,
			"redirects": strings.Join(c.RedirectUris, " ")}})
	})
	if err != nil {
		return c, "", err
	}
	c, err = p.client(ctx, c.ID)
	return c, secret, err
}

// roomForStranger makes sure that there are not too many, and that they have an owner.
func (p *Provider) roomForStranger(ctx context.Context, q *identitydb.Queries) error {
	n, err := q.OAuthCountRegistered(ctx)
	if err != nil {
		return fmt.Errorf("count clients: %w", err)
	}
	if n >= mostStrangers {
		return &protocolError{status: http.StatusServiceUnavailable, code: codeUnavailable, description: "too many clients have registered themselves",
			retryAfter: time.Hour}
	}
	err = q.OAuthEnsureRegistrar(ctx, identitydb.OAuthEnsureRegistrarParams{ID: registrarID(),
		Username: "registrar." + strings.ToLower(rand.Text()[:10]), Email: registrarID().String() + "@clients.invalid"})
	if err != nil {
		return fmt.Errorf("add registrar: %w", err)
	}
	return nil
}

// purgeClients removes clients that nobody has used for a while, with their tokens.
func (p *Provider) purgeClients(ctx context.Context, now time.Time) error {
	before := now.Add(-clientIdle)
	ids, err := p.db.OAuthIdleClients(ctx, &before)
	if err != nil {
		return fmt.Errorf("look for idle clients: %w", err)
	}
	for _, id := range ids {
		if err := p.remove(ctx, id); err != nil && !errors.Is(err, errNoClient) {
			return err
		}
	}
	return nil
}
