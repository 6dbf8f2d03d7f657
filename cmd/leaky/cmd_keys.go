package main

import (
	"context"
	"net/http"
	"os"
	"time"
)

// keysCommand is `leaky keys`: the keys that sign access tokens.
type keysCommand struct {
	List   keysList   `cmd:"" help:"List the published signing keys."`
	Rotate keysRotate `cmd:"" help:"Publish a new signing key, which signs once everybody has fetched it."`
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

type signingKey struct {
	ID        string     `json:"kid"`
	Algorithm string     `json:"alg"`
	Signs     bool       `json:"signs"`
	CreatedAt time.Time  `json:"createdAt"`
	ActiveAt  time.Time  `json:"activeAt"`
	RetireAt  *time.Time `json:"retireAt"`
}

// Run prints the keys.
func (k keysList) Run(ctx context.Context, c *cli) error {
	return showKeys(ctx, c, k.output, http.MethodGet, "/api/v1/admin/keys")
}

// Run rotates and prints the keys.
func (k keysRotate) Run(ctx context.Context, c *cli) error {
	return showKeys(ctx, c, k.output, http.MethodPost, "/api/v1/admin/keys/rotate")
}

func showKeys(ctx context.Context, c *cli, o output, method, path string) error {
	admin, err := openAdmin(ctx, c)
	if err != nil {
		return err
	}
	var keys []signingKey
	if err := admin.call(ctx, method, path, nil, &keys); err != nil {
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
		rows[i] = []string{k.ID, k.Algorithm, signs, k.ActiveAt.Format(time.RFC3339), retires}
	}
	return o.print(os.Stdout, keys, []string{"KID", "ALG", "SIGNS", "ACTIVE", "RETIRES"}, rows)
}
