package oauth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/leaky-tokens/leaky-tokens/identity/audit"
	"github.com/leaky-tokens/leaky-tokens/identity/identitydb"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/revocation"
	"github.com/leaky-tokens/leaky-tokens/internal/secretfile"
)

// DevelopmentClient exists in development only, for trying things out.
const DevelopmentClient = "leaky-client"

// DevelopmentFile is where its generated secret stands, in the folder of secrets.
const DevelopmentFile = "leaky-client.json"

// ErrBadDevelopmentFile says that the file with its secret is no good; no waiting
// cures that.
var ErrBadDevelopmentFile = errors.New("malformed file of the development client")

type developmentFile struct {
	ClientID     string `json:"clientId"`
	ClientSecret string `json:"clientSecret"`
}

// Prepare makes the development client, with the secret of its file, or removes it
// when this is not development. Several replicas may do so at once.
func (p *Provider) Prepare(ctx context.Context, development bool, secrets string) error {
	ctx, cancel := context.WithTimeout(ctx, queryTime)
	defer cancel()
	if !development {
		if err := p.remove(ctx, DevelopmentClient); err != nil && !errors.Is(err, errNoClient) {
			return fmt.Errorf("remove development client: %w", err)
		}
		return nil
	}
	path := filepath.Join(secrets, DevelopmentFile)
	text, err := secretfile.LoadOrCreate(path, func() ([]byte, error) {
		return json.MarshalIndent(developmentFile{ClientID: DevelopmentClient, ClientSecret: token()}, "", "  ")
	})
	if err != nil {
		return err
	}
	var file developmentFile
	if err := json.Unmarshal(text, &file); err != nil || file.ClientID != DevelopmentClient || len(file.ClientSecret) < 32 {
		return fmt.Errorf("%w: %s: delete it to have a new one made", ErrBadDevelopmentFile, path)
	}
	return p.ensureDevelopment(ctx, file.ClientSecret)
}

func (p *Provider) ensureDevelopment(ctx context.Context, secret string) error {
	var ended []revocation.Revocation
	err := pgx.BeginFunc(ctx, p.cfg.Pool, func(tx pgx.Tx) error {
		q := identitydb.New(tx)
		if err := q.OAuthClientTurn(ctx); err != nil {
			return fmt.Errorf("wait for other replicas: %w", err)
		}
		c, err := q.OAuthLockClient(ctx, DevelopmentClient)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			return addDevelopment(ctx, tx, secret)
		case err != nil:
			return fmt.Errorf("read development client: %w", err)
		case sameSecret(c.SecretHash, secret):
			return nil
		}
		own, err := p.endOwn(ctx, tx, c.Family)
		if err != nil {
			return err
		}
		ended = append(ended, own)
		_, err = q.OAuthSetSecret(ctx, identitydb.OAuthSetSecretParams{ID: DevelopmentClient, SecretHash: hashed(secret), Family: uuid.New()})
		return err
	})
	if err == nil {
		p.cfg.Announce(ended...)
	}
	return err
}

func addDevelopment(ctx context.Context, tx pgx.Tx, secret string) error {
	c := identitydb.OauthClient{ID: DevelopmentClient, Name: "Development client", SecretHash: hashed(secret), RedirectUris: []string{},
		GrantTypes: []string{grantClient},
		Scopes:     []string{attributes.ScopeTokensRead, attributes.ScopeTokensWrite}, OwnerID: uuid.New(), Family: uuid.New(),
		Registered: byAdmin}
	if err := addServiceAccount(ctx, identitydb.New(tx), c); err != nil {
		return err
	}
	if err := insertClient(ctx, tx, c); err != nil {
		return err
	}
	return audit.Record(ctx, tx, audit.Entry{Actor: audit.System, Action: "client.create", Target: c.ID})
}
