package identity

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/leaky-tokens/leaky-tokens/identity/identitydb"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/membership"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
)

const maxOrgName = 100 // characters

// orgView is an organisation as one of its members sees it.
type orgView struct {
	ID        uuid.UUID `json:"id"`
	Name      string    `json:"name"`
	Role      string    `json:"role"`           // the caller's
	Team      string    `json:"team,omitempty"` // the caller's
	CreatedAt time.Time `json:"createdAt"`
}

type memberView struct {
	UserID   uuid.UUID `json:"userId"`
	Username string    `json:"username,omitempty"`
	Role     string    `json:"role"`
	Team     string    `json:"team,omitempty"`
	JoinedAt time.Time `json:"joinedAt,omitzero"`
}

// createOrg is POST /api/v1/orgs {name}: the caller becomes its OWNER.
func (s *Service) createOrg(w http.ResponseWriter, r *http.Request, p principal.Principal) error {
	var body struct {
		Name *string `json:"name"`
	}
	if err := httpapi.ReadJSON(w, r, &body); err != nil {
		return err
	}
	name, err := orgName(body.Name)
	if err != nil {
		return err
	}
	u, err := s.self(r, p)
	if err != nil {
		return err
	}
	org := identitydb.AddOrgParams{ID: uuid.New(), Name: name, CreatedAt: time.Now().UTC().Truncate(time.Microsecond)}
	err = s.store.createOrg(r.Context(), org, u.ID)
	if errors.Is(err, errTooManyOrgs) {
		return httpapi.Fail(http.StatusConflict, "a user may own at most %d organisations", maxOwned)
	}
	if err != nil {
		return err
	}
	httpapi.WriteJSON(w, http.StatusCreated, orgView{ID: org.ID, Name: org.Name, Role: membership.Owner, CreatedAt: org.CreatedAt})
	return nil
}

// listOrgs is GET /api/v1/orgs: those the caller belongs to, by name.
func (s *Service) listOrgs(w http.ResponseWriter, r *http.Request, p principal.Principal) error {
	id, err := parseID(p.UserID)
	if err != nil {
		return err
	}
	views, err := s.orgViews(r.Context(), id)
	if err != nil {
		return err
	}
	httpapi.WriteJSON(w, http.StatusOK, views)
	return nil
}

func (s *Service) orgViews(ctx context.Context, id uuid.UUID) ([]orgView, error) {
	rows, err := s.store.orgsOf(ctx, id)
	if err != nil {
		return nil, err
	}
	views := make([]orgView, len(rows))
	for i, o := range rows {
		views[i] = orgView{ID: o.ID, Name: o.Name, Role: o.Role, Team: o.Team, CreatedAt: o.CreatedAt.UTC()}
	}
	return views, nil
}

// pathID reads an id of the path.
func pathID(r *http.Request, name, what string) (uuid.UUID, error) {
	id, err := parseID(r.PathValue(name))
	if err != nil {
		return id, invalid(name, "invalid "+what+" id")
	}
	return id, nil
}

// errForeign is the answer to who does not belong to an organisation, the same whether it
// exists or not.
func errForeign() *httpapi.Error {
	return httpapi.Fail(http.StatusForbidden, "you are not a member of this organisation")
}

// insider gives the caller's role in an organisation, OWNER for an ADMIN.
func (s *Service) insider(r *http.Request, p principal.Principal, org uuid.UUID) (string, error) {
	if p.Is(principal.RoleAdmin) {
		exists, err := s.store.orgExists(r.Context(), org)
		if err == nil && !exists {
			err = httpapi.Fail(http.StatusNotFound, "organisation not found")
		}
		return membership.Owner, err
	}
	id, err := parseID(p.UserID)
	if err != nil {
		return "", err
	}
	m, err := s.store.member(r.Context(), org, id)
	if errors.Is(err, errNotFound) {
		return "", errForeign()
	}
	return m.Role, err
}

// listMembers is GET /api/v1/orgs/{id}/members?after=&limit=, for members.
func (s *Service) listMembers(w http.ResponseWriter, r *http.Request, p principal.Principal) error {
	org, err := pathID(r, "id", "organisation")
	if err != nil {
		return err
	}
	if _, err := s.insider(r, p, org); err != nil {
		return err
	}
	after, err := queryValue(r, "after")
	if err != nil {
		return err
	}
	from, err := optionalID("after", after)
	if err != nil {
		return err
	}
	if from == nil {
		from = &uuid.Nil
	}
	limit, err := pageLimit(r)
	if err != nil {
		return err
	}
	rows, err := s.store.members(r.Context(), identitydb.MembersParams{OrgID: org, After: *from, Most: int32(limit)})
	if err != nil {
		return err
	}
	views := make([]memberView, len(rows))
	for i, m := range rows {
		views[i] = memberView{UserID: m.UserID, Username: m.Username, Role: m.Role, Team: m.Team, JoinedAt: m.JoinedAt.UTC()}
	}
	if len(rows) == limit {
		nextPage(w, r, url.Values{"after": {rows[limit-1].UserID.String()}, "limit": {strconv.Itoa(limit)}})
	}
	httpapi.WriteJSON(w, http.StatusOK, views)
	return nil
}

// renameOrg is PATCH /api/v1/orgs/{id} {name}, for an OWNER.
func (s *Service) renameOrg(w http.ResponseWriter, r *http.Request, p principal.Principal) error {
	org, err := pathID(r, "id", "organisation")
	if err != nil {
		return err
	}
	var body struct {
		Name *string `json:"name"`
	}
	if err := httpapi.ReadJSON(w, r, &body); err != nil {
		return err
	}
	if err := s.mustOwn(r, p, org); err != nil {
		return err
	}
	name, err := orgName(body.Name)
	if err != nil {
		return err
	}
	if err := s.store.renameOrg(r.Context(), org, name, ownerStill(p, org)); err != nil {
		return orgRefusal(err)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// orgName is a name that somebody gives an organisation.
func orgName(given *string) (string, error) {
	if given == nil || strings.TrimSpace(*given) == "" {
		return "", invalid("name", "name is required")
	}
	name := strings.TrimSpace(*given)
	if utf8.RuneCountInString(name) > maxOrgName || !printable(name) {
		return "", invalid("name", fmt.Sprintf("name must be at most %d characters without control characters", maxOrgName))
	}
	return name, nil
}

// setMember is POST /api/v1/orgs/{id}/members {userId or username or email, role, team}: 200 when a
// member got another role or team. For somebody new an OWNER's call is an invitation, which the user accepts or not
// (202); an ADMIN's makes the membership at once (201).
func (s *Service) setMember(w http.ResponseWriter, r *http.Request, p principal.Principal) error {
	org, err := pathID(r, "id", "organisation")
	if err != nil {
		return err
	}
	var body struct {
		handle

		Role string `json:"role"`
		Team string `json:"team"`
	}
	if err := httpapi.ReadJSON(w, r, &body); err != nil {
		return err
	}
	if err := s.mustOwn(r, p, org); err != nil {
		return err
	}
	var bad []httpapi.FieldError
	bad = append(bad, body.check()...)
	body.Team = strings.TrimSpace(body.Team)
	if bad = append(bad, checkMembership(body.Role, body.Team)...); len(bad) > 0 {
		return invalidFields(bad)
	}
	id, err := s.store.whoIs(r.Context(), body.handle)
	if err != nil {
		return orgRefusal(err)
	}
	m := identitydb.SetMemberParams{OrgID: org, UserID: id, Role: body.Role, Team: body.Team}
	done, err := s.store.setMember(r.Context(), m, p, ownerStill(p, org))
	if err != nil {
		return orgRefusal(err)
	}
	switch {
	case !done.invited.IsZero():
		httpapi.WriteJSON(w, http.StatusAccepted, orgInvitationView{OrgID: org, UserID: &id, Role: m.Role, Team: m.Team,
			Status: statusInvited, ExpiresAt: done.invited})
	case done.fresh:
		httpapi.WriteJSON(w, http.StatusCreated, memberView{UserID: id, Role: m.Role, Team: m.Team})
	default:
		httpapi.WriteJSON(w, http.StatusOK, memberView{UserID: id, Role: m.Role, Team: m.Team})
	}
	return nil
}

// handle names a user, in one way.
type handle struct {
	UserID   *string `json:"userId"`
	Username *string `json:"username"`
	Email    *string `json:"email"`
}

// check wants one way, and of an id its form.
func (h handle) check() []httpapi.FieldError {
	given := 0
	for _, text := range []*string{h.UserID, h.Username, h.Email} {
		if text != nil && *text != "" {
			given++
		}
	}
	if _, err := optionalID("userId", h.UserID); given != 1 || err != nil {
		return []httpapi.FieldError{{Field: "userId", Message: "name one user: userId must be an id, or give username or email"}}
	}
	return nil
}

// checkMembership looks at what somebody is to be in an organisation; no team is fine.
func checkMembership(role, team string) []httpapi.FieldError {
	var bad []httpapi.FieldError
	if role != membership.Owner && role != membership.Member {
		bad = append(bad, httpapi.FieldError{Field: "role", Message: "role must be OWNER or MEMBER"})
	}
	if team != "" && !teamShape.MatchString(team) {
		bad = append(bad, httpapi.FieldError{Field: "team", Message: "team must be 1 to 50 letters, digits, '.', '_' or '-'"})
	}
	return bad
}

// removeMember is DELETE /api/v1/orgs/{id}/members/{userId}: by an OWNER, or by the member themselves.
func (s *Service) removeMember(w http.ResponseWriter, r *http.Request, p principal.Principal) error {
	org, err := pathID(r, "id", "organisation")
	if err != nil {
		return err
	}
	id, err := pathID(r, "userId", "user")
	if err != nil {
		return err
	}
	may := ownerStill(p, org)
	if id.String() == p.UserID {
		if _, err := s.insider(r, p, org); err != nil {
			return err
		}
		may = func(context.Context, *identitydb.Queries) error { return nil }
	} else if err := s.mustOwn(r, p, org); err != nil {
		return err
	}
	if err := s.store.removeMember(r.Context(), org, id, may); err != nil {
		return orgRefusal(err)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Service) mustOwn(r *http.Request, p principal.Principal, org uuid.UUID) error {
	role, err := s.insider(r, p, org)
	if err == nil && role != membership.Owner {
		err = httpapi.Fail(http.StatusForbidden, "only an OWNER may change members")
	}
	return err
}

// ownerStill checks again within the transaction that the caller is an owner.
func ownerStill(p principal.Principal, org uuid.UUID) func(context.Context, *identitydb.Queries) error {
	return func(ctx context.Context, q *identitydb.Queries) error {
		if p.Is(principal.RoleAdmin) {
			return nil
		}
		id, err := parseID(p.UserID)
		if err != nil {
			return err
		}
		m, err := q.Membership(ctx, identitydb.MembershipParams{OrgID: org, UserID: id})
		if errors.Is(err, pgx.ErrNoRows) || err == nil && m.Role != membership.Owner {
			return errForeign()
		}
		return err
	}
}

func orgRefusal(err error) error {
	switch {
	case misspelt(err):
		return invalid("team", err.Error())
	case errors.Is(err, errNoTeam):
		return httpapi.Fail(http.StatusNotFound, "team not found")
	case errors.Is(err, errTeamInUse):
		return httpapi.Fail(http.StatusConflict, "%s", errTeamInUse.Error())
	case errors.Is(err, errTooManyTeams):
		return httpapi.Fail(http.StatusConflict, "an organisation may have at most %d teams", maxTeams)
	case errors.Is(err, errNoUser):
		return invalid("userId", "user not found")
	case errors.Is(err, errNotMember):
		return httpapi.Fail(http.StatusNotFound, "member not found")
	case errors.Is(err, errNotFound):
		return httpapi.Fail(http.StatusNotFound, "organisation not found")
	case errors.Is(err, errLastOwner):
		return httpapi.Fail(http.StatusConflict, "%s", errLastOwner.Error())
	case errors.Is(err, errTooManyInvitations):
		return httpapi.Fail(http.StatusConflict, "an organisation may have at most %d open invitations", maxOrgInvitations)
	case errors.Is(err, errTooMany):
		return httpapi.Fail(http.StatusConflict, "an organisation may have at most %d members", maxMembers)
	}
	return err
}

// lookMembership answers other services (see internal/contract/membership).
func (s *Service) lookMembership(ctx context.Context, org, id uuid.UUID) (membership.Answer, error) {
	if !s.prepared.Load() {
		return membership.Answer{}, errors.New("identity is starting")
	}
	m, err := s.store.member(ctx, org, id)
	if errors.Is(err, errNotFound) {
		return membership.Answer{}, nil
	}
	return membership.Answer{Member: err == nil, Role: m.Role, Team: m.Team}, err
}
