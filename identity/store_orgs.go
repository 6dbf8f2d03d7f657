package identity

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/leaky-tokens/leaky-tokens/identity/audit"
	"github.com/leaky-tokens/leaky-tokens/identity/identitydb"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/membership"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
)

const (
	// maxOwned is how many organisations a user may own.
	maxOwned = 50
	// maxMembers is how many members an organisation may have.
	maxMembers = 10_000
)

var (
	errLastOwner   = errors.New("an organisation keeps at least one OWNER")
	errTooManyOrgs = errors.New("too many organisations")
	errTooMany     = errors.New("too many members")
	errNoUser      = errors.New("user not found")
)

// createOrg makes an organisation with its first OWNER.
func (s store) createOrg(ctx context.Context, org identitydb.AddOrgParams, owner uuid.UUID) error {
	return s.change(ctx, func(ctx context.Context, c *change) error {
		if _, err := found(c.LockUser(ctx, owner)); err != nil {
			return err
		}
		owned, err := c.CountOwned(ctx, owner)
		if err != nil {
			return fmt.Errorf("count organisations: %w", err)
		}
		if owned >= maxOwned {
			return errTooManyOrgs
		}
		if err := c.AddOrg(ctx, org); err != nil {
			return fmt.Errorf("insert organisation: %w", err)
		}
		if err := c.SetMember(ctx, identitydb.SetMemberParams{OrgID: org.ID, UserID: owner, Role: membership.Owner}); err != nil {
			return fmt.Errorf("insert member: %w", err)
		}
		return audit.Record(ctx, c, audit.Entry{Action: "org.create", Target: org.ID.String(), Detail: map[string]string{"name": org.Name}})
	})
}

func (s store) renameOrg(ctx context.Context, org uuid.UUID, name string, ask may) error {
	return s.change(ctx, func(ctx context.Context, c *change) error {
		if _, err := found(c.LockOrg(ctx, org)); err != nil {
			return err
		}
		if err := ask(ctx, c.Queries); err != nil {
			return err
		}
		if _, err := c.RenameOrg(ctx, identitydb.RenameOrgParams{ID: org, Name: name}); err != nil {
			return fmt.Errorf("rename organisation: %w", err)
		}
		return audit.Record(ctx, c, audit.Entry{Action: "org.rename", Target: org.String(), Detail: map[string]string{"name": name}})
	})
}

// whoIs finds a user by what they are called; errNoUser when nobody is called so.
func (s store) whoIs(ctx context.Context, h handle) (id uuid.UUID, err error) {
	ctx, cancel, q := s.read(ctx)
	defer cancel()
	switch {
	case h.Username != nil && *h.Username != "":
		id, err = q.UserIDByName(ctx, strings.TrimSpace(*h.Username))
	case h.Email != nil && *h.Email != "":
		id, err = q.UserIDByEmail(ctx, strings.TrimSpace(*h.Email))
	case h.UserID != nil:
		return parseID(*h.UserID)
	}
	if errors.Is(err, pgx.ErrNoRows) {
		return id, errNoUser
	}
	if err != nil {
		return id, fmt.Errorf("look for user: %w", err)
	}
	return id, nil
}

func (s store) orgsOf(ctx context.Context, id uuid.UUID) ([]identitydb.OrgsOfRow, error) {
	ctx, cancel, q := s.read(ctx)
	defer cancel()
	rows, err := q.OrgsOf(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("list organisations: %w", err)
	}
	return rows, nil
}

func (s store) orgExists(ctx context.Context, id uuid.UUID) (bool, error) {
	ctx, cancel, q := s.read(ctx)
	defer cancel()
	exists, err := q.OrgExists(ctx, id)
	if err != nil {
		return false, fmt.Errorf("look for organisation: %w", err)
	}
	return exists, nil
}

// member finds a membership; errNotFound when there is none.
func (s store) member(ctx context.Context, org, id uuid.UUID) (identitydb.MembershipRow, error) {
	ctx, cancel, q := s.read(ctx)
	defer cancel()
	return found(q.Membership(ctx, identitydb.MembershipParams{OrgID: org, UserID: id}))
}

func (s store) members(ctx context.Context, which identitydb.MembersParams) ([]identitydb.MembersRow, error) {
	ctx, cancel, q := s.read(ctx)
	defer cancel()
	rows, err := q.Members(ctx, which)
	if err != nil {
		return nil, fmt.Errorf("list members: %w", err)
	}
	return rows, nil
}

// memberChange is what became of a call that sets a member.
type memberChange struct {
	fresh   bool      // a member now, and none before
	invited time.Time // only invited, until then
}

// setMember changes a member's role and team, invites who is none or, for an ADMIN, adds them. may
// is asked within the transaction, so that an owner who is being removed adds nobody.
func (s store) setMember(ctx context.Context, m identitydb.SetMemberParams, p principal.Principal, may func(context.Context,
	*identitydb.Queries) error) (done memberChange, err error) {
	err = s.change(ctx, func(ctx context.Context, c *change) error {
		if _, err := found(c.LockOrg(ctx, m.OrgID)); err != nil {
			return err
		}
		if err := may(ctx, c.Queries); err != nil {
			return err
		}
		if err := knownTeam(ctx, c, m.OrgID, m.Team); err != nil {
			return err
		}
		if _, err := found(c.LockUser(ctx, m.UserID)); errors.Is(err, errNotFound) {
			return errNoUser
		} else if err != nil {
			return err
		}
		old, err := c.Membership(ctx, identitydb.MembershipParams{OrgID: m.OrgID, UserID: m.UserID})
		fresh := errors.Is(err, pgx.ErrNoRows)
		switch {
		case err != nil && !fresh:
			return fmt.Errorf("read membership: %w", err)
		case fresh && !p.Is(principal.RoleAdmin):
			by, err := parseID(p.UserID)
			if err != nil {
				return err
			}
			done.invited, err = s.invite(ctx, c, m, by)
			return err
		case fresh:
			done.fresh = true
			err = joinOrg(ctx, c, m)
		default:
			err = s.changeMember(ctx, c, m, old)
		}
		if err != nil {
			return err
		}
		return audit.Record(ctx, c, audit.Entry{Action: "org.member.set", Target: m.OrgID.String(),
			Detail: map[string]string{"user": m.UserID.String(), "role": m.Role, "team": m.Team}})
	})
	return done, err
}

// changeMember gives a member another role or team.
func (s store) changeMember(ctx context.Context, c *change, m identitydb.SetMemberParams, old identitydb.MembershipRow) error {
	if err := c.SetMember(ctx, m); err != nil {
		return fmt.Errorf("store member: %w", err)
	}
	if err := keepOwner(ctx, c, m.OrgID); err != nil || old.Team == m.Team {
		return err
	}
	return s.forget(ctx, c, m.UserID)
}

// forget makes every extauthz look a user's keys up again. Their tokens stay good.
func (s store) forget(ctx context.Context, c *change, id uuid.UUID) error {
	u, err := found(c.UserByID(ctx, id))
	if err != nil {
		return err
	}
	c.revoked = append(c.revoked, s.ofUser(id, u.Generation))
	return nil
}

func keepOwner(ctx context.Context, c *change, org uuid.UUID) error {
	owners, err := c.CountOwners(ctx, org)
	if err != nil {
		return fmt.Errorf("count owners: %w", err)
	}
	if owners == 0 {
		return errLastOwner
	}
	return nil
}

// removeMember ends a membership and every credential that acts for the organisation in
// their name. Their other logins go on, with new access tokens.
func (s store) removeMember(ctx context.Context, org, id uuid.UUID, may func(context.Context, *identitydb.Queries) error) error {
	return s.change(ctx, func(ctx context.Context, c *change) error {
		if _, err := found(c.LockOrg(ctx, org)); err != nil {
			return err
		}
		if err := may(ctx, c.Queries); err != nil {
			return err
		}
		if err := s.leaveOrg(ctx, c, org, id); err != nil {
			return err
		}
		return keepOwner(ctx, c, org)
	})
}

// leaveOrg is removeMember within a transaction; errNotMember if they are none.
func (s store) leaveOrg(ctx context.Context, c *change, org, id uuid.UUID) error {
	n, err := c.DeleteMember(ctx, identitydb.DeleteMemberParams{OrgID: org, UserID: id})
	if err != nil {
		return fmt.Errorf("delete member: %w", err)
	}
	if n == 0 {
		return errNotMember
	}
	keys, err := c.DeleteMemberKeys(ctx, identitydb.DeleteMemberKeysParams{UserID: id, OrgID: org})
	if err != nil {
		return fmt.Errorf("delete keys of member: %w", err)
	}
	for _, k := range keys {
		c.revoked = append(c.revoked, ofKey(k.KeyValue))
	}
	families, err := s.grants.EndOfMember(ctx, c, id, org, "left the organisation")
	if err != nil {
		return err
	}
	generation, err := found(c.NextGeneration(ctx, id))
	if err != nil {
		return err
	}
	c.revoked = append(append(c.revoked, families...), s.ofUser(id, generation))
	return audit.Record(ctx, c, audit.Entry{Action: "org.member.remove", Target: org.String(),
		Detail: map[string]string{"user": id.String(), "keys": fmt.Sprint(len(keys))}})
}
