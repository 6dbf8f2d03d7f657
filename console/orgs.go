package console

import (
	"cmp"
	"net/http"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/client"
	"github.com/leaky-tokens/leaky-tokens/client/api"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/membership"
)

// orgsData is where the caller belongs, and where they are asked to.
type orgsData struct {
	Orgs        []api.Organisation
	Invitations []api.OrgInvitation
	All         []api.OrganisationSummary // everybody's, for an ADMIN
	More        bool                      // of those
}

// everyOrg are the organisations that an ADMIN sees, nil for others.
func (v *visit) everyOrg() ([]api.OrganisationSummary, error) {
	if !v.admin() {
		return nil, nil
	}
	got, err := v.api.ListAllOrganisationsWithResponse(v.r.Context(), &api.ListAllOrganisationsParams{Limit: new(api.PageLimit(mostOrgs))})
	if err != nil {
		return nil, err
	}
	return client.Answer(got.JSON200)
}

// mostOrgs is how many organisations a page shows.
const mostOrgs = 1000

func (s *site) orgs(v *visit) error {
	got, err := v.api.ListOwnInvitationsWithResponse(v.r.Context())
	if err != nil {
		return err
	}
	invitations, err := client.Answer(got.JSON200)
	if err != nil {
		return err
	}
	all, err := v.everyOrg()
	if err != nil {
		return err
	}
	return s.show(v, "orgs", "/orgs", "Organisations", orgsData{Orgs: v.me.Organisations, Invitations: invitations, All: all,
		More: len(all) == mostOrgs})
}

func (s *site) createOrg(v *visit) error {
	got, err := v.api.CreateOrganisationWithResponse(v.r.Context(), api.OrganisationRequest{Name: v.r.PostForm.Get("name")})
	if err != nil {
		return err
	}
	made, err := client.Answer(got.JSON201)
	if err != nil {
		return err
	}
	http.Redirect(v.w, v.r, path+"/orgs/"+made.ID.String(), http.StatusSeeOther)
	return nil
}

// orgData is one organisation with its people.
type orgData struct {
	ID, Name    string
	Owner       bool // the caller may change it
	Me          string
	Teams       []api.Team
	Members     []api.Member
	Invitations []api.OrgInvitation
	More        bool // members that are not shown
}

// mostMembers is how many members a page shows.
const mostMembers = 500

func (s *site) org(v *visit) error {
	ctx := v.r.Context()
	org, err := id(v.r.PathValue("id"), "The organisation")
	if err != nil {
		return err
	}
	got, err := v.api.ListMembersWithResponse(ctx, org, &api.ListMembersParams{Limit: new(api.PageLimit(mostMembers))})
	if err != nil {
		return err
	}
	members, err := client.Answer(got.JSON200)
	if err != nil {
		return err
	}
	listed, err := v.api.ListTeamsWithResponse(ctx, org)
	if err != nil {
		return err
	}
	teams, err := client.Answer(listed.JSON200)
	if err != nil {
		return err
	}
	own, member := v.orgOf(org)
	if !member {
		all, err := v.everyOrg()
		if err != nil {
			return err
		}
		if at := slices.IndexFunc(all, func(o api.OrganisationSummary) bool { return o.ID == org }); at >= 0 {
			own.Name = all[at].Name
		}
	}
	d := orgData{ID: org.String(), Name: cmp.Or(own.Name, org.String()), Owner: own.Role == membership.Owner || v.admin(),
		Me: v.me.ID.String(), Members: members, Teams: teams, More: len(members) == mostMembers}
	if d.Owner {
		invited, err := v.api.ListOrgInvitationsWithResponse(ctx, org)
		if err != nil && !tolerable(err) {
			return err
		}
		if err == nil && invited.JSON200 != nil {
			d.Invitations = *invited.JSON200
		}
	}
	return s.show(v, "org", "/orgs", d.Name, d)
}

// createTeam makes a team: nobody can be in one that was not made.
func (s *site) createTeam(v *visit) error {
	org, err := id(v.r.PathValue("id"), "The organisation")
	if err != nil {
		return err
	}
	if _, err := v.api.CreateTeamWithResponse(v.r.Context(), org, api.TeamRequest{Name: v.r.PostForm.Get("name")}); err != nil {
		return err
	}
	return v.back(org)
}

// deleteTeam takes a team away that has no members.
func (s *site) deleteTeam(v *visit) error {
	org, err := id(v.r.PathValue("id"), "The organisation")
	if err != nil {
		return err
	}
	if _, err := v.api.DeleteTeamWithResponse(v.r.Context(), org, v.r.PostForm.Get("name")); err != nil {
		return err
	}
	return v.back(org)
}

// renameOrg gives an organisation another name.
func (s *site) renameOrg(v *visit) error {
	org, err := id(v.r.PathValue("id"), "The organisation")
	if err != nil {
		return err
	}
	in := api.OrganisationRequest{Name: v.r.PostForm.Get("name")}
	if _, err := v.api.RenameOrganisationWithResponse(v.r.Context(), org, in); err != nil {
		return err
	}
	return v.back(org)
}

// back shows an organisation again.
func (v *visit) back(org uuid.UUID) error {
	http.Redirect(v.w, v.r, path+"/orgs/"+org.String(), http.StatusSeeOther)
	return nil
}

// setMember adds somebody, or gives them another role or team.
func (s *site) setMember(v *visit) error {
	org, err := id(v.r.PathValue("id"), "The organisation")
	if err != nil {
		return err
	}
	in := api.MemberRequest{Role: api.MemberRequestRole(v.r.PostForm.Get("role"))}
	who := strings.TrimSpace(v.r.PostForm.Get("user"))
	if user, err := id(who, "The user"); err == nil {
		in.UserID = &user
	} else if strings.Contains(who, "@") {
		in.Email = &who
	} else {
		in.Username = &who
	}
	if team := strings.TrimSpace(v.r.PostForm.Get("team")); team != "" {
		in.Team = &team
	}
	if _, err := v.api.SetMemberWithResponse(v.r.Context(), org, in); err != nil {
		return err
	}
	return v.back(org)
}

// removeMember ends a membership, or takes an invitation back.
func (s *site) removeMember(v *visit) error {
	org, err := id(v.r.PathValue("id"), "The organisation")
	if err != nil {
		return err
	}
	user, err := id(v.r.PostForm.Get("user"), "The user")
	if err != nil {
		return err
	}
	if v.r.PostForm.Get("invited") != "" {
		_, err = v.api.WithdrawOrgInvitationWithResponse(v.r.Context(), org, user)
	} else {
		_, err = v.api.RemoveMemberWithResponse(v.r.Context(), org, user)
	}
	switch {
	case err != nil:
		return err
	case user == v.me.ID && !v.admin(): // they left, and may not look any more
		http.Redirect(v.w, v.r, path+"/orgs", http.StatusSeeOther)
		return nil
	}
	return v.back(org)
}

// answerInvitation takes an invitation or declines it.
func (s *site) answerInvitation(v *visit) error {
	org, err := id(v.r.PathValue("id"), "The organisation")
	if err != nil {
		return err
	}
	switch v.r.PathValue("answer") {
	case "accept":
		_, err = v.api.AcceptInvitationWithResponse(v.r.Context(), org)
	case "decline":
		_, err = v.api.DeclineInvitationWithResponse(v.r.Context(), org)
	default:
		err = &shown{status: http.StatusNotFound, title: "Not here", text: "There is no such page."}
	}
	if err != nil {
		return err
	}
	http.Redirect(v.w, v.r, path+"/orgs", http.StatusSeeOther)
	return nil
}
