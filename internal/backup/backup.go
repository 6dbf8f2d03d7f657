// Package backup is beside the request path: it copies what Postgres, ClickHouse, JetStream and Redis
// keep into a folder while they are used, and brings it back into empty ones.
//
// The copies fit together since they are made in the order in which what happens moves on, the other
// way round: Postgres first, as it is at one moment (which is the backup's), then the calls in
// ClickHouse, then the stream of events, then Redis. An event that came after the moment is in the
// stream's copy, so that after a restore the books take it in as they did before: each event counts
// once, however often it comes. What is not copied are the states of pools, in the stream and in
// Redis: they would be newer than Postgres, and Redis asks for them anew.
//
// A folder without manifest.json is no backup: it is written last, with the length and the SHA-256 of
// each file, and a restore looks at all of them before it writes anything.
package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"filippo.io/age"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/leaky-tokens/leaky-tokens/internal/durable"
)

const (
	manifestName = "manifest.json"
	format       = 1
)

// Config is where the stores are, and what reads and writes copies.
type Config struct {
	Postgres, ClickHouse, NATS, Redis string // URLs, as leaky.yaml has them

	Release string                                            // of this program, for the manifest
	Migrate func(ctx context.Context, db *pgxpool.Pool) error // brings Postgres' schema up to date
	Events  func(ctx context.Context) error                   // ClickHouse's

	Recipients []age.Recipient // whom a backup is encrypted for; none: it is not
	Identities []age.Identity  // who reads an encrypted one

	Progress func(done string) // told of each step; never nil
	Log      *slog.Logger
}

// Manifest says what a backup has.
type Manifest struct {
	Format    int              `json:"format"`
	Release   string           `json:"release"`
	Moment    time.Time        `json:"moment"` // what a restore brings back
	Seconds   float64          `json:"seconds"`
	Encrypted bool             `json:"encrypted"`
	Schemas   map[string]int64 `json:"schemas"` // versions of Postgres' migrations, by table
	Files     []File           `json:"files"`
}

// File is one of a backup, as it is stored.
type File struct {
	Name   string `json:"name"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
	Rows   int64  `json:"rows"` // or messages, or keys
}

// Run copies everything into dir, which must not be there or be empty.
func Run(ctx context.Context, c Config, dir string) (Manifest, error) {
	begun := time.Now()
	if err := emptyFolder(dir); err != nil {
		return Manifest{}, err
	}
	to := &writer{dir: dir, recipients: c.Recipients, told: c.Progress}
	m := Manifest{Format: format, Release: c.Release, Encrypted: len(c.Recipients) > 0}
	for _, store := range []struct {
		name string
		copy func(context.Context, Config, *writer, *Manifest) error
	}{{"Postgres", copyPostgres}, {"ClickHouse", copyClickHouse}, {"JetStream", copyStream}, {"Redis", copyRedis}} {
		if err := store.copy(ctx, c, to, &m); err != nil {
			return m, fmt.Errorf("copy %s: %w", store.name, err)
		}
	}
	m.Files, m.Seconds = to.files, time.Since(begun).Seconds()
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return m, err
	}
	if err := durable.Replace(filepath.Join(dir, manifestName), append(text, '\n')); err != nil {
		return m, fmt.Errorf("write manifest: %w", err)
	}
	return m, nil
}

func emptyFolder(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	there, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read folder: %w", err)
	}
	if len(there) > 0 {
		return fmt.Errorf("%s is not empty; a backup has a folder of its own", dir)
	}
	return nil
}

// Restore brings a backup back into stores that are empty. No part of the stack may run meanwhile.
func Restore(ctx context.Context, c Config, dir string) (Manifest, error) {
	m, err := Check(dir)
	if err != nil {
		return m, err
	}
	from := &reader{dir: dir, manifest: m, identities: c.Identities, told: c.Progress}
	if m.Encrypted && len(c.Identities) == 0 {
		return m, errors.New("the backup is encrypted: name the file of its age identity (--identity)")
	}
	if err := from.decipher(); err != nil {
		return m, err
	}
	if err := wantEmpty(ctx, c); err != nil {
		return m, err
	}
	for _, store := range []struct {
		name string
		fill func(context.Context, Config, *reader) error
	}{{"Postgres", fillPostgres}, {"ClickHouse", fillClickHouse}, {"JetStream", fillStream}, {"Redis", fillRedis}} {
		if err := store.fill(ctx, c, from); err != nil {
			return m, fmt.Errorf("fill %s: %w", store.name, err)
		}
	}
	return m, nil
}

// wantEmpty refuses stores that have something, before anything is written into one of them.
func wantEmpty(ctx context.Context, c Config) error {
	for _, look := range []func(context.Context, Config) error{emptyPostgres, emptyClickHouse, emptyStream, emptyRedis} {
		if err := look(ctx, c); err != nil {
			return err
		}
	}
	return nil
}
