package main

import (
	"context"
	"net/http"
	"net/url"
	"os"
	"time"
)

// invitesCommand is `leaky invites`: who may register while auth.registration is invite.
type invitesCommand struct {
	List   invitesList   `cmd:"" help:"List the invitations that may still be used."`
	Create invitesCreate `cmd:"" help:"Make an invitation; its code is shown this once."`
	Revoke invitesRevoke `cmd:"" help:"Withdraw an invitation."`
}

const invitesPath = "/api/v1/admin/invitations"

// invitation is one as identity shows it.
type invitation struct {
	ID        string    `json:"id"`
	Code      string    `json:"code,omitzero"`
	Email     string    `json:"email,omitzero"`
	OrgID     *string   `json:"orgId"`
	Role      string    `json:"role,omitzero"`
	Team      string    `json:"team,omitzero"`
	CreatedAt time.Time `json:"createdAt"`
	ExpiresAt time.Time `json:"expiresAt"`
}

type invitesList struct{ output }

// Help shows how it is used.
func (invitesList) Help() string { return "Examples:\n\n    leaky invites list" }

// Run prints the open invitations, the newest first.
func (c invitesList) Run(ctx context.Context, root *cli) error {
	admin, err := openAdmin(ctx, root)
	if err != nil {
		return err
	}
	all := []invitation{}
	if err := admin.call(ctx, http.MethodGet, invitesPath+"?limit=1000", nil, &all); err != nil {
		return err
	}
	rows := make([][]string, len(all))
	for i, one := range all {
		org := ""
		if one.OrgID != nil {
			org = *one.OrgID
		}
		rows[i] = []string{one.ID, orDash(one.Email), orDash(org), orDash(one.Team), one.ExpiresAt.Format(time.RFC3339)}
	}
	return c.print(os.Stdout, all, []string{"INVITATION", "E-MAIL", "ORGANISATION", "TEAM", "EXPIRES"}, rows)
}

type invitesCreate struct {
	output
	Email   string        `help:"Only for this e-mail address." placeholder:"ADDRESS"`
	Org     string        `help:"Organisation that the new account joins." placeholder:"UUID"`
	Role    string        `enum:"MEMBER,OWNER" default:"MEMBER" help:"In the organisation: ${enum}."`
	Team    string        `help:"In the organisation."`
	Expires time.Duration `default:"168h" help:"How long the code may be used, at most 2160h."`
}

// Help shows how it is used.
func (invitesCreate) Help() string {
	return `Who registers with the code sends it as "invitation". A code makes one account.

Examples:

    leaky invites create --email ann@example.org
    leaky invites create --org 4f6c... --team core -o json | jq -r .code`
}

// Run makes the invitation and prints it with its code.
func (c invitesCreate) Run(ctx context.Context, root *cli) error {
	admin, err := openAdmin(ctx, root)
	if err != nil {
		return err
	}
	in := map[string]any{"email": c.Email, "orgId": c.Org, "role": c.Role, "team": c.Team,
		"expiresAt": time.Now().Add(c.Expires).UTC().Format(time.RFC3339)}
	var made invitation
	if err := admin.call(ctx, http.MethodPost, invitesPath, in, &made); err != nil {
		return err
	}
	return c.print(os.Stdout, made, []string{"INVITATION", "EXPIRES", "CODE (shown once)"},
		[][]string{{made.ID, made.ExpiresAt.Format(time.RFC3339), made.Code}})
}

type invitesRevoke struct {
	ID string `arg:"" help:"Invitation id."`
}

// Help shows how it is used.
func (invitesRevoke) Help() string { return "Examples:\n\n    leaky invites revoke 0b6d..." }

// Run withdraws the invitation.
func (c invitesRevoke) Run(ctx context.Context, root *cli) error {
	admin, err := openAdmin(ctx, root)
	if err != nil {
		return err
	}
	return admin.call(ctx, http.MethodDelete, invitesPath+"/"+url.PathEscape(c.ID), nil, nil)
}
