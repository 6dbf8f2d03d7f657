package identity

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/identity/audit"
	"github.com/leaky-tokens/leaky-tokens/identity/grants"
	"github.com/leaky-tokens/leaky-tokens/identity/identitydb"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
)

// grantView is what a user granted to one application.
type grantView struct {
	ClientID  string      `json:"clientId"`
	Name      string      `json:"name"` // of the application; empty when it is gone
	Scopes    []string    `json:"scopes"`
	Resources []string    `json:"resources"` // where its tokens may be used beside here
	OrgIDs    []uuid.UUID `json:"orgIds"`    // organisations that it acts for
	GrantedAt time.Time   `json:"grantedAt"` // for the first time, of what still counts
	LastAt    time.Time   `json:"lastGrantedAt"`
	ExpiresAt time.Time   `json:"expiresAt"` // at the latest
}

// listGrants is GET /api/v1/auth/grants?userId=: applications that get tokens for a user, the last one
// that was granted anything first.
func (s *Service) listGrants(w http.ResponseWriter, r *http.Request, p principal.Principal) error {
	user, err := ownerOfQuery(r, p)
	if err != nil {
		return err
	}
	rows, err := s.store.grantsOf(r.Context(), user, s.cfg.Auth.TokenTTL)
	if err != nil {
		return err
	}
	views := make([]grantView, len(rows))
	for i, row := range rows {
		views[i] = grantView{ClientID: row.ClientID, Name: row.Name, Scopes: distinct(row.Scope), Resources: distinct(row.Resources),
			OrgIDs: row.Orgs, GrantedAt: row.FirstAt.UTC(), LastAt: row.LastAt.UTC(), ExpiresAt: row.ExpiresAt.UTC()}
	}
	httpapi.WriteJSON(w, http.StatusOK, views)
	return nil
}

// endGrant is DELETE /api/v1/auth/grants?clientId=&userId=: what the user granted to an application ends,
// its refresh tokens at once and its access tokens within a second. 204, and 404 if nothing was granted.
func (s *Service) endGrant(w http.ResponseWriter, r *http.Request, p principal.Principal) error {
	user, err := ownerOfQuery(r, p)
	if err != nil {
		return err
	}
	client, err := queryValue(r, "clientId")
	if err != nil {
		return err
	}
	if client == nil || *client == "" {
		return invalid("clientId", "clientId is required")
	}
	if *client == grants.FirstParty || len(*client) > maxClientID || strings.ContainsFunc(*client, func(c rune) bool {
		return c <= ' ' ||
			c > '~'
	}) {
		return httpapi.Fail(http.StatusNotFound, "nothing is granted to this application")
	}
	ended := 0
	err = s.store.change(r.Context(), func(ctx context.Context, c *change) error {
		families, err := s.grants.EndGrant(ctx, c, user, *client, "grant taken back")
		if err != nil || len(families) == 0 {
			return err
		}
		ended = len(families)
		c.revoked = append(c.revoked, families...)
		return audit.Record(ctx, c, audit.Entry{Client: *client, Action: "grant.revoke", Target: user.String()})
	})
	if err != nil {
		return err
	}
	if ended == 0 {
		return httpapi.Fail(http.StatusNotFound, "nothing is granted to this application")
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// maxClientID is the longest id of a client, which is a URL where clients describe themselves.
const maxClientID = 500

// ownerOfQuery is whom a call is about by its userId: the caller, and anybody for an ADMIN.
func ownerOfQuery(r *http.Request, p principal.Principal) (uuid.UUID, error) {
	given, err := queryValue(r, "userId")
	if err != nil {
		return uuid.UUID{}, err
	}
	return owner(p, given)
}

// distinct are the words of a text, each once and sorted.
func distinct(text string) []string {
	words := append([]string{}, strings.Fields(text)...)
	slices.Sort(words)
	return slices.Compact(words)
}

func (s store) grantsOf(ctx context.Context, user uuid.UUID, tokenLife time.Duration) ([]identitydb.GrantsOfUserRow, error) {
	ctx, cancel, q := s.read(ctx)
	defer cancel()
	rows, err := q.GrantsOfUser(ctx, identitydb.GrantsOfUserParams{UserID: user, FirstParty: grants.FirstParty,
		TokenLife: tokenLife.Seconds()})
	if err != nil {
		return nil, fmt.Errorf("list grants: %w", err)
	}
	return rows, nil
}
