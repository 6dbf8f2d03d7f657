package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/client"
	"github.com/leaky-tokens/leaky-tokens/client/api"
)

func (o companyOrg) teamSteps(admin *client.Client, org *uuid.UUID, there []api.Team) []companyStep {
	var steps []companyStep
	for _, name := range o.Teams {
		if slices.ContainsFunc(there, func(t api.Team) bool { return t.Name == name }) {
			continue
		}
		steps = append(steps, companyStep{What: "+ team " + name + " of " + o.Name, do: func(ctx context.Context) error {
			_, err := admin.CreateTeamWithResponse(ctx, *org, api.TeamRequest{Name: name})
			return told(err)
		}})
	}
	return steps
}

// memberSteps puts owners first: an organisation keeps at least one.
func (o companyOrg) memberSteps(admin *client.Client, org *uuid.UUID, there []api.Member, users map[string]api.User) []companyStep {
	var steps []companyStep
	wanted := slices.Clone(o.Members)
	slices.SortStableFunc(wanted, func(a, b companyMember) int { return strings.Compare(b.Role, a.Role) })
	for _, m := range wanted {
		role := cmp.Or(m.Role, "MEMBER")
		name := cmp.Or(users[m.User].Username, m.User)
		sign := "+"
		if at := slices.IndexFunc(there, func(t api.Member) bool { return t.Username == name }); at >= 0 {
			if there[at].Role == role && there[at].Team == m.Team {
				continue
			}
			sign = "~"
		}
		what := fmt.Sprintf("%s member %s of %s: %s", sign, m.User, o.Name, role)
		if m.Team != "" {
			what += ", team " + m.Team
		}
		steps = append(steps, companyStep{What: what, do: func(ctx context.Context) error {
			return setMember(ctx, admin, *org, m.User, role, m.Team)
		}})
	}
	return steps
}

// tierSteps give members their tiers: beside USER and ADMIN, a user's roles are names of tiers.
func (o companyOrg) tierSteps(admin *client.Client, users map[string]api.User) []companyStep {
	var steps []companyStep
	for _, m := range o.Members {
		u := users[m.User]
		if m.Tier == "" || u.Tier == m.Tier {
			continue
		}
		roles := []string{m.Tier}
		for _, role := range u.Roles {
			if role == "USER" || role == "ADMIN" {
				roles = append(roles, role)
			}
		}
		steps = append(steps, companyStep{What: fmt.Sprintf("~ tier of %s: %s", m.User, m.Tier), do: func(ctx context.Context) error {
			_, err := admin.SetRolesWithResponse(ctx, u.ID, api.RolesRequest{Roles: roles})
			return told(err)
		}})
	}
	return steps
}

// budgetSteps fill the organisation's pools up to what the file says. What a step gives is named by
// the last change of the pool, so that two who apply a file at once do not both give it.
func (o companyOrg) budgetSteps(ctx context.Context, admin *client.Client, org *uuid.UUID) ([]companyStep, error) {
	var steps []companyStep
	for _, b := range o.Budgets {
		var before api.Quota
		if *org != uuid.Nil {
			got, err := admin.GetOrganisationQuotaWithResponse(ctx, &api.GetOrganisationQuotaParams{OrgID: *org, Provider: b.Provider})
			refused, _ := errors.AsType[*client.Error](err)
			switch {
			case err == nil && got.JSON200 != nil:
				before = *got.JSON200
			case refused == nil || refused.Status != http.StatusNotFound:
				return nil, told(err)
			}
		}
		if before.TotalTokens >= b.Tokens {
			continue
		}
		what := fmt.Sprintf("+ budget of %s: %d tokens of %s, which had %d", o.Name, b.Tokens, b.Provider, before.TotalTokens)
		steps = append(steps, companyStep{What: what, do: func(ctx context.Context) error {
			reference, reason := "apply-"+uuid.NewSHA1(*org, fmt.Append(nil, b.Provider, before.UpdatedAt)).String(), "leaky apply"
			_, err := admin.GrantOrganisationQuotaWithResponse(ctx, nil, api.PoolOrder{OrgID: new(org.String()), Provider: b.Provider,
				Tokens: b.Tokens - before.TotalTokens, Reference: &reference, Reason: &reason})
			return told(err)
		}})
	}
	return steps, nil
}
