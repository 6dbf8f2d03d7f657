package oauth

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/identity/identitydb"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
)

// pageSize is how many clients a listing gives unless asked for fewer.
const pageSize = 100

// clientView is a client as administrators see it.
type clientView struct {
	ID             string     `json:"clientId"`
	Secret         string     `json:"clientSecret,omitzero"` // shown once, when it was made
	Name           string     `json:"name"`
	Public         bool       `json:"public"`
	RedirectURIs   []string   `json:"redirectUris"`
	GrantTypes     []string   `json:"grantTypes"`
	Scopes         []string   `json:"scopes"`
	OwnerID        uuid.UUID  `json:"ownerId"`
	OrgID          *uuid.UUID `json:"orgId"`
	ResourceServer bool       `json:"resourceServer"`
	AuthMethod     string     `json:"authMethod"` // by what it proves who it is: secret, keys or none
	IDTokenClaims  bool       `json:"idTokenClaims"`
	LogoutRedirect []string   `json:"postLogoutRedirectUris"`
	LogoutURI      string     `json:"backchannelLogoutUri,omitzero"`
	DPoP           bool       `json:"dpopBoundAccessTokens"`
	Registered     string     `json:"registered"` // who made it: admin, open or document
	CreatedAt      time.Time  `json:"createdAt"`
	UpdatedAt      time.Time  `json:"updatedAt"`
}

func viewOf(c identitydb.OauthClient, secret string) clientView {
	method := "secret"
	switch {
	case c.Keys != "":
		method = "keys"
	case public(c):
		method = "none"
	}
	return clientView{AuthMethod: method, IDTokenClaims: c.IDTokenClaims, Registered: c.Registered, ID: c.ID, Secret: secret, Name: c.Name,
		Public: public(c), RedirectURIs: c.RedirectUris, GrantTypes: c.GrantTypes, LogoutRedirect: c.LogoutRedirectUris,
		LogoutURI: c.LogoutUri, DPoP: c.Dpop,
		Scopes:  c.Scopes,
		OwnerID: c.OwnerID, OrgID: c.OrgID, ResourceServer: c.ResourceServer, CreatedAt: c.CreatedAt.UTC(), UpdatedAt: c.UpdatedAt.UTC()}
}

// AdminFunc is a handler for an ADMIN, whom the one who mounts it has checked.
type AdminFunc = func(w http.ResponseWriter, r *http.Request, admin principal.Principal) error

// AdminRoutes gives the management of clients to handle, which mounts them for the
// role ADMIN alone.
func (p *Provider) AdminRoutes(handle func(pattern string, h AdminFunc)) {
	handle("POST /api/v1/admin/clients", p.createClient)
	handle("GET /api/v1/admin/clients", p.listClients)
	handle("GET /api/v1/admin/clients/{id}", p.showClient)
	handle("PATCH /api/v1/admin/clients/{id}", p.editClient)
	handle("DELETE /api/v1/admin/clients/{id}", p.deleteClient)
	handle("POST /api/v1/admin/clients/{id}/secret", p.rotateSecret)
}

func badField(field, message string) *httpapi.Error {
	return &httpapi.Error{Status: http.StatusBadRequest, Message: message, Fields: []httpapi.FieldError{{Field: field, Message: message}}}
}

// parseUUID takes only the plain 36-character form.
func parseUUID(field, text string) (uuid.UUID, error) {
	id, err := uuid.Parse(text)
	if err != nil || len(text) != 36 {
		return uuid.UUID{}, badField(field, "invalid "+field)
	}
	return id, nil
}

// createClient is POST /api/v1/admin/clients: the one time that the secret is shown.
func (p *Provider) createClient(w http.ResponseWriter, r *http.Request, admin principal.Principal) error {
	var n registration
	if err := httpapi.ReadJSON(w, r, &n); err != nil {
		return err
	}
	n.schemes, n.told = p.cfg.Schemes, p.cfg.TellClients
	if err := n.check(); err != nil {
		return err
	}
	id, err := uuid.Parse(admin.UserID)
	if err != nil {
		return httpapi.Fail(http.StatusUnauthorized, "authentication is required")
	}
	if there, err := p.db.OAuthUserExists(r.Context(), id); err != nil {
		return fmt.Errorf("look for administrator: %w", err)
	} else if !there {
		return httpapi.Fail(http.StatusUnauthorized, "the account is gone")
	}
	c, secret, err := p.register(r.Context(), n, id)
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/api/v1/admin/clients/"+c.ID)
	noStore(w)
	httpapi.WriteJSON(w, http.StatusCreated, viewOf(c, secret))
	return nil
}

// listClients is GET /api/v1/admin/clients?after=&limit=: an array by id. The Link
// header (RFC 8288) leads to the next page.
func (p *Provider) listClients(w http.ResponseWriter, r *http.Request, _ principal.Principal) error {
	after, limit := r.URL.Query().Get("after"), pageSize
	if after != "" && !clientID.MatchString(after) {
		return badField("after", "after must be a client id")
	}
	if text := r.URL.Query().Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > 1000 {
			return badField("limit", "limit must be 1 to 1000")
		}
		limit = n
	}
	rows, err := p.db.OAuthClients(r.Context(), identitydb.OAuthClientsParams{After: after, Most: int32(limit)})
	if err != nil {
		return fmt.Errorf("list clients: %w", err)
	}
	views := make([]clientView, len(rows))
	for i, c := range rows {
		views[i] = viewOf(c, "")
	}
	if len(rows) == limit {
		next := url.Values{"after": {rows[limit-1].ID}, "limit": {strconv.Itoa(limit)}}
		w.Header().Set("Link", fmt.Sprintf(`<%s?%s>; rel="next"`, r.URL.Path, next.Encode()))
	}
	httpapi.WriteJSON(w, http.StatusOK, views)
	return nil
}

func missing(err error) error {
	if errors.Is(err, errNoClient) {
		return httpapi.Fail(http.StatusNotFound, "client not found")
	}
	return err
}

// showClient is GET /api/v1/admin/clients/{id}.
func (p *Provider) showClient(w http.ResponseWriter, r *http.Request, _ principal.Principal) error {
	c, err := p.client(r.Context(), r.PathValue("id"))
	if err != nil {
		return missing(err)
	}
	httpapi.WriteJSON(w, http.StatusOK, viewOf(c, ""))
	return nil
}

// deleteClient is DELETE /api/v1/admin/clients/{id}: 204, and its tokens end.
func (p *Provider) deleteClient(w http.ResponseWriter, r *http.Request, _ principal.Principal) error {
	if !clientID.MatchString(r.PathValue("id")) {
		return missing(errNoClient)
	}
	if err := p.remove(r.Context(), r.PathValue("id")); err != nil {
		return missing(err)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// rotateSecret is POST /api/v1/admin/clients/{id}/secret: a new secret, the old one ends.
func (p *Provider) rotateSecret(w http.ResponseWriter, r *http.Request, _ principal.Principal) error {
	if !clientID.MatchString(r.PathValue("id")) {
		return missing(errNoClient)
	}
	c, secret, err := p.newSecret(r.Context(), r.PathValue("id"))
	if err != nil {
		return missing(err)
	}
	noStore(w)
	httpapi.WriteJSON(w, http.StatusOK, viewOf(c, secret))
	return nil
}
