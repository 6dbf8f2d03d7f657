package pgconn

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// rolesLock keeps those who make roles at once from meeting, for the database server as a whole.
const rolesLock = 0x6c65616b79 // "leaky"

// Role is the user of a part: it owns the schema of its name and sees no other.
type Role struct {
	Name     string
	Password string
	Schema   string
	// Before matches, as a whole, the names of what the part kept in the schema public before it had
	// one of its own: that is moved. Empty: nothing is.
	Before string
}

// MakeRoles makes the roles and their schemas, or brings those that are there up to date. The
// connection is that of somebody who may make roles, to the database that the parts share and nobody
// else uses. What a role does not own it can neither read nor change, and each finds its own tables
// without naming the schema. Schemas are apart, since who can make a function where another looks
// for one can have it run in the other's name (CVE-2018-1058).
func MakeRoles(ctx context.Context, conn *pgx.Conn, roles []Role) error {
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", rolesLock); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "REVOKE ALL ON SCHEMA public FROM PUBLIC"); err != nil {
			return err
		}
		for _, r := range roles {
			if err := r.make(ctx, tx); err != nil {
				return fmt.Errorf("%s: %w", r.Name, err)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("make roles: %w", err)
	}
	return nil
}

// Statements that take names and passwords are written by Postgres itself, which knows how to quote
// them; $1 is the role, $2 its schema, $3 the password.
const (
	makeRole   = `SELECT format('CREATE ROLE %I', $1::text) WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)`
	becomeRole = `SELECT format('GRANT %I TO CURRENT_USER', $1::text) FROM pg_roles WHERE rolname = current_user AND NOT rolsuper`
	setRole    = `SELECT format('ALTER ROLE %I LOGIN NOCREATEDB NOCREATEROLE PASSWORD %L', $1::text, $2::text)`
	findRole   = `SELECT format('ALTER ROLE %1$I IN DATABASE %3$I SET search_path = %2$I', $1::text, $2::text, current_database())`
	connect    = `SELECT format('GRANT CONNECT ON DATABASE %2$I TO %1$I', $1::text, current_database())`
	makeSchema = `SELECT format('CREATE SCHEMA IF NOT EXISTS %2$I AUTHORIZATION %1$I', $1::text, $2::text)`

	moveTables = `SELECT format('ALTER TABLE public.%1$I OWNER TO %2$I; ALTER TABLE public.%1$I SET SCHEMA %3$I', relname, $1::text, $2::text)
		FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v') AND relname ~ ('^(' || $3 || ')$') ORDER BY relname`
	moveFunctions = `SELECT format('ALTER FUNCTION %1$s OWNER TO %2$I; ALTER FUNCTION %1$s SET SCHEMA %3$I', oid::regprocedure, $1::text, $2::text)
		FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND proname ~ ('^(' || $3 || ')$') ORDER BY proname`
)

func (r Role) make(ctx context.Context, tx pgx.Tx) error {
	steps := []struct {
		statement string
		args      []any
	}{
		{makeRole, []any{r.Name}}, {becomeRole, []any{r.Name}}, {setRole, []any{r.Name, r.Password}},
		{makeSchema, []any{r.Name, r.Schema}}, {findRole, []any{r.Name, r.Schema}}, {connect, []any{r.Name}},
	}
	for _, s := range steps {
		if err := write(ctx, tx, s.statement, s.args...); err != nil {
			return err
		}
	}
	if r.Before == "" {
		return nil
	}
	for _, move := range []string{moveTables, moveFunctions} {
		if err := write(ctx, tx, move, r.Name, r.Schema, r.Before); err != nil {
			return err
		}
	}
	return nil
}

// write has Postgres write statements, and runs them.
func write(ctx context.Context, tx pgx.Tx, writer string, args ...any) error {
	rows, err := tx.Query(ctx, writer, args...)
	if err != nil {
		return err
	}
	statements, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, one := range statements {
		if _, err := tx.Conn().PgConn().Exec(ctx, one).ReadAll(); err != nil {
			return err
		}
	}
	return nil
}
