package testenv_test

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

func TestPostgresDatabasesAreApart(t *testing.T) {
	t.Parallel()
	one, two := testenv.Postgres(t), testenv.Postgres(t)
	if _, err := one.Exec(t.Context(), "CREATE TABLE a (id int); INSERT INTO a VALUES (1)"); err != nil {
		t.Fatal(err)
	}
	var n int
	if err := one.QueryRow(t.Context(), "SELECT count(*) FROM a").Scan(&n); err != nil || n != 1 {
		t.Errorf("rows in the first database: want 1, got %d, %v", n, err)
	}
	if _, err := two.Exec(t.Context(), "SELECT * FROM a"); err == nil {
		t.Error("the second database sees the first one's table: want an error, got none")
	}
}

func TestPostgresServerKeepsWhatWasCommitted(t *testing.T) {
	t.Parallel()
	server := testenv.PostgresServer(t)
	run := func(sql string) {
		t.Helper()
		conn, err := pgx.Connect(t.Context(), server.URL())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
		defer conn.Close(t.Context())
	}
	run("CREATE TABLE kept (n int)")
	server.Restart()
	run("INSERT INTO kept VALUES (1)")
}
