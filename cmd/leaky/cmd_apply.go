package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/client"
	"github.com/leaky-tokens/leaky-tokens/client/api"
)

// company is what `leaky apply` reads: organisations as they are meant to be.
type company struct {
	Organisations []companyOrg `yaml:"organisations"`
}

type companyOrg struct {
	Name    string          `yaml:"name"`
	Teams   []string        `yaml:"teams"`
	Members []companyMember `yaml:"members"`
	Budgets []companyBudget `yaml:"budgets"`
}

type companyMember struct {
	User string `yaml:"user"` // name or e-mail
	Role string `yaml:"role"` // MEMBER (default) or OWNER
	Team string `yaml:"team"` // one of the organisation's teams; empty: none
	Tier string `yaml:"tier"` // one of leaky.yaml's; empty: as it is
}

// companyBudget is what the organisation's pool for a provider holds when it is full.
type companyBudget struct {
	Provider string `yaml:"provider"`
	Tokens   int64  `yaml:"tokens"` // above 0; a pool that holds more stays as it is
}

// mostCompany bounds the file, in bytes.
const mostCompany = 4 << 20

// readCompany reads and checks a file; mistakes name the line, or the organisation and the member.
func readCompany(r io.Reader) (company, error) {
	var c company
	text, err := io.ReadAll(io.LimitReader(r, mostCompany+1))
	if err != nil {
		return c, fmt.Errorf("read company: %w", err)
	}
	if len(text) > mostCompany {
		return c, fmt.Errorf("the file has more than %d bytes", mostCompany)
	}
	if err := yaml.NewDecoder(bytes.NewReader(text), yaml.Strict()).Decode(&c); err != nil && !errors.Is(err, io.EOF) {
		return c, fmt.Errorf("read company: %w", err)
	}
	seen := map[string]bool{}
	for i, o := range c.Organisations {
		if o.Name == "" || seen[o.Name] {
			return c, fmt.Errorf("organisations[%d].name: write a name that no other organisation of the file has", i)
		}
		seen[o.Name] = true
		if err := o.check(); err != nil {
			return c, fmt.Errorf("organisation %q: %w", o.Name, err)
		}
	}
	return c, nil
}

func (o companyOrg) check() error {
	seen := map[string]bool{}
	for i, m := range o.Members {
		switch {
		case m.User == "" || seen[m.User]:
			return fmt.Errorf("members[%d].user: write the name or e-mail of a user, each once", i)
		case !slices.Contains([]string{"", "MEMBER", "OWNER"}, m.Role):
			return fmt.Errorf("members[%d].role: %q is neither MEMBER nor OWNER", i, m.Role)
		case m.Team != "" && !slices.Contains(o.Teams, m.Team):
			return fmt.Errorf("members[%d].team: %q is not among the organisation's teams", i, m.Team)
		}
		seen[m.User] = true
	}
	pools := map[string]bool{}
	for i, b := range o.Budgets {
		switch {
		case b.Provider == "" || pools[b.Provider]:
			return fmt.Errorf("budgets[%d].provider: write a provider of leaky.yaml, each once", i)
		case b.Tokens <= 0:
			return fmt.Errorf("budgets[%d].tokens: write how many tokens the pool holds, above 0", i)
		}
		pools[b.Provider] = true
	}
	return nil
}

type applyCommand struct {
	output
	File   string `short:"f" required:"" type:"existingfile" help:"The file, such as docs/company.yaml." placeholder:"FILE"`
	DryRun bool   `help:"Only show what would change."`
}

// Help shows how it is used.
func (applyCommand) Help() string {
	return `What the file does not name stays as it is: nobody is removed. Applied again it changes nothing.

Examples:

    leaky apply -f company.yaml --dry-run
    leaky apply -f company.yaml -o json`
}

// companyStep is one change, with what makes it.
type companyStep struct {
	What string `json:"what"`
	do   func(ctx context.Context) error
}

// Run prints the changes, and makes them.
func (c applyCommand) Run(ctx context.Context, root *cli) error {
	file, err := os.Open(c.File)
	if err != nil {
		return err
	}
	defer file.Close()
	want, err := readCompany(file)
	if err != nil {
		return fmt.Errorf("%s: %w", c.File, err)
	}
	admin, err := openAdmin(root)
	if err != nil {
		return err
	}
	steps, err := planCompany(ctx, admin, want)
	if err != nil {
		return err
	}
	rows := make([][]string, len(steps))
	for i, s := range steps {
		if !c.DryRun {
			if err := s.do(ctx); err != nil {
				return fmt.Errorf("%s: %w (%d of %d changes are made; applying the file again makes the rest)", s.What, err, i, len(steps))
			}
		}
		rows[i] = []string{s.What}
	}
	header := fmt.Sprintf("%d CHANGES", len(steps))
	if c.DryRun {
		header += " (NONE MADE)"
	}
	return c.print(os.Stdout, steps, []string{header}, rows)
}

// planCompany compares a file with what there is.
func planCompany(ctx context.Context, admin *client.Client, want company) ([]companyStep, error) {
	all, err := allOrgs(ctx, admin)
	if err != nil {
		return nil, err
	}
	steps := []companyStep{}
	for _, o := range want.Organisations {
		var found []uuid.UUID
		for _, there := range all {
			if there.Name == o.Name {
				found = append(found, there.ID)
			}
		}
		if len(found) > 1 {
			return nil, fmt.Errorf("%d organisations are called %q: rename all but one (leaky orgs rename)", len(found), o.Name)
		}
		id := new(uuid.UUID) // known to the later steps once the first has made it
		var teams []api.Team
		var members []api.Member
		if len(found) == 1 {
			*id = found[0]
			if teams, members, err = peopleOf(ctx, admin, *id); err != nil {
				return nil, err
			}
		} else {
			steps = append(steps, companyStep{What: "+ organisation " + o.Name, do: func(ctx context.Context) error {
				got, err := admin.CreateOrganisationWithResponse(ctx, api.OrganisationRequest{Name: o.Name})
				if err != nil {
					return told(err)
				}
				made, err := client.Answer(got.JSON201)
				*id = made.ID
				return err
			}})
		}
		users, err := usersOf(ctx, admin, o.Members)
		if err != nil {
			return nil, fmt.Errorf("organisation %q: %w", o.Name, err)
		}
		budgets, err := o.budgetSteps(ctx, admin, id)
		if err != nil {
			return nil, fmt.Errorf("organisation %q: %w", o.Name, err)
		}
		steps = slices.Concat(steps, o.teamSteps(admin, id, teams), o.memberSteps(admin, id, members, users), o.tierSteps(admin, users), budgets)
	}
	return steps, nil
}

// peopleOf are the teams and members that an organisation has.
func peopleOf(ctx context.Context, admin *client.Client, org uuid.UUID) ([]api.Team, []api.Member, error) {
	got, err := admin.ListTeamsWithResponse(ctx, org)
	if err != nil {
		return nil, nil, told(err)
	}
	teams, err := client.Answer(got.JSON200)
	if err != nil {
		return nil, nil, err
	}
	members, err := membersOf(ctx, admin, org)
	return teams, members, err
}

// usersOf finds who a file names by e-mail, since members are listed by name, and whose tier it states.
func usersOf(ctx context.Context, admin *client.Client, members []companyMember) (map[string]api.User, error) {
	found := map[string]api.User{}
	for _, m := range members {
		if m.Tier == "" && !strings.Contains(m.User, "@") {
			continue
		}
		users, err := usersLike(ctx, admin, m.User)
		if err != nil {
			return nil, err
		}
		for _, u := range users {
			if strings.EqualFold(u.Email, m.User) || u.Username == m.User {
				found[m.User] = u
			}
		}
		if _, ok := found[m.User]; !ok {
			return nil, fmt.Errorf("there is no user %q: invite them first (leaky invites create)", m.User)
		}
	}
	return found, nil
}
