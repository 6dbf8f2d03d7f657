package identity

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/identity/audit"
	"github.com/leaky-tokens/leaky-tokens/identity/identitydb"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
	"github.com/leaky-tokens/leaky-tokens/internal/wording"
)

// maxTeams is how many teams an organisation may have.
const maxTeams = 500

var (
	errTooManyTeams = errors.New("too many teams")
	errTeamInUse    = errors.New("the team has members or open invitations: move them first")
	errNoTeam       = errors.New("no such team")
)

// unknownTeam says that nobody made a team of this name: a member of it would be bound by no team's limit.
type unknownTeam struct{ name, near string }

func (e *unknownTeam) Error() string {
	if e.near != "" {
		return fmt.Sprintf("the organisation has no team %s; did you mean %s?", e.name, e.near)
	}
	return fmt.Sprintf("the organisation has no team %s: make it first, with POST /api/v1/orgs/{id}/teams", e.name)
}

// misspelt tells whether an error is that of an unknown team.
func misspelt(err error) bool {
	_, ok := errors.AsType[*unknownTeam](err)
	return ok
}

type teamView struct {
	Name      string    `json:"name"`
	Members   int64     `json:"members"`
	CreatedAt time.Time `json:"createdAt"`
}

// listTeams is GET /api/v1/orgs/{id}/teams, for members.
func (s *Service) listTeams(w http.ResponseWriter, r *http.Request, p principal.Principal) error {
	org, err := pathID(r, "id", "organisation")
	if err != nil {
		return err
	}
	if _, err := s.insider(r, p, org); err != nil {
		return err
	}
	ctx, cancel, q := s.store.read(r.Context())
	defer cancel()
	rows, err := q.Teams(ctx, org)
	if err != nil {
		return fmt.Errorf("list teams: %w", err)
	}
	views := make([]teamView, len(rows))
	for i, t := range rows {
		views[i] = teamView{Name: t.Name, Members: t.Members, CreatedAt: t.CreatedAt.UTC()}
	}
	httpapi.WriteJSON(w, http.StatusOK, views)
	return nil
}

// createTeam is POST /api/v1/orgs/{id}/teams {name}, for an OWNER: 201, or 200 when it is there.
func (s *Service) createTeam(w http.ResponseWriter, r *http.Request, p principal.Principal) error {
	org, err := pathID(r, "id", "organisation")
	if err != nil {
		return err
	}
	var body struct {
		Name string `json:"name"`
	}
	if err := httpapi.ReadJSON(w, r, &body); err != nil {
		return err
	}
	if err := s.mustOwn(r, p, org); err != nil {
		return err
	}
	name := strings.TrimSpace(body.Name)
	if !teamShape.MatchString(name) {
		return invalid("name", "name must be 1 to 50 letters, digits, '.', '_' or '-'")
	}
	fresh, err := s.store.addTeam(r.Context(), org, name, ownerStill(p, org))
	if err != nil {
		return orgRefusal(err)
	}
	status := http.StatusOK
	if fresh {
		status = http.StatusCreated
	}
	httpapi.WriteJSON(w, status, teamView{Name: name, CreatedAt: time.Now().UTC()})
	return nil
}

// deleteTeam is DELETE /api/v1/orgs/{id}/teams/{team}, for an OWNER; a team with members stays (409).
func (s *Service) deleteTeam(w http.ResponseWriter, r *http.Request, p principal.Principal) error {
	org, err := pathID(r, "id", "organisation")
	if err != nil {
		return err
	}
	if err := s.mustOwn(r, p, org); err != nil {
		return err
	}
	if err := s.store.deleteTeam(r.Context(), org, r.PathValue("team"), ownerStill(p, org)); err != nil {
		return orgRefusal(err)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// may is asked within the transaction.
type may func(context.Context, *identitydb.Queries) error

func (s store) addTeam(ctx context.Context, org uuid.UUID, name string, ask may) (fresh bool, err error) {
	err = s.change(ctx, func(ctx context.Context, c *change) error {
		if _, err := found(c.LockOrg(ctx, org)); err != nil {
			return err
		}
		if err := ask(ctx, c.Queries); err != nil {
			return err
		}
		fresh, err = ensureTeam(ctx, c, org, name)
		return err
	})
	return fresh, err
}

// ensureTeam makes a team unless it is there. The organisation's row is locked.
func ensureTeam(ctx context.Context, c *change, org uuid.UUID, name string) (fresh bool, err error) {
	names, err := c.TeamNames(ctx, org)
	if err != nil {
		return false, fmt.Errorf("list teams: %w", err)
	}
	if slices.Contains(names, name) {
		return false, nil
	}
	if len(names) >= maxTeams {
		return false, errTooManyTeams
	}
	if _, err := c.AddTeam(ctx, identitydb.AddTeamParams{OrgID: org, Name: name}); err != nil {
		return false, fmt.Errorf("insert team: %w", err)
	}
	return true, audit.Record(ctx, c, audit.Entry{Action: "org.team.create", Target: org.String(), Detail: map[string]string{"team": name}})
}

func (s store) deleteTeam(ctx context.Context, org uuid.UUID, name string, ask may) error {
	return s.change(ctx, func(ctx context.Context, c *change) error {
		if _, err := found(c.LockOrg(ctx, org)); err != nil {
			return err
		}
		if err := ask(ctx, c.Queries); err != nil {
			return err
		}
		used, err := c.TeamInUse(ctx, identitydb.TeamInUseParams{OrgID: org, Team: name})
		if err != nil {
			return fmt.Errorf("look for members of team: %w", err)
		}
		if used {
			return errTeamInUse
		}
		n, err := c.DeleteTeam(ctx, identitydb.DeleteTeamParams{OrgID: org, Name: name})
		if err != nil {
			return fmt.Errorf("delete team: %w", err)
		}
		if n == 0 {
			return errNoTeam
		}
		return audit.Record(ctx, c, audit.Entry{Action: "org.team.delete", Target: org.String(), Detail: map[string]string{"team": name}})
	})
}

// knownTeam refuses a team that nobody made. The organisation's row is locked, so that it stays.
func knownTeam(ctx context.Context, c *change, org uuid.UUID, name string) error {
	if name == "" {
		return nil
	}
	names, err := c.TeamNames(ctx, org)
	if err != nil {
		return fmt.Errorf("list teams: %w", err)
	}
	if slices.Contains(names, name) {
		return nil
	}
	return &unknownTeam{name: name, near: wording.Nearest(name, names)}
}
