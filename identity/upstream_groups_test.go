package identity

import (
	"net/http"
	"slices"
	"testing"

	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
)

func TestWhatGroupsMean(t *testing.T) {
	t.Parallel()
	entries := []config.UpstreamGroup{{Group: "admins", Role: "ADMIN"}, {Group: "leads", Owner: true}, {Group: "ml", Team: "models"},
		{Group: "team-*", Team: "*"}, {Group: "vip-*", Role: "GOLD"}, {Group: "*", Team: "rest"}}
	for name, c := range map[string]struct {
		entries []config.UpstreamGroup
		groups  []string
		roles   []string
		team    string
		role    string
	}{
		"none":                        {entries, nil, []string{"USER"}, "", "MEMBER"},
		"the first entry counts":      {entries, []string{"team-a", "ml"}, []string{"USER"}, "models", "MEMBER"},
		"what the star stands for":    {entries, []string{"team-b", "team-a"}, []string{"USER"}, "a", "MEMBER"},
		"no name of a team":           {entries, []string{"team-a b", "team-", "team-c"}, []string{"USER"}, "c", "MEMBER"},
		"several roles":               {entries, []string{"vip-1", "vip-2", "admins"}, []string{"ADMIN", "GOLD", "USER"}, "rest", "MEMBER"},
		"an owner":                    {entries, []string{"leads"}, []string{"USER"}, "rest", "OWNER"},
		"names are told apart":        {entries[:2], []string{"Admins", "admins ", "leads2"}, []string{"USER"}, "-", "MEMBER"},
		"what no entry speaks of":     {entries[2:3], []string{"ml"}, nil, "models", ""},
		"roles alone":                 {entries[:1], []string{"ml"}, []string{"USER"}, "-", ""},
		"a role that is given anyway": {[]config.UpstreamGroup{{Group: "a", Role: "USER"}}, []string{"a"}, []string{"USER"}, "-", ""},
	} {
		p := placeOf(config.AuthUpstream{Groups: c.entries}, c.groups)
		team := "-"
		if p.team != nil {
			team = *p.team
		}
		if !slices.Equal(p.roles, c.roles) || (p.roles == nil) != (c.roles == nil) || team != c.team || p.role != c.role {
			t.Errorf("%s: got roles %v, team %q, role %q", name, p.roles, team, p.role)
		}
	}
}

// grouped is a company whose groups are teams, roles and owners.
func grouped(t *testing.T, organisation string) *company {
	t.Helper()
	return startCompany(t, func(cfg *Config) {
		u := &cfg.Auth.Upstreams[0]
		u.Organisation, u.Claims.Groups = organisation, "realm.groups"
		u.Groups = []config.UpstreamGroup{{Group: "admins", Role: "ADMIN"}, {Group: "leads", Owner: true}, {Group: "team-*", Team: "*"}}
	})
}

// in signs somebody in who is in groups, and gives them as a caller.
func (c *company) in(subject string, groups ...string) string {
	c.t.Helper()
	c.claims(map[string]any{"sub": subject, "preferred_username": subject, "email": subject + "@acme.example", "realm": map[string]any{"groups": groups}})
	return c.browser().signIn()["sub"].(string)
}

// member is the one membership of a user, as "organisation role team".
func (c *company) member(id string) (found string) {
	c.t.Helper()
	if err := c.store.pool.QueryRow(c.t.Context(), `SELECT coalesce(string_agg(o.name || ' ' || m.role || ' ' || m.team, ', ' ORDER BY o.name), '')
		FROM org_members m JOIN orgs o ON o.id = m.org_id WHERE m.user_id = $1`, id).Scan(&found); err != nil {
		c.t.Fatal(err)
	}
	return found
}

// At each login organisation, team, role and roles are what the groups say then.
func TestGroupsAreFollowedAtEachLogin(t *testing.T) {
	t.Parallel()
	c := grouped(t, "Acme")
	squatter := c.join("squatter")
	squatted := c.makeOrg(squatter, "Acme")
	for _, step := range []struct {
		groups []string
		member string
		roles  []string
	}{
		{[]string{"team-blue"}, "Acme MEMBER blue", []string{"USER"}},
		{[]string{"team-blue", "leads", "admins"}, "Acme OWNER blue", []string{"ADMIN", "USER"}},
		{[]string{"team-red", "admins"}, "Acme MEMBER red", []string{"ADMIN", "USER"}},
		{nil, "Acme MEMBER ", []string{"USER"}},
		{[]string{"team-blue"}, "Acme MEMBER blue", []string{"USER"}},
	} {
		id := c.in("ann", step.groups...)
		u, err := c.store.userByID(t.Context(), uuid.MustParse(id))
		if got := c.member(id); err != nil || got != step.member || !slices.Equal(u.Roles, step.roles) {
			t.Errorf("%v: want %q and %v, got %q and %v, %v", step.groups, step.member, step.roles, got, u.Roles, err)
		}
	}
	bob := c.in("bob", "team-blue")
	if n := c.count(`SELECT count(DISTINCT org_id) FROM org_members WHERE org_id <> $1`, squatted); n != 1 || c.member(bob) != "Acme MEMBER blue" {
		t.Errorf("want one organisation for all of the company, got %d, %q", n, c.member(bob))
	}
	if got := c.member(squatter.UserID); got != "Acme OWNER " {
		t.Errorf("who took the name owns %q", got)
	}
	if n := c.count(`SELECT count(*) FROM audit_log WHERE actor = 'anonymous' AND action <> 'session.login'`); n != 0 {
		t.Errorf("%d entries in the trail name nobody", n)
	}
	if n := c.count(`SELECT count(*) FROM teams`); n != 2 {
		t.Errorf("want the teams blue and red, got %d", n)
	}
}

// Tokens of applications act for the company, those of others for nobody.
func TestTokensActForTheCompany(t *testing.T) {
	t.Parallel()
	c := grouped(t, "Acme")
	c.claims(map[string]any{"realm": map[string]any{"groups": []string{"team-blue"}}})
	b := c.browser()
	tokens := b.redeem(b.open(b.back(), nil))
	org := c.count(`SELECT count(*) FROM token_families f JOIN upstream_orgs u ON u.org_id = f.org_id`)
	if org != 1 || tokens.body["refresh_token"] == nil {
		t.Errorf("want a grant that acts for the company, got %d, %s", org, tokens.text)
	}
}

// An organisation that is there is named by its id. Who leaves it at the company leaves it here, with
// their keys for it.
func TestAnOrganisationThatIsThere(t *testing.T) {
	t.Parallel()
	c := grouped(t, "")
	owner := c.join("owner")
	org := c.makeOrg(owner, "Ours")
	c.cfg.Auth.Upstreams[0].Organisation = org
	ann := c.in("ann", "team-blue")
	if got := c.member(ann); got != "Ours MEMBER blue" {
		t.Fatalf("got %q", got)
	}
	c.cfg.Auth.Upstreams[0].Organisation = "Other"
	if c.in("ann", "team-red"); c.member(ann) != "Other MEMBER red" {
		t.Errorf("got %q", c.member(ann))
	}
	c.cfg.Auth.Upstreams[0].Organisation = uuid.NewString()
	b := c.browser()
	if page := b.shown(b.open(b.back(), nil)); page.status != http.StatusForbidden {
		t.Errorf("an organisation that is gone: %d %s", page.status, page.text)
	}
	if got := c.member(ann); got != "Other MEMBER red" {
		t.Errorf("a refused login changed something: %q", got)
	}
}

// A provider that forgot its groups locks nobody out.
func TestTheLastAdministratorStaysOne(t *testing.T) {
	t.Parallel()
	c := grouped(t, "")
	ann := c.in("ann", "admins")
	if _, err := c.store.pool.Exec(t.Context(), `DELETE FROM user_roles WHERE user_id <> $1 AND role_id = (SELECT id FROM roles WHERE name = 'ADMIN')`, ann); err != nil {
		t.Fatal(err)
	}
	c.in("ann")
	u, err := c.store.userByID(t.Context(), uuid.MustParse(ann))
	if err != nil || !slices.Equal(u.Roles, []string{"ADMIN", "USER"}) {
		t.Errorf("got %v, %v", u.Roles, err)
	}
}
