package backup

import (
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// TestTablesOfEverySchemaAreFound: parts share one, or have their own.
func TestTablesOfEverySchemaAreFound(t *testing.T) {
	t.Parallel()
	pool := testenv.Postgres(t)
	for _, statement := range []string{"CREATE SCHEMA identity", "CREATE SCHEMA tokensvc", "CREATE TABLE identity.users (id int PRIMARY KEY)",
		"CREATE TABLE identity.members (id int REFERENCES identity.users)", "CREATE TABLE tokensvc.books (id int)", "CREATE TABLE shared (id int)",
		"CREATE SCHEMA other", "CREATE TABLE other.not_ours (id int)", "INSERT INTO identity.users VALUES (1)"} {
		if _, err := pool.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		if err := everySchema(t.Context(), tx); err != nil {
			return err
		}
		found, err := tablesOf(t.Context(), tx)
		if want := []string{"books", "shared", "users", "members"}; err == nil && (len(found) != len(want) ||
			slices.Index(found, "members") < slices.Index(found, "users") || slices.Contains(found, "not_ours")) {
			t.Errorf("want %v, got %v", want, found)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := emptyPostgres(t.Context(), Config{Postgres: pool.Config().ConnString()}); err == nil {
		t.Error("want a database whose users stand in a schema of their own refused")
	}
}
