package main

import (
	"context"
	"os"
	"time"

	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/client"
	"github.com/leaky-tokens/leaky-tokens/client/api"
)

// invitesCommand is `leaky invites`: who may register while auth.registration is invite.
type invitesCommand struct {
	List   invitesList   `cmd:"" help:"List the invitations that may still be used."`
	Create invitesCreate `cmd:"" help:"Make an invitation; its code is shown this once."`
	Revoke invitesRevoke `cmd:"" help:"Withdraw an invitation."`
}

type invitesList struct{ output }

// Help shows how it is used.
func (invitesList) Help() string { return "Examples:\n\n    leaky invites list" }

// Run prints the open invitations, the newest first.
func (c invitesList) Run(ctx context.Context, root *cli) error {
	admin, err := openAdmin(root)
	if err != nil {
		return err
	}
	got, err := admin.ListInvitationsWithResponse(ctx, &api.ListInvitationsParams{Limit: new(api.PageLimit(1000))})
	if err != nil {
		return told(err)
	}
	all, err := client.Answer(got.JSON200)
	if err != nil {
		return err
	}
	rows := make([][]string, len(all))
	for i, one := range all {
		org := ""
		if one.OrgID != nil {
			org = one.OrgID.String()
		}
		rows[i] = []string{one.ID.String(), orDash(one.Email), orDash(org), orDash(one.Team), one.ExpiresAt.Format(time.RFC3339)}
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
	admin, err := openAdmin(root)
	if err != nil {
		return err
	}
	in := api.InvitationRequest{Email: c.Email, OrgID: &c.Org, Role: c.Role, Team: c.Team,
		ExpiresAt: new(time.Now().Add(c.Expires).UTC().Format(time.RFC3339))}
	got, err := admin.CreateInvitationWithResponse(ctx, in)
	if err != nil {
		return told(err)
	}
	made, err := client.Answer(got.JSON201)
	if err != nil {
		return err
	}
	return c.print(os.Stdout, made, []string{"INVITATION", "EXPIRES", "CODE (shown once)"},
		[][]string{{made.ID.String(), made.ExpiresAt.Format(time.RFC3339), made.Code}})
}

type invitesRevoke struct {
	output
	ID uuid.UUID `arg:"" help:"Invitation id."`
}

// Help shows how it is used.
func (invitesRevoke) Help() string { return "Examples:\n\n    leaky invites revoke 0b6d..." }

// Run withdraws the invitation.
func (c invitesRevoke) Run(ctx context.Context, root *cli) error {
	admin, err := openAdmin(root)
	if err != nil {
		return err
	}
	if _, err := admin.WithdrawInvitationWithResponse(ctx, c.ID); err != nil {
		return told(err)
	}
	return c.print(os.Stdout, map[string]string{"withdrawn": c.ID.String()}, []string{"WITHDRAWN"}, [][]string{{c.ID.String()}})
}
