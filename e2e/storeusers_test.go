package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/leaky-tokens/leaky-tokens/internal/storeuser"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// exported is a variable of `leaky env`.
func exported(t *testing.T, name string) string {
	t.Helper()
	out, err := running.Leaky(t.Context(), "env")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(out, name+"='")
	value, _, _ := strings.Cut(rest, "'")
	return value
}

// TestPartsAreUsersOfTheirOwn: the running parts connect as users of their own, who cannot read what
// another part keeps.
func TestPartsAreUsersOfTheirOwn(t *testing.T) {
	t.Parallel()
	owner := exported(t, "LEAKY_POSTGRES_URL")
	open := func(address string) *pgx.Conn {
		conn, err := pgx.Connect(t.Context(), address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close(t.Context()) })
		return conn
	}
	asOwner := open(owner)
	testenv.Eventually(t, "each part has connected as itself", func() bool {
		var names string
		err := asOwner.QueryRow(t.Context(), `SELECT string_agg(DISTINCT usename, ' ' ORDER BY usename) FROM pg_stat_activity
			WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND usename LIKE 'leaky\_%'`).Scan(&names)
		return err == nil && names == "leaky_identity leaky_tokensvc"
	})
	for part, theirs := range map[string][]string{
		topology.Identity: {"tokensvc.token_ledger", "tokensvc.token_pools", "pg_authid"},
		topology.TokenSvc: {"identity.users", "identity.api_keys", "identity.signing_keys", "pg_authid"},
	} {
		address, err := storeuser.URL(owner, topology.Postgres, part)
		if err != nil {
			t.Fatal(err)
		}
		conn := open(address)
		for _, table := range theirs {
			if _, err := conn.Exec(t.Context(), "SELECT * FROM "+table+" LIMIT 1"); err == nil || !strings.Contains(err.Error(), "permission denied") {
				t.Errorf("%s reads %s: want permission denied, got %v", part, table, err)
			}
		}
	}
}

// trespass is what a store says to a part that does what it may not.
var trespass = regexp.MustCompile(`(?i)permissions violation|permission denied for (schema|table|function|view|sequence)`)

// trespasses are the lines of the parts' logs that say so: rights are what parts need, whatever the
// tests of this package had them do.
func trespasses(state string) error {
	var found []error
	logs, err := filepath.Glob(filepath.Join(state, "logs", "*.log"))
	if err != nil || len(logs) == 0 {
		return fmt.Errorf("look for logs: %d, %w", len(logs), err)
	}
	for _, path := range logs {
		if filepath.Base(path) == topology.Postgres+".log" {
			continue // it tells of this file's own attempts
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(text)) {
			if trespass.MatchString(line) {
				found = append(found, fmt.Errorf("%s: %.300s", filepath.Base(path), strings.TrimSpace(line)))
			}
		}
	}
	return errors.Join(found...)
}
