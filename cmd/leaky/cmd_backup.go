package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	identityschema "github.com/leaky-tokens/leaky-tokens/identity/migrations"
	"github.com/leaky-tokens/leaky-tokens/internal/backup"
	tokenschema "github.com/leaky-tokens/leaky-tokens/tokensvc/migrations"
)

type backupCommand struct {
	output
	Dir       string   `arg:"" help:"Folder to write it into; it must be new or empty."`
	Recipient []string `placeholder:"KEY" help:"Encrypt it for this age recipient (age1...); may be stated more than once."`
}

// Help shows how it is used.
func (backupCommand) Help() string {
	return `Copies Postgres, ClickHouse, JetStream and Redis while they are used, so that the copies fit together: a restore and then the books themselves bring back every call up to the backup's moment. Beside it keep LEAKY_KEYS_SECRET, or the secrets folder of the state folder where that has none, and leaky.yaml: they are not in it. The stores are those of LEAKY_POSTGRES_URL, LEAKY_CLICKHOUSE_URL, LEAKY_NATS_URL and LEAKY_REDIS_URL, else those of the stack.

Examples:

    leaky backup /var/backups/leaky/2026-11-29
    leaky backup --recipient age1... backup -o json | jq .moment`
}

type restoreCommand struct {
	output
	Dir      string `arg:"" help:"Folder of the backup."`
	Identity string `placeholder:"FILE" help:"The age identity that opens an encrypted backup."`
	Check    bool   `help:"Only look whether it is whole; needs no stores and no key."`
}

// Help shows how it is used.
func (restoreCommand) Help() string {
	return `Refuses a backup that is incomplete or damaged, and stores that are not empty, before it writes anything. No service may run meanwhile. The services then read the copied stream once more, and the books agree up to the backup's moment.

Examples:

    leaky restore --check /var/backups/leaky/2026-11-29
    leaky restore /var/backups/leaky/2026-11-29 --identity key.txt`
}

// Run copies the stores.
func (b backupCommand) Run(ctx context.Context, c *cli) error {
	cfg, err := stores(c)
	if err != nil {
		return err
	}
	if len(b.Recipient) > 0 {
		if cfg.Recipients, err = backup.Recipients(b.Recipient); err != nil {
			return fmt.Errorf("--recipient: %w", err)
		}
	}
	m, err := backup.Run(ctx, cfg, b.Dir)
	if err != nil {
		return err
	}
	return b.tell(m, fmt.Sprintf("A restore brings back %s. What comes after is lost with the stores: the recovery point is as old as the last backup.",
		m.Moment.Format(time.RFC3339)))
}

// Run checks a backup, and brings it back.
func (r restoreCommand) Run(ctx context.Context, c *cli) error {
	if r.Check {
		m, err := backup.Check(r.Dir)
		if err != nil {
			return err
		}
		return r.tell(m, "The backup is whole.")
	}
	cfg, err := stores(c)
	if err != nil {
		return err
	}
	if r.Identity != "" {
		if cfg.Identities, err = backup.Identities(r.Identity); err != nil {
			return fmt.Errorf("--identity: %w", err)
		}
	}
	begun := time.Now()
	m, err := backup.Restore(ctx, cfg, r.Dir)
	if err != nil {
		return err
	}
	return r.tell(m, fmt.Sprintf("Restored %s in %.1f s, which is the recovery time without the start of the services.",
		m.Moment.Format(time.RFC3339), time.Since(begun).Seconds()))
}

func (o output) tell(m backup.Manifest, last string) error {
	rows := [][]string{}
	for _, f := range m.Files {
		rows = append(rows, []string{f.Name, fmt.Sprint(f.Rows), fmt.Sprint(f.Bytes)})
	}
	if err := o.print(os.Stdout, m, []string{"FILE", "ROWS", "BYTES"}, rows); err != nil || o.Output == "json" {
		return err
	}
	fmt.Println("\n" + last)
	return nil
}

// stores are those of the stack, or those that the environment names.
func stores(c *cli) (backup.Config, error) {
	cfg := backup.Config{Release: version, Log: slog.New(slog.DiscardHandler),
		Progress: func(done string) { fmt.Fprintln(os.Stderr, done) }}
	l, err := openLocal(c)
	if err != nil {
		return cfg, err
	}
	plan, err := l.plan(false)
	if err != nil {
		return cfg, err
	}
	known := map[string]string{}
	for _, e := range plan.Exports() {
		known[e.Name] = e.Value
	}
	for name, to := range map[string]*string{"LEAKY_POSTGRES_URL": &cfg.Postgres, "LEAKY_CLICKHOUSE_URL": &cfg.ClickHouse,
		"LEAKY_NATS_URL": &cfg.NATS, "LEAKY_REDIS_URL": &cfg.Redis} {
		if *to = known[name]; *to == "" {
			return cfg, fmt.Errorf("a store is not known here; set %s, or run this beside the state folder (LEAKY_STATE_DIR)", name)
		}
	}
	cfg.Migrate = func(ctx context.Context, db *pgxpool.Pool) error {
		return errors.Join(identityschema.Up(ctx, db), tokenschema.Up(ctx, db))
	}
	cfg.Events = func(ctx context.Context) error {
		events, err := openEvents(ctx, c)
		if err != nil {
			return err
		}
		return events.Close()
	}
	return cfg, nil
}
