package oauth

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/leaky-tokens/leaky-tokens/identity/audit"
	"github.com/leaky-tokens/leaky-tokens/identity/identitydb"
	"github.com/leaky-tokens/leaky-tokens/internal/config"
)

// ConsoleClient is the console: public, as PKCE binds its codes, and the only client that may have
// the scope account.
const ConsoleClient = "leaky-console"

// PrepareConsole makes the console's client, or sets it right: its answers go to the origins given and
// nowhere else. Without an origin there is no console. Several replicas may do so at once.
func (p *Provider) PrepareConsole(ctx context.Context, origins []string) error {
	ctx, cancel := context.WithTimeout(ctx, queryTime)
	defer cancel()
	if len(origins) == 0 {
		if err := p.remove(ctx, ConsoleClient); err != nil && !errors.Is(err, errNoClient) {
			return fmt.Errorf("remove console client: %w", err)
		}
		return nil
	}
	want := identitydb.OauthClient{ID: ConsoleClient, Name: "Leaky Tokens console", RedirectUris: []string{},
		GrantTypes: []string{grantCode, grantRefresh}, Scopes: withoutScopes(knownScopes(), scopeEmail), Registered: byAdmin}
	for _, origin := range origins {
		// A page of a plain http origin beyond this machine is no place for a session.
		if uri := origin + config.ConsolePath + "/callback"; checkRedirect(uri) == "" {
			want.RedirectUris = append(want.RedirectUris, uri)
		}
	}
	return pgx.BeginFunc(ctx, p.cfg.Pool, func(tx pgx.Tx) error {
		q := identitydb.New(tx)
		if err := q.OAuthClientTurn(ctx); err != nil {
			return fmt.Errorf("wait for other replicas: %w", err)
		}
		c, err := q.OAuthLockClient(ctx, ConsoleClient)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			want.OwnerID, want.Family = uuid.New(), uuid.New()
			if err := addServiceAccount(ctx, q, want); err != nil {
				return err
			}
			if err := insertClient(ctx, tx, want); err != nil {
				return err
			}
			return audit.Record(ctx, tx, audit.Entry{Actor: audit.System, Action: "client.create", Target: want.ID})
		case err != nil:
			return fmt.Errorf("read console client: %w", err)
		case slices.Equal(c.RedirectUris, want.RedirectUris) && slices.Equal(c.Scopes, want.Scopes) &&
			slices.Equal(c.GrantTypes, want.GrantTypes):
			return nil
		}
		_, err = q.OAuthEditClient(ctx, identitydb.OAuthEditClientParams{ID: c.ID, Name: want.Name, RedirectUris: want.RedirectUris,
			Origins: originsOf(want.RedirectUris), GrantTypes: want.GrantTypes, Scopes: want.Scopes, Keys: c.Keys,
			LogoutRedirectUris: c.LogoutRedirectUris, LogoutUri: c.LogoutUri, Dpop: c.Dpop})
		if err != nil {
			return fmt.Errorf("change console client: %w", err)
		}
		return audit.Record(ctx, tx, audit.Entry{Actor: audit.System, Action: "client.edit", Target: c.ID})
	})
}

// mayAnswer says whether an answer for a client may go to a redirect URI. The console has its ports by
// configuration, and its rights are wider than any other's: no port of this machine but those will do.
func mayAnswer(c identitydb.OauthClient, redirect string) bool {
	return matchRedirect(c.RedirectUris, redirect) && (c.ID != ConsoleClient || slices.Contains(c.RedirectUris, redirect))
}
