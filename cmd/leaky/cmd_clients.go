package main

import (
	"context"
	"os"
	"strings"
	"time"

	"github.com/leaky-tokens/leaky-tokens/client"
	"github.com/leaky-tokens/leaky-tokens/client/api"
)

// clientsCommand is `leaky clients`: the OAuth2 clients.
type clientsCommand struct {
	List         clientsList   `cmd:"" help:"List the OAuth2 clients."`
	Create       clientsCreate `cmd:"" help:"Register a client; its secret is shown this once."`
	Edit         clientsEdit   `cmd:"" help:"Change a client; its tokens go on."`
	Delete       clientsDelete `cmd:"" help:"Delete a client and end every token that it was given."`
	RotateSecret clientsRotate `cmd:"" help:"Give a client a new secret; the old one ends at once."`
}

type clientsList struct{ output }

// Help shows how it is used.
func (clientsList) Help() string {
	return "Examples:\n\n    leaky clients list\n    leaky clients list -o json | jq -r '.[].clientId'"
}

// Run prints all clients, page by page from the service.
func (c clientsList) Run(ctx context.Context, root *cli) error {
	admin, err := openAdmin(root)
	if err != nil {
		return err
	}
	const most = api.PageLimit(1000)
	all := []api.OAuthClient{}
	for after := ""; ; {
		got, err := admin.ListOAuthClientsWithResponse(ctx, &api.ListOAuthClientsParams{After: &after, Limit: new(most)})
		if err != nil {
			return told(err)
		}
		page, err := client.Answer(got.JSON200)
		if err != nil {
			return err
		}
		all = append(all, page...)
		if len(page) < int(most) {
			break
		}
		after = page[len(page)-1].ClientID
	}
	return c.show(all)
}

// show prints clients as a table, without what is rarely looked for.
func (c clientsList) show(all []api.OAuthClient) error {
	rows := make([][]string, len(all))
	for i, one := range all {
		kind := "secret"
		if one.Public {
			kind = "public"
		}
		rows[i] = []string{one.ClientID, one.Name, kind, shortGrants(one.GrantTypes), strings.Join(one.Scopes, ","),
			one.CreatedAt.Format(time.DateOnly)}
	}
	return c.print(os.Stdout, all, []string{"CLIENT", "NAME", "KIND", "GRANTS", "SCOPES", "CREATED"}, rows)
}

const deviceGrant = "urn:ietf:params:oauth:grant-type:device_code"

// shortGrants writes device_code without its URN.
func shortGrants(grants []string) string {
	return strings.ReplaceAll(strings.Join(grants, ","), deviceGrant, "device_code")
}

type clientsCreate struct {
	output
	Name           string   `arg:"" help:"What people read on the consent page."`
	Grant          []string `enum:"client_credentials,authorization_code,refresh_token,device_code" help:"Grant types: ${enum}."`
	Scope          []string `help:"Scopes that it may ask for: openid, profile, email, offline_access, tokens.read, tokens.write, analytics.read, admin."`
	Redirect       []string `sep:"none" help:"Redirect URI, compared exactly; repeat the flag for more. For authorization_code." placeholder:"URI"`
	Public         bool     `help:"Without a secret: an app on somebody's machine or in a browser."`
	Owner          string   `help:"User whom client_credentials acts for; an account of its own when empty." placeholder:"UUID"`
	Org            string   `help:"Organisation that it acts for, with its members alone." placeholder:"UUID"`
	ResourceServer bool     `help:"May introspect the tokens of every client."`
	Keys           string   `type:"existingfile" help:"JWK set of the public keys by which it proves who it is, instead of a secret." placeholder:"FILE"`
	IDTokenClaims  bool     `name:"id-token-claims" help:"Name and e-mail stand in its ID tokens too, by its scopes."`
	LogoutRedirect []string `sep:"none" help:"Where people may go who have signed out there; repeat the flag for more." placeholder:"URI"`
	LogoutURI      string   `name:"backchannel-logout" help:"Where it hears that a grant has ended (auth.backchannel_logout)." placeholder:"URI"`
	DPoP           bool     `name:"dpop" help:"Its tokens are bound to a key, which it proves with each request."`
}

// Help shows how it is used.
func (clientsCreate) Help() string {
	return `Examples:

    leaky clients create nightly-report --grant client_credentials --scope tokens.read,analytics.read
    leaky clients create dashboard --grant authorization_code,refresh_token \
        --scope openid,profile,tokens.read,offline_access --redirect https://dash.example/callback
    leaky clients create cli --public --grant device_code,refresh_token --scope tokens.read,tokens.write,offline_access -o json`
}

// Run registers the client and prints it with its secret.
func (c clientsCreate) Run(ctx context.Context, root *cli) error {
	admin, err := openAdmin(root)
	if err != nil {
		return err
	}
	keys, err := readKeys(c.Keys)
	if err != nil {
		return err
	}
	grants := longGrants(c.Grant)
	got, err := admin.CreateOAuthClientWithResponse(ctx, api.OAuthClientRequest{Name: c.Name, Public: c.Public, RedirectUris: &c.Redirect,
		GrantTypes: &grants, Scopes: &c.Scope, OwnerID: c.Owner, OrgID: c.Org, ResourceServer: c.ResourceServer, Jwks: keys,
		IDTokenClaims: c.IDTokenClaims, PostLogoutRedirectUris: &c.LogoutRedirect, BackchannelLogoutURI: c.LogoutURI,
		DpopBoundAccessTokens: c.DPoP})
	if err != nil {
		return told(err)
	}
	return c.showSecret(got.JSON201)
}

// showSecret prints a client with the secret that is shown once.
func (o output) showSecret(body *api.OAuthClient) error {
	c, err := client.Answer(body)
	if err != nil {
		return err
	}
	return o.print(os.Stdout, c, []string{"CLIENT", "NAME", "SECRET (shown once)"}, [][]string{{c.ClientID, c.Name, orDash(c.ClientSecret)}})
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

type clientsDelete struct {
	output
	ID string `arg:"" help:"Client id."`
}

// Help shows how it is used.
func (clientsDelete) Help() string { return "Examples:\n\n    leaky clients delete app-k3jd7..." }

// Run deletes the client.
func (c clientsDelete) Run(ctx context.Context, root *cli) error {
	admin, err := openAdmin(root)
	if err != nil {
		return err
	}
	if _, err := admin.DeleteOAuthClientWithResponse(ctx, c.ID); err != nil {
		return told(err)
	}
	return c.print(os.Stdout, map[string]string{"deleted": c.ID}, []string{"DELETED"}, [][]string{{c.ID}})
}

type clientsRotate struct {
	output
	ID string `arg:"" help:"Client id."`
}

// Help shows how it is used.
func (clientsRotate) Help() string {
	return "The tokens it got by client_credentials end with the old secret; those of its users go on.\n\nExamples:\n\n    leaky clients rotate-secret app-k3jd7...\n    leaky clients rotate-secret app-k3jd7... -o json | jq -r .clientSecret"
}

// Run replaces the secret and prints the new one.
func (c clientsRotate) Run(ctx context.Context, root *cli) error {
	admin, err := openAdmin(root)
	if err != nil {
		return err
	}
	got, err := admin.RotateOAuthClientSecretWithResponse(ctx, c.ID)
	if err != nil {
		return told(err)
	}
	return c.showSecret(got.JSON200)
}
