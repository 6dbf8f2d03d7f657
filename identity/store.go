package identity

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"
	"github.com/pressly/goose/v3/lock"
)

//go:embed migrations/*.sql
var migrations embed.FS

var (
	errNotFound      = errors.New("not found")
	errNameTaken     = errors.New("username already exists")
	errEmailTaken    = errors.New("email already exists")
	errUnknownRole   = errors.New("unknown role")
	errLastAdmin     = errors.New("the last ADMIN cannot lose the role")
	errTooManyKeys   = errors.New("too many API keys")
	errForeignSecret = errors.New("sealed with another secret")
)

// queryTime bounds each statement: a hung database must not hang a caller.
const queryTime = 5 * time.Second

type user struct {
	id       uuid.UUID
	username string
	email    string
	hash     string // argon2id, see passwords
	roles    []string
	created  time.Time
}

// store is everything identity keeps, in Postgres.
type store struct{ pool *pgxpool.Pool }

// migrate brings the schema up to date. Replicas that start together take turns by
// an advisory lock, one per schema.
func (s store) migrate(ctx context.Context) error {
	db := stdlib.OpenDBFromPool(s.pool)
	defer db.Close()
	lockID, err := schemaLock(ctx, db)
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockID(lockID), lock.WithLockTimeout(1, 300))
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	provider, err := goose.NewProvider(database.DialectPostgres, db, files, goose.WithSessionLocker(locker),
		goose.WithTableName("goose_identity"), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	if _, err := provider.Up(ctx); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	return nil
}

func schemaLock(ctx context.Context, db *sql.DB) (id int64, err error) {
	err = db.QueryRowContext(ctx, `SELECT hashtextextended('identity migrations of ' || current_schema(), 0)`).Scan(&id)
	return id, err
}

// exclusively runs f in a transaction that no other replica runs at the same time.
func (s store) exclusively(ctx context.Context, f func(pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtextextended('identity start of ' || current_schema(), 0))`); err != nil {
			return err
		}
		return f(tx)
	})
}

// ensureRoles adds roles that are not there yet: the names of the configured tiers.
func (s store) ensureRoles(ctx context.Context, names []string) error {
	_, err := s.pool.Exec(ctx, `INSERT INTO roles (name, description) SELECT unnest($1::text[]), 'Tier' ON CONFLICT (name) DO NOTHING`, names)
	if err != nil {
		return fmt.Errorf("add roles: %w", err)
	}
	return nil
}

// taken tells which of the two a new user could not have. The unique indexes decide;
// this only saves hashing a password for nothing.
func (s store) taken(ctx context.Context, username, email string) error {
	ctx, cancel := context.WithTimeout(ctx, queryTime)
	defer cancel()
	var byName, byEmail bool
	err := s.pool.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM users WHERE username = $1), EXISTS (SELECT 1 FROM users WHERE lower(email) = lower($2))`,
		username, email).Scan(&byName, &byEmail)
	switch {
	case err != nil:
		return fmt.Errorf("look for user: %w", err)
	case byName:
		return errNameTaken
	case byEmail:
		return errEmailTaken
	}
	return nil
}

type execer interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

func (s store) createUser(ctx context.Context, u user) error {
	ctx, cancel := context.WithTimeout(ctx, queryTime)
	defer cancel()
	return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error { return insertUser(ctx, tx, u) })
}

func insertUser(ctx context.Context, tx execer, u user) error {
	_, err := tx.Exec(ctx, `INSERT INTO users (id, username, email, password_hash, created_at, updated_at) VALUES ($1, $2, $3, $4, $5, $5)`,
		u.id, u.username, u.email, u.hash, u.created)
	if violated, ok := errors.AsType[*pgconn.PgError](err); ok && violated.Code == uniqueViolation {
		if violated.ConstraintName == "users_email_key" {
			return errEmailTaken
		}
		return errNameTaken
	}
	if err != nil {
		return fmt.Errorf("insert user: %w", err)
	}
	return insertRoles(ctx, tx, u.id, u.roles)
}

// Of Postgres' error codes.
const uniqueViolation = "23505"

func insertRoles(ctx context.Context, tx execer, id uuid.UUID, roles []string) error {
	tag, err := tx.Exec(ctx, `INSERT INTO user_roles (user_id, role_id) SELECT $1, id FROM roles WHERE name = ANY($2)`, id, roles)
	if err != nil {
		return fmt.Errorf("insert roles: %w", err)
	}
	if int(tag.RowsAffected()) != len(roles) {
		return errUnknownRole
	}
	return nil
}

const selectUser = `SELECT u.id, u.username, u.email, u.password_hash, u.created_at,
	ARRAY(SELECT r.name FROM user_roles ur JOIN roles r ON r.id = ur.role_id WHERE ur.user_id = u.id ORDER BY r.name COLLATE "C")
	FROM users u `

func scanUser(row pgx.CollectableRow) (u user, err error) {
	err = row.Scan(&u.id, &u.username, &u.email, &u.hash, &u.created, &u.roles)
	return u, err
}

func (s store) oneUser(ctx context.Context, where string, arg any) (user, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTime)
	defer cancel()
	rows, err := s.pool.Query(ctx, selectUser+where, arg)
	if err != nil {
		return user{}, fmt.Errorf("read user: %w", err)
	}
	u, err := pgx.CollectExactlyOneRow(rows, scanUser)
	if errors.Is(err, pgx.ErrNoRows) {
		return user{}, errNotFound
	}
	if err != nil {
		return user{}, fmt.Errorf("read user: %w", err)
	}
	return u, nil
}

func (s store) userByName(ctx context.Context, name string) (user, error) {
	return s.oneUser(ctx, `WHERE u.username = $1`, name)
}

func (s store) userByID(ctx context.Context, id uuid.UUID) (user, error) {
	return s.oneUser(ctx, `WHERE u.id = $1`, id)
}

// listUsers gives users by name, those after the given one.
func (s store) listUsers(ctx context.Context, after string, limit int) ([]user, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTime)
	defer cancel()
	rows, err := s.pool.Query(ctx, selectUser+`WHERE u.username > $1 ORDER BY u.username LIMIT $2`, after, limit)
	if err != nil {
		return nil, fmt.Errorf("list users: %w", err)
	}
	users, err := pgx.CollectRows(rows, scanUser)
	if err != nil {
		return nil, fmt.Errorf("list users: %w", err)
	}
	return users, nil
}

// setRoles replaces the roles of a user. Changes of administrators wait for each
// other, so that two of them cannot strip one another and leave none.
func (s store) setRoles(ctx context.Context, id uuid.UUID, roles []string) error {
	ctx, cancel := context.WithTimeout(ctx, queryTime)
	defer cancel()
	return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT 1 FROM roles WHERE name = 'ADMIN' FOR NO KEY UPDATE`); err != nil {
			return fmt.Errorf("lock roles: %w", err)
		}
		tag, err := tx.Exec(ctx, `UPDATE users SET updated_at = now() WHERE id = $1`, id)
		if err != nil {
			return fmt.Errorf("update user: %w", err)
		}
		if tag.RowsAffected() == 0 {
			return errNotFound
		}
		var before, after bool
		if before, err = anyAdmin(ctx, tx); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `DELETE FROM user_roles WHERE user_id = $1`, id); err != nil {
			return fmt.Errorf("delete roles: %w", err)
		}
		if err := insertRoles(ctx, tx, id, roles); err != nil {
			return err
		}
		if after, err = anyAdmin(ctx, tx); err == nil && before && !after {
			return errLastAdmin
		}
		return err
	})
}

func anyAdmin(ctx context.Context, tx pgx.Tx) (found bool, err error) {
	err = tx.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM user_roles ur JOIN roles r ON r.id = ur.role_id WHERE r.name = 'ADMIN')`).Scan(&found)
	if err != nil {
		return false, fmt.Errorf("look for administrators: %w", err)
	}
	return found, nil
}
