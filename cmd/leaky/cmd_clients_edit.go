package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/leaky-tokens/leaky-tokens/client"
	"github.com/leaky-tokens/leaky-tokens/client/api"
)

type clientsEdit struct {
	output
	ID            string   `arg:"" help:"Client id."`
	Name          string   `help:"What people read on the consent page."`
	Grant         []string `enum:"client_credentials,authorization_code,refresh_token,device_code" help:"Grant types in place of the present ones: ${enum}."`
	Scope         []string `help:"Scopes in place of the present ones."`
	Redirect      []string `sep:"none" help:"Redirect URI in place of the present ones; repeat the flag for more." placeholder:"URI"`
	Keys          string   `type:"existingfile" help:"JWK set in place of the present one." placeholder:"FILE"`
	IDTokenClaims *bool    `name:"id-token-claims" negatable:"" help:"Name and e-mail stand in its ID tokens too, by its scopes."`

	LogoutRedirect []string `sep:"none" help:"Where people may go who have signed out there, in place of the present URIs." placeholder:"URI"`
	LogoutURI      *string  `name:"backchannel-logout" help:"Where it hears that a grant has ended; empty for nowhere." placeholder:"URI"`
	DPoP           *bool    `name:"dpop" negatable:"" help:"Its tokens are bound to a key, which it proves with each request."`
}

// Help shows how it is used.
func (clientsEdit) Help() string {
	return `What no flag names stays. Tokens go on; one that is refreshed has no scope that the client may not have any more.

Examples:

    leaky clients edit app-k3jd7... --redirect https://dash.example/callback --redirect https://new.example/callback
    leaky clients edit app-k3jd7... --scope openid,tokens.read`
}

// Run changes the client and prints it.
func (c clientsEdit) Run(ctx context.Context, root *cli) error {
	admin, err := openAdmin(root)
	if err != nil {
		return err
	}
	keys, err := readKeys(c.Keys)
	if err != nil {
		return err
	}
	change := api.OAuthClientChange{Jwks: keys, Name: c.Name}
	if len(c.Redirect) > 0 {
		change.RedirectUris = c.Redirect
	}
	if len(c.Grant) > 0 {
		change.GrantTypes = longGrants(c.Grant)
	}
	if len(c.Scope) > 0 {
		change.Scopes = c.Scope
	}
	if len(c.LogoutRedirect) > 0 {
		change.PostLogoutRedirectUris = c.LogoutRedirect
	}
	change.IDTokenClaims, change.BackchannelLogoutURI, change.DpopBoundAccessTokens = c.IDTokenClaims, c.LogoutURI, c.DPoP
	got, err := admin.EditOAuthClientWithResponse(ctx, c.ID, change)
	if err != nil {
		return told(err)
	}
	one, err := client.Answer(got.JSON200)
	if err != nil {
		return err
	}
	return clientsList{output: c.output}.show([]api.OAuthClient{one})
}

// longGrants writes device_code with its URN.
func longGrants(short []string) []string {
	grants := make([]string, len(short))
	for i, g := range short {
		if grants[i] = g; g == "device_code" {
			grants[i] = deviceGrant
		}
	}
	return grants
}

// readKeys reads a JWK set; none for an empty name.
func readKeys(file string) (map[string]any, error) {
	if file == "" {
		return nil, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read keys: %w", err)
	}
	var keys map[string]any
	if err := json.Unmarshal(text, &keys); err != nil {
		return nil, fmt.Errorf("read keys: %s is no JSON object: %w", file, err)
	}
	return keys, nil
}
