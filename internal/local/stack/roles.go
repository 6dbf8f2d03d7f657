package stack

import (
	"context"
	"slices"
	"sync/atomic"

	"github.com/jackc/pgx/v5"

	"github.com/leaky-tokens/leaky-tokens/internal/pgconn"
	"github.com/leaky-tokens/leaky-tokens/internal/storeuser"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// What parts kept in the schema that all shared, before each had one of its own.
const (
	identityBefore = `goose_identity.*|users|roles|user_roles|api_keys|signing_keys|orgs|org_members|token_families|refresh_tokens|` +
		`teams|revocations|audit_log.*|oauth_.*|invitations|org_invitations|name_skeleton|token_family_ended`
	tokensBefore = `goose_tokensvc.*|token_(pools|org_pools|pool_states|ledger.*|lots|outbox.*|purchase_.*)`
)

// Roles are the users of Postgres that parts have, with what password says.
func Roles(password func(part string) (string, error)) ([]pgconn.Role, error) {
	before := map[string]string{topology.Identity: identityBefore, topology.TokenSvc: tokensBefore}
	var roles []pgconn.Role
	for _, part := range topology.Having(func(p topology.Part) bool { return slices.Contains(p.Stores, topology.Postgres) }) {
		secret, err := password(part.Name)
		if err != nil {
			return nil, err
		}
		roles = append(roles, pgconn.Role{Name: storeuser.Name(part.Name), Password: secret, Schema: part.Name, Before: before[part.Name]})
	}
	return roles, nil
}

// rolesReady makes the parts' roles as soon as Postgres answers, once in the life of a plan: parts
// wait for Postgres to be ready before they start for the first time.
func (p *Plan) rolesReady(s store) probe {
	var made atomic.Bool
	return func(ctx context.Context) error {
		if made.Load() {
			return nil
		}
		owner, err := password(p.dir, s.Name, false)
		if err != nil {
			return err
		}
		roles, err := Roles(func(part string) (string, error) { return storeuser.Password(owner, s.Name, part) })
		if err != nil {
			return err
		}
		conn, err := pgx.Connect(ctx, s.url)
		if err != nil {
			return shortNetError(err)
		}
		defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
		if err := pgconn.MakeRoles(ctx, conn, roles); err != nil {
			return err
		}
		made.Store(true)
		return nil
	}
}
