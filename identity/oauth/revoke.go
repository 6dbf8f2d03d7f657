package oauth

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/leaky-tokens/leaky-tokens/identity/audit"
	"github.com/leaky-tokens/leaky-tokens/identity/grants"
	"github.com/leaky-tokens/leaky-tokens/identity/identitydb"
	"github.com/leaky-tokens/leaky-tokens/identity/revocations"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/revocation"
)

// skew is how much longer than an access token its revocation is kept, for clocks that
// differ.
const skew = 2 * time.Minute

// revokeOne ends one access token and no other.
func (p *Provider) revokeOne(ctx context.Context, c identitydb.OauthClient, claims grants.Claims) error {
	r := revocation.Revocation{Kind: revocation.Token, ID: claims.ID, Until: claims.ExpiresAt.Add(skew).UTC()}
	err := pgx.BeginFunc(ctx, p.cfg.Pool, func(tx pgx.Tx) error {
		if err := revocations.Record(ctx, tx, r); err != nil {
			return err
		}
		return audit.Record(ctx, tx, audit.Entry{Actor: claims.Subject, Client: c.ID, Action: "token.revoke", Target: claims.ID})
	})
	if err != nil {
		return fmt.Errorf("revoke token: %w", err)
	}
	p.cfg.Announce(r)
	return nil
}

// endOwn ends all tokens that a client got by client credentials. What it gives is to
// be announced after the commit.
func (p *Provider) endOwn(ctx context.Context, tx identitydb.DBTX, family uuid.UUID) (revocation.Revocation, error) {
	r := revocation.Revocation{Kind: revocation.Family, ID: family.String(), Until: time.Now().Add(p.cfg.Tokens.TTL + skew).UTC()}
	return r, revocations.Record(ctx, tx, r)
}
