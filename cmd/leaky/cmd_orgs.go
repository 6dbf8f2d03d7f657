package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/client"
	"github.com/leaky-tokens/leaky-tokens/client/api"
)

// orgsCommand is `leaky orgs`: organisations and their members.
type orgsCommand struct {
	List    orgsList    `cmd:"" help:"List everybody's organisations."`
	Create  orgsCreate  `cmd:"" help:"Make an organisation; the administrator is its first OWNER."`
	Rename  orgsRename  `cmd:"" help:"Give an organisation another name."`
	Members orgsMembers `cmd:"" help:"List the members of an organisation."`
	Add     orgsAdd     `cmd:"" help:"Add somebody, or give a member another role or team."`
	Remove  orgsRemove  `cmd:"" help:"Remove a member; keys and logins for the organisation end."`
}

// mostOfPage is the largest page of a listing.
const mostOfPage = 1000

// allOrgs are all organisations, page by page from the service.
func allOrgs(ctx context.Context, admin *client.Client) ([]api.OrganisationSummary, error) {
	all := []api.OrganisationSummary{}
	for after := uuid.Nil; ; {
		got, err := admin.ListAllOrganisationsWithResponse(ctx, &api.ListAllOrganisationsParams{After: &after,
			Limit: new(api.PageLimit(mostOfPage))})
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
		after = page[len(page)-1].ID
	}
}

// orgNamed finds an organisation by id or by name; two of one name are refused.
func orgNamed(ctx context.Context, admin *client.Client, text string) (api.OrganisationSummary, error) {
	var found []api.OrganisationSummary
	all, err := allOrgs(ctx, admin)
	if err != nil {
		return api.OrganisationSummary{}, err
	}
	for _, o := range all {
		if o.Name == text || o.ID.String() == text {
			found = append(found, o)
		}
	}
	switch len(found) {
	case 0:
		return api.OrganisationSummary{}, fmt.Errorf("no organisation is called %q; `leaky orgs list` lists them", text)
	case 1:
		return found[0], nil
	}
	return found[0], fmt.Errorf("%d organisations are called %q: write the id", len(found), text)
}

type orgsList struct{ output }

// Help shows how it is used.
func (orgsList) Help() string { return "Examples:\n\n    leaky orgs list" }

// Run prints all organisations.
func (c orgsList) Run(ctx context.Context, root *cli) error {
	admin, err := openAdmin(root)
	if err != nil {
		return err
	}
	all, err := allOrgs(ctx, admin)
	if err != nil {
		return err
	}
	rows := make([][]string, len(all))
	for i, o := range all {
		rows[i] = []string{o.ID.String(), o.Name, strconv.FormatInt(o.Members, 10), o.CreatedAt.Format(time.DateOnly)}
	}
	return c.print(os.Stdout, all, []string{"ORGANISATION", "NAME", "MEMBERS", "CREATED"}, rows)
}

type orgsCreate struct {
	output
	Name string `arg:"" help:"At most 100 characters."`
}

// Help shows how it is used.
func (orgsCreate) Help() string { return "Examples:\n\n    leaky orgs create \"Acme Corp\"" }

// Run makes the organisation and prints it.
func (c orgsCreate) Run(ctx context.Context, root *cli) error {
	admin, err := openAdmin(root)
	if err != nil {
		return err
	}
	got, err := admin.CreateOrganisationWithResponse(ctx, api.OrganisationRequest{Name: c.Name})
	if err != nil {
		return told(err)
	}
	made, err := client.Answer(got.JSON201)
	if err != nil {
		return err
	}
	return c.print(os.Stdout, made, []string{"ORGANISATION", "NAME"}, [][]string{{made.ID.String(), made.Name}})
}

type orgsRename struct {
	output
	Org  string `arg:"" help:"Name or id."`
	Name string `arg:"" help:"The new name."`
}

// Help shows how it is used.
func (orgsRename) Help() string { return "Examples:\n\n    leaky orgs rename Acme \"Acme Corp\"" }

// Run renames the organisation.
func (c orgsRename) Run(ctx context.Context, root *cli) error {
	admin, err := openAdmin(root)
	if err != nil {
		return err
	}
	org, err := orgNamed(ctx, admin, c.Org)
	if err != nil {
		return err
	}
	if _, err := admin.RenameOrganisationWithResponse(ctx, org.ID, api.OrganisationRequest{Name: c.Name}); err != nil {
		return told(err)
	}
	org.Name = c.Name
	return c.print(os.Stdout, org, []string{"ORGANISATION", "NAME"}, [][]string{{org.ID.String(), org.Name}})
}

type orgsMembers struct {
	output
	Org string `arg:"" help:"Name or id."`
}

// Help shows how it is used.
func (orgsMembers) Help() string { return "Examples:\n\n    leaky orgs members \"Acme Corp\"" }

// Run prints the members.
func (c orgsMembers) Run(ctx context.Context, root *cli) error {
	admin, err := openAdmin(root)
	if err != nil {
		return err
	}
	org, err := orgNamed(ctx, admin, c.Org)
	if err != nil {
		return err
	}
	all, err := membersOf(ctx, admin, org.ID)
	if err != nil {
		return err
	}
	rows := make([][]string, len(all))
	for i, m := range all {
		rows[i] = []string{m.UserID.String(), m.Username, m.Role, orDash(m.Team), m.JoinedAt.Format(time.DateOnly)}
	}
	return c.print(os.Stdout, all, []string{"USER", "NAME", "ROLE", "TEAM", "SINCE"}, rows)
}

// membersOf are all members of an organisation.
func membersOf(ctx context.Context, admin *client.Client, org uuid.UUID) ([]api.Member, error) {
	all := []api.Member{}
	for after := uuid.Nil; ; {
		got, err := admin.ListMembersWithResponse(ctx, org, &api.ListMembersParams{After: &after, Limit: new(api.PageLimit(mostOfPage))})
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
		after = page[len(page)-1].UserID
	}
}

type orgsAdd struct {
	output
	Org  string `arg:"" help:"Name or id."`
	User string `arg:"" help:"User name, e-mail or id."`
	Role string `enum:"MEMBER,OWNER" default:"MEMBER" help:"${enum}."`
	Team string `help:"One that was made (leaky teams create)."`
}

// Help shows how it is used.
func (orgsAdd) Help() string {
	return "Examples:\n\n    leaky orgs add \"Acme Corp\" ann --role OWNER\n    leaky orgs add \"Acme Corp\" bob@example.org --team search"
}

// Run adds or changes the member.
func (c orgsAdd) Run(ctx context.Context, root *cli) error {
	admin, err := openAdmin(root)
	if err != nil {
		return err
	}
	org, err := orgNamed(ctx, admin, c.Org)
	if err != nil {
		return err
	}
	if err := setMember(ctx, admin, org.ID, c.User, c.Role, c.Team); err != nil {
		return err
	}
	made := map[string]string{"organisation": org.Name, "user": c.User, "role": c.Role, "team": c.Team}
	return c.print(os.Stdout, made, []string{"ORGANISATION", "USER", "ROLE", "TEAM"}, [][]string{{org.Name, c.User, c.Role, orDash(c.Team)}})
}

type orgsRemove struct {
	output
	Org  string `arg:"" help:"Name or id."`
	User string `arg:"" help:"User name or id of the member."`
}

// Help shows how it is used.
func (orgsRemove) Help() string { return "Examples:\n\n    leaky orgs remove \"Acme Corp\" bob" }

// Run removes the member.
func (c orgsRemove) Run(ctx context.Context, root *cli) error {
	admin, err := openAdmin(root)
	if err != nil {
		return err
	}
	org, err := orgNamed(ctx, admin, c.Org)
	if err != nil {
		return err
	}
	members, err := membersOf(ctx, admin, org.ID)
	if err != nil {
		return err
	}
	for _, m := range members {
		if m.Username != c.User && m.UserID.String() != c.User {
			continue
		}
		if _, err := admin.RemoveMemberWithResponse(ctx, org.ID, m.UserID); err != nil {
			return told(err)
		}
		return c.print(os.Stdout, m, []string{"REMOVED", "NAME"}, [][]string{{m.UserID.String(), m.Username}})
	}
	return fmt.Errorf("%q is no member of %s; `leaky orgs members` lists them", c.User, org.Name)
}
