package identity

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/leaky-tokens/leaky-tokens/identity/audit"
	"github.com/leaky-tokens/leaky-tokens/identity/identitydb"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/membership"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
)

const (
	invitationLife = 7 * 24 * time.Hour  // unless its maker says otherwise
	longestLife    = 90 * 24 * time.Hour // of an invitation
	maxInvitations = 10_000              // open at once
	codePrefix     = "leaky_inv_"
)

var (
	errBadInvitation      = errors.New("the invitation is unknown, used, expired or for another e-mail address")
	errTooManyInvitations = errors.New("too many open invitations")
)

// invitationView is an invitation to register, as administrators see it.
type invitationView struct {
	ID        uuid.UUID  `json:"id"`
	Code      string     `json:"code,omitzero"` // shown once, when it was made
	Email     string     `json:"email,omitzero"`
	OrgID     *uuid.UUID `json:"orgId"` // which the new account joins
	Role      string     `json:"role,omitzero"`
	Team      string     `json:"team,omitzero"`
	CreatedAt time.Time  `json:"createdAt"`
	ExpiresAt time.Time  `json:"expiresAt"`
}

// createInvitation is POST /api/v1/admin/invitations {email, orgId, role, team, expiresAt}, all of
// them optional. Its code makes one account, which joins the organisation.
func (s *Service) createInvitation(w http.ResponseWriter, r *http.Request, p principal.Principal) error {
	var body struct {
		Email     string  `json:"email"`
		OrgID     *string `json:"orgId"`
		Role      string  `json:"role"`
		Team      string  `json:"team"`
		ExpiresAt *string `json:"expiresAt"`
	}
	if err := httpapi.ReadJSON(w, r, &body); err != nil {
		return err
	}
	now := time.Now().UTC().Truncate(time.Microsecond)
	ends, err := expiry(body.ExpiresAt, now)
	if err != nil {
		return err
	}
	if ends == nil {
		at := now.Add(invitationLife)
		ends = &at
	}
	if ends.After(now.Add(longestLife)) {
		return invalid("expiresAt", "expiresAt must be within 90 days")
	}
	org, err := optionalID("orgId", body.OrgID)
	if err != nil {
		return err
	}
	email := strings.TrimSpace(body.Email)
	if bad := checkEmail(email); email != "" && len(bad) > 0 {
		return invalidFields(bad)
	}
	if body.Role == "" {
		body.Role = membership.Member
	}
	if bad := checkMembership(body.Role, body.Team); len(bad) > 0 {
		return invalidFields(bad)
	}
	maker, err := parseID(p.UserID)
	if err != nil {
		return err
	}
	code := codePrefix + strings.ToLower(rand.Text())
	row := identitydb.AddInvitationParams{ID: uuid.New(), CodeHash: codeHash(code), Email: email, OrgID: org, Role: body.Role,
		Team: body.Team, CreatedBy: maker, CreatedAt: now, ExpiresAt: *ends}
	switch err := s.store.addInvitation(r.Context(), row); {
	case errors.Is(err, errNotFound):
		return invalid("orgId", "organisation not found")
	case misspelt(err):
		return orgRefusal(err)
	case errors.Is(err, errTooManyInvitations):
		return httpapi.Fail(http.StatusConflict, "at most %d invitations may be open: withdraw some first", maxInvitations)
	case err != nil:
		return err
	}
	return writeSecret(w, http.StatusCreated, invitationView{ID: row.ID, Code: code, Email: email, OrgID: org, Role: row.Role, Team: row.Team,
		CreatedAt: now, ExpiresAt: *ends})
}

// codeHash is what is stored: 130 random bits need no slow hash.
func codeHash(code string) []byte {
	sum := sha256.Sum256([]byte(code))
	return sum[:]
}

func (s store) addInvitation(ctx context.Context, row identitydb.AddInvitationParams) error {
	return s.change(ctx, func(ctx context.Context, c *change) error {
		if row.OrgID != nil {
			if _, err := found(c.LockOrg(ctx, *row.OrgID)); err != nil {
				return err
			}
			if err := knownTeam(ctx, c, *row.OrgID, row.Team); err != nil {
				return err
			}
		}
		open, err := c.CountInvitations(ctx)
		if err != nil {
			return fmt.Errorf("count invitations: %w", err)
		}
		if open >= maxInvitations {
			return errTooManyInvitations
		}
		if err := c.AddInvitation(ctx, row); err != nil {
			return fmt.Errorf("insert invitation: %w", err)
		}
		detail := map[string]string{"email": row.Email}
		if row.OrgID != nil {
			detail["org"] = row.OrgID.String()
		}
		return audit.Record(ctx, c, audit.Entry{Action: "invitation.create", Target: row.ID.String(), Detail: detail})
	})
}

// listInvitations is GET /api/v1/admin/invitations?limit=: those that may still be used, newest first.
func (s *Service) listInvitations(w http.ResponseWriter, r *http.Request, _ principal.Principal) error {
	limit, err := pageLimit(r)
	if err != nil {
		return err
	}
	ctx, cancel, q := s.store.read(r.Context())
	defer cancel()
	rows, err := q.Invitations(ctx, int32(limit))
	if err != nil {
		return fmt.Errorf("list invitations: %w", err)
	}
	views := make([]invitationView, len(rows))
	for i, row := range rows {
		views[i] = invitationView{ID: row.ID, Email: row.Email, OrgID: row.OrgID, Role: row.Role, Team: row.Team,
			CreatedAt: row.CreatedAt.UTC(), ExpiresAt: row.ExpiresAt.UTC()}
	}
	httpapi.WriteJSON(w, http.StatusOK, views)
	return nil
}

// withdrawInvitation is DELETE /api/v1/admin/invitations/{id}.
func (s *Service) withdrawInvitation(w http.ResponseWriter, r *http.Request, _ principal.Principal) error {
	id, err := pathID(r, "id", "invitation")
	if err != nil {
		return err
	}
	err = s.store.change(r.Context(), func(ctx context.Context, c *change) error {
		n, err := c.DeleteInvitation(ctx, id)
		if err != nil {
			return fmt.Errorf("delete invitation: %w", err)
		}
		if n == 0 {
			return errNotFound
		}
		return audit.Record(ctx, c, audit.Entry{Action: "invitation.withdraw", Target: id.String()})
	})
	if errors.Is(err, errNotFound) {
		return httpapi.Fail(http.StatusNotFound, "invitation not found")
	}
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// useInvitation spends the code that a new user came with, if they came with one, within the
// transaction that makes their account: of many at once, one gets it.
func useInvitation(ctx context.Context, c *change, code string, u user) error {
	if code == "" {
		return nil
	}
	row, err := c.LockInvitation(ctx, codeHash(code))
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return errBadInvitation
	case err != nil:
		return fmt.Errorf("read invitation: %w", err)
	case row.UsedAt != nil || !time.Now().Before(row.ExpiresAt) || row.Email != "" && !strings.EqualFold(row.Email, u.Email):
		return errBadInvitation
	}
	if err := c.UseInvitation(ctx, identitydb.UseInvitationParams{ID: row.ID, UsedBy: &u.ID}); err != nil {
		return fmt.Errorf("use invitation: %w", err)
	}
	if row.OrgID != nil {
		if err := joinOrg(ctx, c, identitydb.SetMemberParams{OrgID: *row.OrgID, UserID: u.ID, Role: row.Role, Team: row.Team}); err != nil {
			return err
		}
	}
	return audit.Record(ctx, c, audit.Entry{Actor: u.ID.String(), Action: "invitation.use", Target: row.ID.String()})
}
