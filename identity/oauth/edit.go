package oauth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/leaky-tokens/leaky-tokens/identity/audit"
	"github.com/leaky-tokens/leaky-tokens/identity/identitydb"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
)

// change is what an administrator changes of a client; what is absent stays.
type change struct {
	Name          *string         `json:"name"`
	RedirectURIs  *[]string       `json:"redirectUris"`
	GrantTypes    *[]string       `json:"grantTypes"`
	Scopes        *[]string       `json:"scopes"`
	JWKS          json.RawMessage `json:"jwks"` // new keys of a client that has keys
	IDTokenClaims *bool           `json:"idTokenClaims"`
	Logout        *[]string       `json:"postLogoutRedirectUris"`
	LogoutURI     *string         `json:"backchannelLogoutUri"`
	DPoP          *bool           `json:"dpopBoundAccessTokens"`
}

// editClient is PATCH /api/v1/admin/clients/{id}. Tokens go on; one that is refreshed has no scope that
// the client may not have any more, and pages that are open lead nowhere but to a URI that is registered.
func (p *Provider) editClient(w http.ResponseWriter, r *http.Request, _ principal.Principal) error {
	var to change
	if err := httpapi.ReadJSON(w, r, &to); err != nil {
		return err
	}
	if !clientID.MatchString(r.PathValue("id")) {
		return missing(errNoClient)
	}
	c, err := p.edit(r.Context(), r.PathValue("id"), to)
	if err != nil {
		return missing(err)
	}
	httpapi.WriteJSON(w, http.StatusOK, viewOf(c, ""))
	return nil
}

func (p *Provider) edit(ctx context.Context, id string, to change) (c identitydb.OauthClient, err error) {
	err = pgx.BeginFunc(ctx, p.cfg.Pool, func(tx pgx.Tx) error {
		q := identitydb.New(tx)
		old, err := q.OAuthLockClient(ctx, id)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			return errNoClient
		case err != nil:
			return fmt.Errorf("read client: %w", err)
		case len(to.JWKS) > 0 && string(to.JWKS) != "null" && old.Keys == "":
			return badField("jwks", "the client does not prove itself by keys")
		}
		n := to.applied(old)
		n.schemes, n.told = p.cfg.Schemes, p.cfg.TellClients
		if err := n.check(); err != nil {
			return err
		}
		c, err = q.OAuthEditClient(ctx, identitydb.OAuthEditClientParams{ID: id, Name: n.Name, RedirectUris: notNil(n.RedirectURIs),
			Origins: originsOf(n.RedirectURIs), GrantTypes: notNil(n.GrantTypes), Scopes: notNil(n.Scopes), Keys: n.keys(),
			IDTokenClaims: n.IDTokenClaims, LogoutRedirectUris: notNil(n.LogoutRedirectURIs), LogoutUri: n.LogoutURI, Dpop: n.DPoP})
		if err != nil {
			return fmt.Errorf("change client: %w", err)
		}
		return audit.Record(ctx, tx, audit.Entry{Action: "client.edit", Target: id, Detail: map[string]string{"name": c.Name,
			"grants": strings.Join(c.GrantTypes, " "), "scopes": strings.Join(c.Scopes, " "), "redirects": strings.Join(c.RedirectUris, " ")}})
	})
	return c, err
}

// applied is the client as it would be registered with the change.
func (to change) applied(old identitydb.OauthClient) registration {
	n := registration{Name: old.Name, Public: public(old), RedirectURIs: old.RedirectUris, GrantTypes: old.GrantTypes, Scopes: old.Scopes,
		ResourceServer: old.ResourceServer, JWKS: json.RawMessage(old.Keys), IDTokenClaims: old.IDTokenClaims,
		LogoutRedirectURIs: old.LogoutRedirectUris, LogoutURI: old.LogoutUri, DPoP: old.Dpop}
	set(&n.Name, to.Name)
	set(&n.RedirectURIs, to.RedirectURIs)
	set(&n.GrantTypes, to.GrantTypes)
	set(&n.Scopes, to.Scopes)
	set(&n.IDTokenClaims, to.IDTokenClaims)
	set(&n.LogoutRedirectURIs, to.Logout)
	set(&n.LogoutURI, to.LogoutURI)
	set(&n.DPoP, to.DPoP)
	if len(to.JWKS) > 0 && string(to.JWKS) != "null" {
		n.JWKS = to.JWKS
	}
	return n
}

func set[T any](to, from *T) {
	if from != nil {
		*to = *from
	}
}
