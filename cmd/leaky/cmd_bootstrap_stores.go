package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/leaky-tokens/leaky-tokens/cmd/leaky/serve"
	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/local/stack"
	"github.com/leaky-tokens/leaky-tokens/internal/pgconn"
	"github.com/leaky-tokens/leaky-tokens/internal/secretfile"
	"github.com/leaky-tokens/leaky-tokens/internal/storeuser"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

type bootstrapPostgres struct {
	Dir string `arg:"" help:"Folder for each part's URL: a file PART.postgres_url of mode 0600."`
}

// Help shows how it is used.
func (bootstrapPostgres) Help() string {
	return `Each part that uses Postgres gets a role that owns a schema of its own and sees no other, with the tables that are there already. LEAKY_POSTGRES_URL (or stores.postgres) is that of somebody who may make roles, to the database that the parts share and nobody else uses; the parts get the URLs in the folder instead. To run it again changes nothing, and follows a database that has moved.

Examples:

    LEAKY_POSTGRES_URL=postgres://admin:...@db:5432/leaky leaky bootstrap postgres secrets
    LEAKY_POSTGRES_URL_FILE=secrets/identity.postgres_url leaky serve identity`
}

// Run makes the roles.
func (b bootstrapPostgres) Run(ctx context.Context, c *cli) error {
	cfg, err := config.Load(c.Config, os.Getenv)
	if err != nil {
		return err
	}
	admin, err := url.Parse(cfg.Stores.Postgres)
	if err != nil || cfg.Stores.Postgres == "" {
		return errors.New("bootstrap postgres: set LEAKY_POSTGRES_URL, postgres://user:password@host:port/database")
	}
	roles, err := stack.Roles(func(part string) (string, error) { return passwordIn(urlFile(b.Dir, part, topology.Postgres)) })
	if err != nil {
		return err
	}
	for _, r := range roles { // before the roles: what is made must not be lost
		own := *admin
		own.User = url.UserPassword(r.Name, r.Password)
		path := urlFile(b.Dir, r.Schema, topology.Postgres)
		if err := secretfile.Replace(path, []byte(own.String())); err != nil {
			return fmt.Errorf("write %s: %w", path, err)
		}
	}
	conn, err := pgx.Connect(ctx, cfg.Stores.Postgres)
	if err != nil {
		return fmt.Errorf("connect to postgres: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	return pgconn.MakeRoles(ctx, conn, roles)
}

// urlFile is where the URL is by which a part reaches a store.
func urlFile(dir, part, store string) string { return filepath.Join(dir, part+"."+store+"_url") }

// passwordIn is the password in a file with a URL, a new one where there is no file.
func passwordIn(path string) (string, error) {
	text, err := secretfile.Load(path)
	if errors.Is(err, fs.ErrNotExist) {
		return rand.Text(), nil
	}
	if err != nil {
		return "", err
	}
	u, err := url.Parse(strings.TrimSpace(string(text)))
	if err == nil {
		if password, ok := u.User.Password(); ok && password != "" {
			return password, nil
		}
	}
	return "", fmt.Errorf("%s holds no URL with a password: remove it to make a new one", path)
}

type bootstrapNATS struct {
	Streams bool `help:"Make the streams of events as the user of LEAKY_NATS_URL instead, and print nothing: after an upgrade, as parts may not change them."`
}

// Help shows how it is used.
func (bootstrapNATS) Help() string {
	return `It prints what nats-server includes: an owner, who may do everything, and a user for each part with the subjects that it needs. Passwords are variables of the server's environment.

Examples:

    leaky bootstrap nats > leaky-users.conf     # include "leaky-users.conf"
    LEAKY_NATS_URL=nats://leaky:...@nats:4222 leaky bootstrap nats --streams
    LEAKY_NATS_URL=nats://leaky_meter:...@nats:4222 leaky serve meter`
}

// Run prints the users, or makes the streams.
func (b bootstrapNATS) Run(ctx context.Context, c *cli) error {
	if !b.Streams {
		return printNATSUsers(os.Stdout)
	}
	cfg, err := config.Load(c.Config, os.Getenv)
	if err != nil {
		return err
	}
	if cfg.Stores.NATS == "" {
		return errors.New("bootstrap nats: set LEAKY_NATS_URL, nats://user:password@host:port")
	}
	return serve.MakeStreams(ctx, cfg.Stores.NATS)
}

// printNATSUsers writes the block "authorization" of nats-server's configuration.
func printNATSUsers(out io.Writer) error {
	var text strings.Builder
	text.WriteString("authorization {\n  users: [\n    {user: leaky, password: $LEAKY_NATS_PASSWORD}\n")
	rights := serve.NATSRights()
	for _, part := range slices.Sorted(maps.Keys(rights)) {
		r := rights[part]
		fmt.Fprintf(&text, "    {user: %s, password: $LEAKY_NATS_PASSWORD_%s, permissions: {\n", storeuser.Name(part),
			strings.ToUpper(strings.ReplaceAll(part, "-", "_")))
		fmt.Fprintf(&text, "      publish: %s\n      subscribe: %s\n", subjectList(r.Publish, r.Deny), subjectList(r.Subscribe, nil))
		if r.Answers {
			text.WriteString("      allow_responses: {max: 1, expires: \"30s\"}\n")
		}
		text.WriteString("    }}\n")
	}
	text.WriteString("  ]\n}\n")
	_, err := io.WriteString(out, text.String())
	return err
}

// subjectList writes what is allowed and what of it is not; nothing at all is written as everything
// denied, since an empty list allows everything.
func subjectList(allow, deny []string) string {
	if len(allow) == 0 {
		return `{deny: [">"]}`
	}
	list := "{allow: " + quotedList(allow)
	if len(deny) > 0 {
		list += ", deny: " + quotedList(deny)
	}
	return list + "}"
}

func quotedList(subjects []string) string { return `["` + strings.Join(subjects, `", "`) + `"]` }
