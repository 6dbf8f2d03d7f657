package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats-server/v2/server"

	"github.com/leaky-tokens/leaky-tokens/cmd/leaky/serve"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// TestNATSTakesThePrintedUsers reads what is printed as nats-server does.
func TestNATSTakesThePrintedUsers(t *testing.T) {
	t.Parallel()
	var text strings.Builder
	text.WriteString("LEAKY_NATS_PASSWORD: owners\n")
	for part := range serve.NATSRights() {
		text.WriteString("LEAKY_NATS_PASSWORD_" + strings.ToUpper(strings.ReplaceAll(part, "-", "_")) + ": \"of " + part + "\"\n")
	}
	if err := printNATSUsers(&text); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "nats.conf")
	if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	options, err := server.ProcessConfigFile(file)
	if err != nil {
		t.Fatalf("%v\n%s", err, text.String())
	}
	if want := len(serve.NATSRights()) + 1; len(options.Users) != want {
		t.Fatalf("want %d users, got %d", want, len(options.Users))
	}
	for _, u := range options.Users {
		if (u.Username == "leaky") != (u.Permissions == nil) || u.Password == "" {
			t.Errorf("%s: want a password, and bounds for all but the owner, got %+v", u.Username, u.Permissions)
		}
		if u.Username == "leaky_extauthz" && strings.Contains(strings.Join(u.Permissions.Publish.Allow, " "), "leaky.usage") {
			t.Errorf("extauthz: want no more that it may publish than where it is, got %+v", u.Permissions.Publish)
		}
	}
}

// TestRolesInAPostgresThatRunsElsewhere: each part's URL opens its own schema, also after a second run.
func TestRolesInAPostgresThatRunsElsewhere(t *testing.T) {
	t.Parallel()
	dir, admin := filepath.Join(t.TempDir(), "secrets"), testenv.PostgresServer(t).URL()
	environment := []string{"LEAKY_POSTGRES_URL=" + admin}
	var first []byte
	for range 2 {
		if out, errs, ok := leaky(t, stateDir(t), environment, "bootstrap", "postgres", dir); !ok || out+errs != "" {
			t.Fatalf("want it done without a word, got %s%s", out, errs)
		}
		path := urlFile(dir, "identity", "postgres")
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 || first != nil && string(first) != string(text) {
			t.Errorf("want the same URL for its owner alone, got %v, %v, another one: %v", info.Mode(), err, string(first) != string(text))
		}
		first = text
	}
	conn, err := pgx.Connect(t.Context(), string(first))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	var schema string
	if err := conn.QueryRow(t.Context(), "SELECT current_schema()").Scan(&schema); err != nil || schema != "identity" {
		t.Errorf("want the schema identity, got %q, %v", schema, err)
	}
	if _, errs, ok := leaky(t, stateDir(t), nil, "bootstrap", "postgres", dir); ok || !strings.Contains(errs, "set LEAKY_POSTGRES_URL") {
		t.Errorf("without an address: want what to set, got %s", errs)
	}
}
