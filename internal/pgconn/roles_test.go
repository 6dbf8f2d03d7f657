package pgconn_test

import (
	"context"
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/leaky-tokens/leaky-tokens/internal/pgconn"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// as connects as a role to the database of an address.
func as(t *testing.T, address string, role pgconn.Role) *pgx.Conn {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(role.Name, role.Password)
	return dial(t, u.String())
}

func dial(t *testing.T, address string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// must runs statements, each of which has to work.
func must(t *testing.T, conn *pgx.Conn, statements ...string) {
	t.Helper()
	for _, s := range statements {
		if _, err := conn.Exec(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

// pair are roles of this test alone: roles are those of the server, which tests share.
func pair(name string) (a, b pgconn.Role) {
	return pgconn.Role{Name: name + "_a", Password: "o'ne \\", Schema: name + "_a", Before: "goose_a|users|fold|view_of.*"},
		pgconn.Role{Name: name + "_b", Password: "two", Schema: name + "_b"}
}

func TestARoleSeesItsOwnAlone(t *testing.T) {
	t.Parallel()
	address := testenv.PostgresURL(t)
	owner := dial(t, address)
	one, two := pair("apart")
	for range 2 { // again at each start
		if err := pgconn.MakeRoles(t.Context(), owner, []pgconn.Role{one, two}); err != nil {
			t.Fatal(err)
		}
	}
	a, b := as(t, address, one), as(t, address, two)
	must(t, a, "CREATE TABLE secrets (name text)", "INSERT INTO secrets VALUES ('x')", "SELECT * FROM secrets")
	must(t, b, "CREATE TABLE books (n int)")
	for _, statement := range []string{
		"SELECT * FROM secrets", "SELECT * FROM apart_a.secrets", "INSERT INTO apart_a.secrets VALUES ('y')", "DROP TABLE apart_a.secrets",
		"CREATE TABLE apart_a.mine (n int)", "CREATE TABLE public.mine (n int)", "CREATE FUNCTION apart_a.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
		"SET ROLE apart_a", "CREATE ROLE apart_c", "CREATE DATABASE apart_c", "ALTER ROLE apart_b SUPERUSER", "ALTER ROLE apart_a PASSWORD 'mine'",
		"CREATE SCHEMA mine", "COPY books FROM PROGRAM 'id'", "SELECT pg_read_file('/etc/passwd')",
	} {
		if _, err := b.Exec(t.Context(), statement); err == nil {
			t.Errorf("%s: want it refused to another part's role, got no error", statement)
		}
	}
}

func TestWhatWasSharedMovesToItsPart(t *testing.T) {
	t.Parallel()
	address := testenv.PostgresURL(t)
	owner := dial(t, address)
	must(t, owner, "CREATE FUNCTION fold(n text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT lower(n)'",
		"CREATE TABLE users (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text)", "CREATE UNIQUE INDEX ON users (fold(name))",
		"CREATE VIEW view_of_users AS SELECT name FROM users", "CREATE TABLE goose_a (v int)", "CREATE TABLE others (n int)",
		"INSERT INTO users (name) VALUES ('Ann')")
	one, two := pair("moved")
	for range 2 {
		if err := pgconn.MakeRoles(t.Context(), owner, []pgconn.Role{one, two}); err != nil {
			t.Fatal(err)
		}
	}
	a := as(t, address, one)
	must(t, a, "INSERT INTO users (name) VALUES ('Bob')", "ALTER TABLE users ADD COLUMN mail text", "SELECT v FROM goose_a")
	var names string
	if err := a.QueryRow(t.Context(), "SELECT string_agg(name, ' ' ORDER BY name) FROM view_of_users").Scan(&names); err != nil || names != "Ann Bob" {
		t.Errorf("want Ann Bob by the view, got %q, %v", names, err)
	}
	if _, err := a.Exec(t.Context(), "INSERT INTO users (name) VALUES ('ANN')"); err == nil || !strings.Contains(err.Error(), "23505") {
		t.Errorf("want the index to hold still, got %v", err)
	}
	must(t, owner, "SELECT n FROM public.others")
}
