package identity

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/leaky-tokens/leaky-tokens/identity/audit"
	"github.com/leaky-tokens/leaky-tokens/identity/identitydb"
	"github.com/leaky-tokens/leaky-tokens/identity/upstream"
	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/membership"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
)

// place is what somebody's groups make of them. What no entry of auth.upstreams[].groups speaks of is
// left as it is.
type place struct {
	roles []string // nil: as they are
	team  *string  // nil: as it is
	role  string   // in the organisation; empty: as it is
}

// placeOf reads groups by the entries of the configuration.
func placeOf(u config.AuthUpstream, groups []string) (p place) {
	groups = slices.Sorted(slices.Values(groups)) // of several that fit one entry, always the same one
	for _, entry := range u.Groups {
		prefix, wild := strings.CutSuffix(entry.Group, "*")
		fits := func(group string) bool { return group == entry.Group || wild && strings.HasPrefix(group, prefix) }
		if entry.Role != "" && p.roles == nil {
			p.roles = []string{principal.RoleUser}
		}
		if entry.Role != "" && slices.ContainsFunc(groups, fits) && !slices.Contains(p.roles, entry.Role) {
			p.roles = append(p.roles, entry.Role)
		}
		if entry.Owner && p.role != membership.Owner {
			p.role = membership.Member
			if slices.ContainsFunc(groups, fits) {
				p.role = membership.Owner
			}
		}
		if entry.Team == "" {
			continue
		}
		if p.team == nil {
			p.team = new(string)
		}
		if *p.team == "" {
			*p.team = teamOf(entry.Team, prefix, slices.DeleteFunc(slices.Clone(groups), func(group string) bool { return !fits(group) }))
		}
	}
	slices.Sort(p.roles)
	return p
}

// teamOf is the team of an entry for who is in groups that fit it; * is what comes behind the prefix. It
// is empty where none of that is a team's name.
func teamOf(team, prefix string, groups []string) string {
	for _, group := range groups {
		name := team
		if team == "*" {
			name = strings.TrimPrefix(group, prefix)
		}
		if teamShape.MatchString(name) {
			return name
		}
	}
	return ""
}

// followed is an account whose provider has just said what it is.
type followed struct {
	user   uuid.UUID
	org    *uuid.UUID // that the provider put them into before
	says   config.AuthUpstream
	groups []string
	// refresh asks the provider about them again, sealed; nil: it cannot be asked.
	refresh []byte
}

// follow makes of an account what its provider says: roles, organisation and team.
func (s store) follow(ctx context.Context, c *change, f followed) error {
	p := placeOf(f.says, f.groups)
	org, err := orgOf(ctx, c, f.says) // the organisation is locked before its members, as everywhere
	if err != nil {
		return err
	}
	if err := s.followRoles(ctx, c, f.user, p.roles); err != nil {
		return err
	}
	if f.org != nil && (org == nil || *org != *f.org) {
		if err := s.leaveOrg(ctx, c, *f.org, f.user); err != nil && !errors.Is(err, errNotMember) {
			return err
		}
	}
	if org != nil {
		if err := s.followOrg(ctx, c, *org, f.user, p); err != nil {
			return err
		}
	}
	err = c.ConfirmUpstreamUser(ctx, identitydb.ConfirmUpstreamUserParams{UserID: f.user, OrgID: org, RefreshToken: f.refresh})
	if err != nil {
		return fmt.Errorf("confirm upstream user: %w", err)
	}
	return nil
}

// followRoles gives an account the roles of its groups. The last ADMIN keeps theirs: a provider that
// forgot its groups must not lock everybody out.
func (s store) followRoles(ctx context.Context, c *change, id uuid.UUID, roles []string) error {
	u, err := found(c.UserByID(ctx, id))
	if err != nil || roles == nil || slices.Equal(u.Roles, roles) {
		return err
	}
	before := len(c.revoked)
	err = pgx.BeginFunc(ctx, c.Tx, func(pgx.Tx) error { return s.replaceRoles(ctx, c, id, roles) })
	if errors.Is(err, errLastAdmin) {
		c.revoked = c.revoked[:before]
		return audit.Record(ctx, c, audit.Entry{Action: "user.roles", Target: id.String(), Outcome: audit.Failure,
			Detail: map[string]string{"why": errLastAdmin.Error()}})
	}
	return err
}

// orgOf is the organisation of a provider's people, made at the first login; nil where it has none.
// errNotFound where it is named by an id that is gone.
//
// One that somebody else gave the same name is not it: its owner would own the company.
func orgOf(ctx context.Context, c *change, u config.AuthUpstream) (*uuid.UUID, error) {
	if u.Organisation == "" {
		return nil, nil
	}
	if id, err := uuid.Parse(u.Organisation); err == nil {
		_, err := found(c.LockOrg(ctx, id))
		return &id, err
	}
	id, err := c.UpstreamOrg(ctx, identitydb.UpstreamOrgParams{Issuer: u.Issuer, Name: u.Organisation})
	if err == nil {
		_, err := found(c.LockOrg(ctx, id))
		return &id, err
	}
	if !errors.Is(err, pgx.ErrNoRows) {
		return nil, fmt.Errorf("look for organisation: %w", err)
	}
	org := identitydb.AddOrgParams{ID: uuid.New(), Name: u.Organisation, CreatedAt: time.Now().UTC().Truncate(time.Microsecond)}
	if err := c.AddOrg(ctx, org); err != nil {
		return nil, fmt.Errorf("insert organisation: %w", err)
	}
	n, err := c.AddUpstreamOrg(ctx, identitydb.AddUpstreamOrgParams{Issuer: u.Issuer, Name: u.Organisation, OrgID: org.ID})
	if err != nil {
		return nil, fmt.Errorf("insert upstream organisation: %w", err)
	}
	if n == 0 {
		return nil, errSameTime
	}
	return &org.ID, audit.Record(ctx, c, audit.Entry{Action: "org.create", Target: org.ID.String(),
		Detail: map[string]string{"name": org.Name, "upstream": u.Name}})
}

// followOrg makes somebody the member that their groups say. The organisation's row is locked.
func (s store) followOrg(ctx context.Context, c *change, org, id uuid.UUID, p place) error {
	old, err := c.Membership(ctx, identitydb.MembershipParams{OrgID: org, UserID: id})
	fresh := errors.Is(err, pgx.ErrNoRows)
	if err != nil && !fresh {
		return fmt.Errorf("read membership: %w", err)
	}
	m := identitydb.SetMemberParams{OrgID: org, UserID: id, Role: old.Role, Team: old.Team}
	if p.role != "" || fresh {
		m.Role = membership.Member
	}
	if p.role != "" {
		m.Role = p.role
	}
	if p.team != nil {
		m.Team = *p.team
	}
	if !fresh && m.Role == old.Role && m.Team == old.Team {
		return nil
	}
	if m.Team != "" {
		if _, err := ensureTeam(ctx, c, org, m.Team); err != nil {
			return err
		}
	}
	if fresh {
		err = joinOrg(ctx, c, m)
	} else if err = c.SetMember(ctx, m); err == nil && m.Team != old.Team {
		err = s.forget(ctx, c, id)
	}
	if err != nil {
		return err
	}
	return audit.Record(ctx, c, audit.Entry{Action: "org.member.set", Target: org.String(),
		Detail: map[string]string{"user": id.String(), "role": m.Role, "team": m.Team}})
}

// kept tells a person why they are kept out.
func kept(who upstream.Person, err error) error {
	switch {
	case errors.Is(err, errDisabled):
		return &upstream.Refused{Message: "Your account is disabled. Ask your administrator.", Detail: who.Upstream + ": " + err.Error()}
	case errors.Is(err, errNotFound):
		return &upstream.Refused{Message: "The organisation of " + who.Upstream + " is not there any more. Tell your administrator.",
			Detail: who.Upstream + ": auth.upstreams[].organisation is an id that no organisation has"}
	case errors.Is(err, errTooMany), errors.Is(err, errTooManyTeams):
		return &upstream.Refused{Message: "The organisation of " + who.Upstream + " is full. Tell your administrator.",
			Detail: who.Upstream + ": its organisation has " + err.Error()}
	}
	return err
}
