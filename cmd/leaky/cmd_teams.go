package main

import (
	"context"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/client"
	"github.com/leaky-tokens/leaky-tokens/client/api"
)

// setMember adds somebody by name, e-mail or id, or changes their role and team.
func setMember(ctx context.Context, admin *client.Client, org uuid.UUID, user, role, team string) error {
	in := api.MemberRequest{Role: api.MemberRequestRole(role), Team: &team}
	switch id, err := uuid.Parse(user); {
	case err == nil:
		in.UserID = &id
	case strings.Contains(user, "@"):
		in.Email = &user
	default:
		in.Username = &user
	}
	_, err := admin.SetMemberWithResponse(ctx, org, in)
	return told(err)
}

// teamsCommand is `leaky teams`: the teams of an organisation.
type teamsCommand struct {
	List   teamsList   `cmd:"" help:"List the teams of an organisation."`
	Create teamsCreate `cmd:"" help:"Make a team."`
	Delete teamsDelete `cmd:"" help:"Delete a team that has no members."`
}

type teamsList struct {
	output
	Org string `arg:"" help:"Name or id of the organisation."`
}

// Help shows how it is used.
func (teamsList) Help() string { return "Examples:\n\n    leaky teams list \"Acme Corp\"" }

// Run prints the teams.
func (c teamsList) Run(ctx context.Context, root *cli) error {
	admin, err := openAdmin(root)
	if err != nil {
		return err
	}
	org, err := orgNamed(ctx, admin, c.Org)
	if err != nil {
		return err
	}
	got, err := admin.ListTeamsWithResponse(ctx, org.ID)
	if err != nil {
		return told(err)
	}
	all, err := client.Answer(got.JSON200)
	if err != nil {
		return err
	}
	rows := make([][]string, len(all))
	for i, t := range all {
		rows[i] = []string{t.Name, strconv.FormatInt(t.Members, 10), t.CreatedAt.Format(time.DateOnly)}
	}
	return c.print(os.Stdout, all, []string{"TEAM", "MEMBERS", "CREATED"}, rows)
}

type teamsCreate struct {
	output
	Org  string `arg:"" help:"Name or id of the organisation."`
	Name string `arg:"" help:"1 to 50 letters, digits, dots, underscores or dashes."`
}

// Help shows how it is used.
func (teamsCreate) Help() string { return "Examples:\n\n    leaky teams create \"Acme Corp\" search" }

// Run makes the team.
func (c teamsCreate) Run(ctx context.Context, root *cli) error {
	admin, err := openAdmin(root)
	if err != nil {
		return err
	}
	org, err := orgNamed(ctx, admin, c.Org)
	if err != nil {
		return err
	}
	if _, err := admin.CreateTeamWithResponse(ctx, org.ID, api.TeamRequest{Name: c.Name}); err != nil {
		return told(err)
	}
	return c.print(os.Stdout, map[string]string{"organisation": org.Name, "team": c.Name}, []string{"ORGANISATION", "TEAM"},
		[][]string{{org.Name, c.Name}})
}

type teamsDelete struct {
	output
	Org  string `arg:"" help:"Name or id of the organisation."`
	Name string `arg:"" help:"Team."`
}

// Help shows how it is used.
func (teamsDelete) Help() string { return "Examples:\n\n    leaky teams delete \"Acme Corp\" search" }

// Run deletes the team.
func (c teamsDelete) Run(ctx context.Context, root *cli) error {
	admin, err := openAdmin(root)
	if err != nil {
		return err
	}
	org, err := orgNamed(ctx, admin, c.Org)
	if err != nil {
		return err
	}
	if _, err := admin.DeleteTeamWithResponse(ctx, org.ID, c.Name); err != nil {
		return told(err)
	}
	return c.print(os.Stdout, map[string]string{"deleted": c.Name}, []string{"DELETED"}, [][]string{{c.Name}})
}

// usersCommand is `leaky users`.
type usersCommand struct {
	List usersList `cmd:"" help:"List the users."`
}

type usersList struct {
	output
	Query string `short:"q" help:"Part of a name or an e-mail address."`
}

// Help shows how it is used.
func (usersList) Help() string {
	return "Examples:\n\n    leaky users list\n    leaky users list -q @example.org -o json"
}

// Run prints the users by name.
func (c usersList) Run(ctx context.Context, root *cli) error {
	admin, err := openAdmin(root)
	if err != nil {
		return err
	}
	all, err := usersLike(ctx, admin, c.Query)
	if err != nil {
		return err
	}
	rows := make([][]string, len(all))
	for i, u := range all {
		state := "enabled"
		if !u.DisabledAt.IsZero() {
			state = "disabled"
		}
		rows[i] = []string{u.ID.String(), u.Username, u.Email, strings.Join(u.Roles, ","), u.Tier, state}
	}
	return c.print(os.Stdout, all, []string{"USER", "NAME", "E-MAIL", "ROLES", "TIER", "STATE"}, rows)
}

// usersLike are the users with a part of a name or an e-mail address, by name, page by page from the
// service; all of them for an empty one.
func usersLike(ctx context.Context, admin *client.Client, query string) ([]api.User, error) {
	all := []api.User{}
	for after := ""; ; {
		params := &api.ListUsersParams{Q: &query, Limit: new(api.PageLimit(mostOfPage))}
		if after != "" {
			params.After = &after
		}
		got, err := admin.ListUsersWithResponse(ctx, params)
		if err != nil {
			return nil, told(err)
		}
		page, err := client.Answer(got.JSON200)
		if err != nil {
			return nil, err
		}
		if all = append(all, page...); len(page) < mostOfPage {
			return all, nil
		}
		after = page[len(page)-1].Username
	}
}
