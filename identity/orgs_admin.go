package identity

import (
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

// orgSummary is an organisation as an ADMIN sees it.
type orgSummary struct {
	ID        uuid.UUID `json:"id"`
	Name      string    `json:"name"`
	Members   int64     `json:"members"`
	CreatedAt time.Time `json:"createdAt"`
}

// listAllOrgs is GET /api/v1/admin/orgs?after=&limit=: those of everybody, by id.
func (s *Service) listAllOrgs(w http.ResponseWriter, r *http.Request, _ principal.Principal) error {
	given, err := queryValue(r, "after")
	if err != nil {
		return err
	}
	after, err := optionalID("after", given)
	if err != nil {
		return err
	}
	if after == nil {
		after = &uuid.Nil
	}
	limit, err := pageLimit(r)
	if err != nil {
		return err
	}
	ctx, cancel, q := s.store.read(r.Context())
	defer cancel()
	rows, err := q.AllOrgs(ctx, identitydb.AllOrgsParams{After: *after, Most: int32(limit)})
	if err != nil {
		return fmt.Errorf("list organisations: %w", err)
	}
	views := make([]orgSummary, len(rows))
	for i, o := range rows {
		views[i] = orgSummary{ID: o.ID, Name: o.Name, Members: o.Members, CreatedAt: o.CreatedAt.UTC()}
	}
	if len(rows) == limit {
		nextPage(w, r, url.Values{"after": {rows[limit-1].ID.String()}, "limit": {strconv.Itoa(limit)}})
	}
	httpapi.WriteJSON(w, http.StatusOK, views)
	return nil
}
