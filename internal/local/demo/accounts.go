package demo

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"

	"github.com/leaky-tokens/leaky-tokens/internal/local/demo/judge"

	"github.com/leaky-tokens/leaky-tokens/client"
	"github.com/leaky-tokens/leaky-tokens/client/api"
)

// Credentials of the first ADMIN, as <state>/secrets/admin.json has them.
type Credentials struct {
	Username string `json:"username"`
	Password string `json:"password"`
}

// openAccounts registers one fresh account per tier and gives it its tier and a key.
func openAccounts(ctx context.Context, gateway *client.Client, admin Credentials, tiers []string) ([]judge.Account, error) {
	root := gateway.As(client.Login(admin.Username, admin.Password))
	accounts := make([]judge.Account, len(tiers))
	for i, tier := range tiers {
		a, err := openAccount(ctx, gateway, root, tier)
		if err != nil {
			return nil, unreached(err)
		}
		accounts[i] = a
	}
	return accounts, nil
}

func openAccount(ctx context.Context, gateway, root *client.Client, tier string) (judge.Account, error) {
	name := "demo-" + strings.ToLower(tier) + "-" + strings.ToLower(rand.Text()[:8])
	password := "Demo-1-" + rand.Text()
	registered, err := gateway.RegisterWithResponse(ctx, api.RegisterRequest{Username: name, Email: name + "@example.com", Password: password})
	if err != nil {
		return judge.Account{}, fmt.Errorf("register %s: %w", name, err)
	}
	who, err := client.Answer(registered.JSON201)
	if err != nil {
		return judge.Account{}, fmt.Errorf("register %s: %w", name, err)
	}
	roles := []string{"USER"}
	if tier != "USER" {
		roles = append(roles, tier)
	}
	if _, err := root.SetRolesWithResponse(ctx, who.UserID, api.RolesRequest{Roles: roles}); err != nil {
		return judge.Account{}, fmt.Errorf("make %s a %s: %w", name, tier, err)
	}
	// The first token names the first roles; a fresh login names the new ones.
	made, err := gateway.As(client.Login(name, password)).CreateAPIKeyWithResponse(ctx, api.APIKeyRequest{UserID: &who.UserID,
		Name: new("demo")})
	if err != nil {
		return judge.Account{}, fmt.Errorf("make a key for %s: %w", name, err)
	}
	key, err := client.Answer(made.JSON201)
	if err != nil {
		return judge.Account{}, fmt.Errorf("make a key for %s: %w", name, err)
	}
	return judge.Account{Name: name, User: who.UserID.String(), Tier: tier, Key: key.APIKey}, nil
}
