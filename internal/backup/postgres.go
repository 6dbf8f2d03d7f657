package backup

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/leaky-tokens/leaky-tokens/internal/pgconn"
)

const (
	postgresPrefix = "postgres-"
	postgresSuffix = ".copy.gz"
)

// copyPostgres copies every table as it is at one moment, in the format of Postgres' COPY.
func copyPostgres(ctx context.Context, c Config, to *writer, m *Manifest) error {
	conn, err := connect(ctx, c.Postgres)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer tx.Rollback(ctx) //nolint:errcheck // it only read
	if err := tx.QueryRow(ctx, "SELECT now()").Scan(&m.Moment); err != nil {
		return fmt.Errorf("read clock: %w", err)
	}
	m.Moment = m.Moment.UTC().Truncate(time.Millisecond)
	if err := everySchema(ctx, tx); err != nil {
		return err
	}
	if m.Schemas, err = schemas(ctx, tx); err != nil {
		return err
	}
	tables, err := tablesOf(ctx, tx)
	if err != nil {
		return err
	}
	for _, table := range tables {
		err := to.file(postgresPrefix+table+postgresSuffix, func(w io.Writer) (int64, error) {
			tag, err := conn.PgConn().CopyTo(ctx, w, "COPY "+quoted(table)+" TO STDOUT (FORMAT binary)")
			return tag.RowsAffected(), err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// fillPostgres makes the schema and copies all tables in one transaction.
func fillPostgres(ctx context.Context, c Config, from *reader) error {
	pool, err := pgconn.Open(ctx, pgconn.Config{URL: c.Postgres})
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := c.Migrate(ctx, pool); err != nil {
		return fmt.Errorf("make schema: %w", err)
	}
	conn, err := connect(ctx, c.Postgres)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	tx, err := conn.Begin(ctx)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer tx.Rollback(ctx) //nolint:errcheck // after the commit there is nothing to undo
	have, err := schemas(ctx, tx)
	if err != nil {
		return err
	}
	if !maps.Equal(have, from.manifest.Schemas) {
		return fmt.Errorf("the backup has schema %v, this release %v: restore with release %s, then upgrade", from.manifest.Schemas, have,
			from.manifest.Release)
	}
	tables, err := tablesOf(ctx, tx)
	if err != nil {
		return err
	}
	copied := from.with(postgresPrefix, postgresSuffix)
	if missing := slices.DeleteFunc(slices.Clone(tables), func(t string) bool { return slices.Contains(copied, t) }); len(missing) > 0 {
		return fmt.Errorf("the backup lacks the tables %s", strings.Join(missing, ", "))
	}
	if err := takeAway(ctx, tx, tables); err != nil {
		return err
	}
	for _, table := range tables {
		err := from.file(postgresPrefix+table+postgresSuffix, func(r io.Reader) error {
			_, err := conn.PgConn().CopyFrom(ctx, r, "COPY "+quoted(table)+" FROM STDIN (FORMAT binary)")
			return err
		})
		if err != nil {
			return err
		}
		if err := continueNumbers(ctx, tx, table); err != nil {
			return err
		}
	}
	if err := tx.Commit(ctx); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

// takeAway removes what migrations put into tables, since the copy has it. Tables that only grow have
// nothing, and refuse a DELETE even so.
func takeAway(ctx context.Context, tx pgx.Tx, tables []string) error {
	for _, table := range slices.Backward(tables) {
		some, err := hasRows(ctx, tx, table)
		if err != nil || !some {
			if err != nil {
				return err
			}
			continue
		}
		if _, err := tx.Exec(ctx, "DELETE FROM "+quoted(table)); err != nil {
			return fmt.Errorf("empty %s: %w", table, err)
		}
	}
	return nil
}

func hasRows(ctx context.Context, tx pgx.Tx, table string) (some bool, err error) {
	if err := tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM "+quoted(table)+")").Scan(&some); err != nil {
		return false, fmt.Errorf("look at %s: %w", table, err)
	}
	return some, nil
}

// continueNumbers lets numbers that Postgres gives go on after the highest that is there.
func continueNumbers(ctx context.Context, tx pgx.Tx, table string) error {
	rows, err := tx.Query(ctx, `SELECT a.attname FROM pg_attribute a WHERE a.attrelid = $1::regclass AND a.attidentity <> ''`, quoted(table))
	if err != nil {
		return fmt.Errorf("find numbers of %s: %w", table, err)
	}
	columns, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("find numbers of %s: %w", table, err)
	}
	for _, column := range columns {
		if _, err := tx.Exec(ctx, fmt.Sprintf(`SELECT setval(pg_get_serial_sequence($1, $2), coalesce(max(%s), 0) + 1, false) FROM %s`,
			quoted(column), quoted(table)), quoted(table), column); err != nil {
			return fmt.Errorf("continue numbers of %s: %w", table, err)
		}
	}
	return nil
}

// everySchema lets a transaction find the tables of parts that have schemas of their own, as well as
// those that share one.
func everySchema(ctx context.Context, tx pgx.Tx) error {
	if _, err := tx.Exec(ctx, `SELECT set_config('search_path', current_setting('search_path') || ', identity, tokensvc', true)`); err != nil {
		return fmt.Errorf("look into the parts' schemas: %w", err)
	}
	return nil
}

// tablesOf are all but those of migrations, each after those that its foreign keys point at.
func tablesOf(ctx context.Context, tx pgx.Tx) ([]string, error) {
	rows, err := tx.Query(ctx, `SELECT c.relname, ARRAY(SELECT f.relname::text FROM pg_constraint k JOIN pg_class f ON f.oid = k.confrelid
			WHERE k.conrelid = c.oid AND k.contype = 'f' AND k.confrelid <> c.oid)
		FROM pg_class c WHERE c.relnamespace = ANY (current_schemas(false)::text[]::regnamespace[]) AND c.relkind = 'r'
			AND c.relname NOT LIKE 'goose%'
		ORDER BY c.relname`)
	if err != nil {
		return nil, fmt.Errorf("list tables: %w", err)
	}
	needs, waiting := map[string][]string{}, []string{}
	var name string
	var before []string
	if _, err := pgx.ForEachRow(rows, []any{&name, &before}, func() error {
		needs[name], waiting = slices.Clone(before), append(waiting, name)
		return nil
	}); err != nil {
		return nil, fmt.Errorf("list tables: %w", err)
	}
	var sorted []string
	for len(waiting) > 0 {
		left := slices.DeleteFunc(slices.Clone(waiting), func(t string) bool {
			free := !slices.ContainsFunc(needs[t], func(n string) bool { return !slices.Contains(sorted, n) })
			if free {
				sorted = append(sorted, t)
			}
			return free
		})
		if len(left) == len(waiting) {
			return nil, fmt.Errorf("the tables %s point at each other", strings.Join(left, ", "))
		}
		waiting = left
	}
	return sorted, nil
}

// schemas are the versions of the migrations that were applied.
func schemas(ctx context.Context, tx pgx.Tx) (map[string]int64, error) {
	versions := map[string]int64{}
	for _, table := range []string{"goose_identity", "goose_tokensvc"} {
		var version int64
		if err := tx.QueryRow(ctx, "SELECT coalesce(max(version_id), 0) FROM "+table).Scan(&version); err != nil {
			return nil, fmt.Errorf("read schema version: %w", err)
		}
		versions[table] = version
	}
	return versions, nil
}

// emptyPostgres refuses a database that somebody has used. One in which there is a schema alone is as
// good as empty: a restore that failed leaves it so.
func emptyPostgres(ctx context.Context, c Config) error {
	conn, err := connect(ctx, c.Postgres)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if err := everySchema(ctx, tx); err != nil {
			return err
		}
		tables, err := tablesOf(ctx, tx)
		if err != nil {
			return err
		}
		for _, table := range []string{"users", "audit_log", "token_ledger", "token_outbox"} {
			if !slices.Contains(tables, table) {
				continue
			}
			some, err := hasRows(ctx, tx, table)
			if err != nil {
				return err
			}
			if some {
				return fmt.Errorf("the database of Postgres has %s; a restore goes into an empty one (DROP DATABASE, CREATE DATABASE)", table)
			}
		}
		return nil
	})
}

// connect opens one connection, for a transaction and COPY.
func connect(ctx context.Context, url string) (*pgx.Conn, error) {
	pool, err := pgconn.Open(ctx, pgconn.Config{URL: url})
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect to Postgres: %w", err)
	}
	return conn.Hijack(), nil
}

func quoted(name string) string { return pgx.Identifier{name}.Sanitize() }
