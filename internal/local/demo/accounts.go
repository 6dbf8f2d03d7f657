package demo

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// Credentials of the first ADMIN, as <state>/secrets/admin.json has them.
type Credentials struct {
	Username string `json:"username"`
	Password string `json:"password"`
}

type session struct {
	UserID string `json:"userId"`
	Token  string `json:"token"`
}

// openAccounts registers one fresh account per tier and gives it its tier and a key.
func openAccounts(ctx context.Context, gateway api, admin Credentials, tiers []string) ([]Account, error) {
	var root session
	if err := gateway.call(ctx, http.MethodPost, "/api/v1/auth/login", "", admin, &root); err != nil {
		return nil, fmt.Errorf("log in as the first administrator: %w", err)
	}
	accounts := make([]Account, len(tiers))
	for i, tier := range tiers {
		a, err := openAccount(ctx, gateway, root.Token, tier)
		if err != nil {
			return nil, err
		}
		accounts[i] = a
	}
	return accounts, nil
}

func openAccount(ctx context.Context, gateway api, adminToken, tier string) (Account, error) {
	name := "demo-" + strings.ToLower(tier) + "-" + strings.ToLower(rand.Text()[:8])
	password := "Demo-1-" + rand.Text()
	var who session
	err := gateway.call(ctx, http.MethodPost, "/api/v1/auth/register", "",
		map[string]string{"username": name, "email": name + "@example.com", "password": password}, &who)
	if err != nil {
		return Account{}, fmt.Errorf("register %s: %w", name, err)
	}
	roles := []string{"USER"}
	if tier != "USER" {
		roles = append(roles, tier)
	}
	if err := gateway.call(ctx, http.MethodPut, "/api/v1/admin/users/"+url.PathEscape(who.UserID)+"/roles", adminToken,
		map[string]any{"roles": roles}, nil); err != nil {
		return Account{}, fmt.Errorf("make %s a %s: %w", name, tier, err)
	}
	// The first token names the first roles; a fresh one names the new ones.
	if err := gateway.call(ctx, http.MethodPost, "/api/v1/auth/login", "", Credentials{name, password}, &who); err != nil {
		return Account{}, fmt.Errorf("log in as %s: %w", name, err)
	}
	var key struct {
		APIKey string `json:"apiKey"`
	}
	err = gateway.call(ctx, http.MethodPost, "/api/v1/auth/api-keys", who.Token, map[string]string{"userId": who.UserID, "name": "demo"}, &key)
	if err != nil {
		return Account{}, fmt.Errorf("make a key for %s: %w", name, err)
	}
	return Account{Name: name, User: who.UserID, Tier: tier, key: key.APIKey}, nil
}
