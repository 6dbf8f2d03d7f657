package main

import (
	"context"
	"os"
	"time"

	"github.com/leaky-tokens/leaky-tokens/client"
	"github.com/leaky-tokens/leaky-tokens/client/api"
)

// keysCommand is `leaky keys`: the keys that sign access tokens.
type keysCommand struct {
	List     keysList     `cmd:"" help:"List the published signing keys."`
	Rotate   keysRotate   `cmd:"" help:"Publish a new signing key, which signs once everybody has fetched it."`
	Withdraw keysWithdraw `cmd:"" help:"End a leaked signing key and every token that it signed, at once."`
}

type keysList struct{ output }

// Help shows how it is used.
func (keysList) Help() string {
	return "Examples:\n\n    leaky keys list\n    leaky keys list -o json | jq '.[] | select(.signs)'"
}

type keysRotate struct{ output }

// Help shows how it is used.
func (keysRotate) Help() string {
	return `The new key signs after auth.rotate_ahead. The old one stays published until what it signed has expired, so nobody is logged out.

Examples:

    leaky keys rotate`
}

type keysWithdraw struct {
	output
	ID string `arg:"" name:"kid" help:"Id of the key, as leaky keys list prints it."`
}

// Help shows how it is used.
func (keysWithdraw) Help() string {
	return `Another key signs at once. Every token that this one signed is refused within a second: who has a refresh token gets a new one, the others log in again.

Examples:

    leaky keys withdraw 1WxgTlazlPNSTrVU9ec86Q`
}

// Run withdraws a key and prints those that are published now.
func (k keysWithdraw) Run(ctx context.Context, c *cli) error {
	admin, err := openAdmin(c)
	if err != nil {
		return err
	}
	got, err := admin.WithdrawSigningKeyWithResponse(ctx, k.ID)
	if err != nil {
		return told(err)
	}
	return k.showKeys(got.JSON200)
}

// Run prints the keys.
func (k keysList) Run(ctx context.Context, c *cli) error {
	admin, err := openAdmin(c)
	if err != nil {
		return err
	}
	got, err := admin.ListSigningKeysWithResponse(ctx)
	if err != nil {
		return told(err)
	}
	return k.showKeys(got.JSON200)
}

// Run rotates and prints the keys.
func (k keysRotate) Run(ctx context.Context, c *cli) error {
	admin, err := openAdmin(c)
	if err != nil {
		return err
	}
	got, err := admin.RotateSigningKeysWithResponse(ctx)
	if err != nil {
		return told(err)
	}
	return k.showKeys(got.JSON201)
}

// showKeys prints keys.
func (o output) showKeys(body *[]api.SigningKey) error {
	keys, err := client.Answer(body)
	if err != nil {
		return err
	}
	rows := make([][]string, len(keys))
	for i, k := range keys {
		signs, retires := "", "-"
		if k.Signs {
			signs = "now"
		}
		if k.RetireAt != nil {
			retires = k.RetireAt.Format(time.RFC3339)
		}
		rows[i] = []string{k.Kid, k.Alg, signs, k.ActiveAt.Format(time.RFC3339), retires}
	}
	return o.print(os.Stdout, keys, []string{"KID", "ALG", "SIGNS", "ACTIVE", "RETIRES"}, rows)
}
