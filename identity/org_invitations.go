package identity

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/leaky-tokens/leaky-tokens/identity/audit"
	"github.com/leaky-tokens/leaky-tokens/identity/identitydb"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
)

// maxOrgInvitations is how many invitations of an organisation may be open.
const maxOrgInvitations = 1000

// orgInvitationView is a membership that waits for its user's consent. The organisation's owners
// see the user, the user sees the organisation.
type orgInvitationView struct {
	OrgID     uuid.UUID  `json:"orgId"`
	OrgName   string     `json:"orgName,omitzero"`
	InvitedBy string     `json:"invitedBy,omitzero"` // user name
	UserID    *uuid.UUID `json:"userId,omitempty"`
	Username  string     `json:"username,omitzero"`
	Role      string     `json:"role"`
	Team      string     `json:"team,omitzero"`
	Status    string     `json:"status"` // invited
	CreatedAt time.Time  `json:"createdAt,omitzero"`
	ExpiresAt time.Time  `json:"expiresAt"`
}

const statusInvited = "invited"

// invite keeps a membership until its user accepts it: nobody is put into an organisation, whose
// owners then see their usage, without their consent.
func (s store) invite(ctx context.Context, c *change, m identitydb.SetMemberParams, by uuid.UUID) (ends time.Time, err error) {
	open, err := c.CountOrgInvitations(ctx, m.OrgID)
	if err != nil {
		return ends, fmt.Errorf("count invitations: %w", err)
	}
	if open >= maxOrgInvitations {
		return ends, errTooManyInvitations
	}
	ends = time.Now().Add(invitationLife).UTC().Truncate(time.Microsecond)
	if err := c.SetOrgInvitation(ctx, identitydb.SetOrgInvitationParams{OrgID: m.OrgID, UserID: m.UserID, Role: m.Role, Team: m.Team,
		InvitedBy: by, ExpiresAt: ends}); err != nil {
		return ends, fmt.Errorf("store invitation: %w", err)
	}
	return ends, audit.Record(ctx, c, audit.Entry{Action: "org.member.invite", Target: m.OrgID.String(),
		Detail: map[string]string{"user": m.UserID.String(), "role": m.Role, "team": m.Team}})
}

// joinOrg makes somebody who is no member one. The organisation's row is locked by it.
func joinOrg(ctx context.Context, c *change, m identitydb.SetMemberParams) error {
	if _, err := found(c.LockOrg(ctx, m.OrgID)); err != nil {
		return err
	}
	n, err := c.CountMembers(ctx, m.OrgID)
	if err != nil {
		return fmt.Errorf("count members: %w", err)
	}
	if n >= maxMembers {
		return errTooMany
	}
	if err := c.SetMember(ctx, m); err != nil {
		return fmt.Errorf("store member: %w", err)
	}
	return nil
}

// listOrgInvitations is GET /api/v1/orgs/{id}/invitations, for an OWNER.
func (s *Service) listOrgInvitations(w http.ResponseWriter, r *http.Request, p principal.Principal) error {
	org, err := pathID(r, "id", "organisation")
	if err != nil {
		return err
	}
	if err := s.mustOwn(r, p, org); err != nil {
		return err
	}
	ctx, cancel, q := s.store.read(r.Context())
	defer cancel()
	rows, err := q.OrgInvitations(ctx, org)
	if err != nil {
		return fmt.Errorf("list invitations: %w", err)
	}
	views := make([]orgInvitationView, len(rows))
	for i, row := range rows {
		views[i] = orgInvitationView{OrgID: org, UserID: &row.UserID, Username: row.Username, Role: row.Role, Team: row.Team,
			Status: statusInvited, CreatedAt: row.CreatedAt.UTC(), ExpiresAt: row.ExpiresAt.UTC()}
	}
	httpapi.WriteJSON(w, http.StatusOK, views)
	return nil
}

// listOwnInvitations is GET /api/v1/orgs/invitations: those of the caller.
func (s *Service) listOwnInvitations(w http.ResponseWriter, r *http.Request, p principal.Principal) error {
	id, err := parseID(p.UserID)
	if err != nil {
		return err
	}
	ctx, cancel, q := s.store.read(r.Context())
	defer cancel()
	rows, err := q.OrgInvitationsOf(ctx, id)
	if err != nil {
		return fmt.Errorf("list invitations: %w", err)
	}
	views := make([]orgInvitationView, len(rows))
	for i, row := range rows {
		views[i] = orgInvitationView{OrgID: row.OrgID, OrgName: row.Name, InvitedBy: row.InvitedBy, Role: row.Role, Team: row.Team,
			Status: statusInvited, CreatedAt: row.CreatedAt.UTC(), ExpiresAt: row.ExpiresAt.UTC()}
	}
	httpapi.WriteJSON(w, http.StatusOK, views)
	return nil
}

// acceptInvitation is POST /api/v1/orgs/{id}/invitations/accept: the caller becomes a member.
func (s *Service) acceptInvitation(w http.ResponseWriter, r *http.Request, p principal.Principal) error {
	org, err := pathID(r, "id", "organisation")
	if err != nil {
		return err
	}
	id, err := parseID(p.UserID)
	if err != nil {
		return err
	}
	var taken identitydb.TakeOrgInvitationRow
	err = s.store.change(r.Context(), func(ctx context.Context, c *change) error {
		if _, err := found(c.LockOrg(ctx, org)); err != nil {
			return err
		}
		if taken, err = found(c.TakeOrgInvitation(ctx, identitydb.TakeOrgInvitationParams{OrgID: org, UserID: id})); err != nil {
			return err
		}
		m := identitydb.SetMemberParams{OrgID: org, UserID: id, Role: taken.Role, Team: taken.Team}
		if _, err := c.Membership(ctx, identitydb.MembershipParams{OrgID: org, UserID: id}); err == nil {
			return nil // an ADMIN was faster; what is so now stays
		} else if !errors.Is(err, pgx.ErrNoRows) {
			return fmt.Errorf("read membership: %w", err)
		}
		if err := joinOrg(ctx, c, m); err != nil {
			return err
		}
		return audit.Record(ctx, c, audit.Entry{Action: "org.member.accept", Target: org.String(),
			Detail: map[string]string{"user": id.String(), "role": m.Role, "team": m.Team}})
	})
	if errors.Is(err, errNotFound) {
		return httpapi.Fail(http.StatusNotFound, "there is no invitation to this organisation")
	}
	if err != nil {
		return orgRefusal(err)
	}
	httpapi.WriteJSON(w, http.StatusCreated, memberView{UserID: id, Role: taken.Role, Team: taken.Team})
	return nil
}

// dropInvitation is POST /api/v1/orgs/{id}/invitations/decline by the invited, and DELETE
// /api/v1/orgs/{id}/invitations/{userId} by an OWNER.
func (s *Service) dropInvitation(r *http.Request, org, id uuid.UUID) error {
	err := s.store.change(r.Context(), func(ctx context.Context, c *change) error {
		n, err := c.DropOrgInvitation(ctx, identitydb.DropOrgInvitationParams{OrgID: org, UserID: id})
		if err != nil {
			return fmt.Errorf("delete invitation: %w", err)
		}
		if n == 0 {
			return errNotFound
		}
		return audit.Record(ctx, c, audit.Entry{Action: "org.invitation.drop", Target: org.String(),
			Detail: map[string]string{"user": id.String()}})
	})
	if errors.Is(err, errNotFound) {
		return httpapi.Fail(http.StatusNotFound, "there is no such invitation")
	}
	return err
}

func (s *Service) declineInvitation(w http.ResponseWriter, r *http.Request, p principal.Principal) error {
	org, err := pathID(r, "id", "organisation")
	if err != nil {
		return err
	}
	id, err := parseID(p.UserID)
	if err != nil {
		return err
	}
	if err := s.dropInvitation(r, org, id); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Service) withdrawOrgInvitation(w http.ResponseWriter, r *http.Request, p principal.Principal) error {
	org, err := pathID(r, "id", "organisation")
	if err != nil {
		return err
	}
	id, err := pathID(r, "userId", "user")
	if err != nil {
		return err
	}
	if err := s.mustOwn(r, p, org); err != nil {
		return err
	}
	if err := s.dropInvitation(r, org, id); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
