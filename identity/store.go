package identity

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/leaky-tokens/leaky-tokens/identity/audit"
	"github.com/leaky-tokens/leaky-tokens/identity/grants"
	"github.com/leaky-tokens/leaky-tokens/identity/identitydb"
	"github.com/leaky-tokens/leaky-tokens/identity/revocations"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/revocation"
)

var (
	errNotFound    = errors.New("not found")
	errNameTaken   = errors.New("username already exists")
	errEmailTaken  = errors.New("email already exists")
	errUnknownRole = errors.New("unknown role")
	errLastAdmin   = errors.New("the last ADMIN cannot lose the role or be disabled")
	errTooManyKeys = errors.New("too many API keys")
)

// queryTime bounds each statement: a hung database must not hang a caller.
const queryTime = 5 * time.Second

// store is everything identity keeps of users, keys and organisations, in Postgres.
// What ends credentials is recorded in the same transaction and announced after it.
type store struct {
	pool   *pgxpool.Pool
	grants *grants.Store
	tell   grants.Announcer
	life   time.Duration // of access tokens, and some more: how long a revocation counts
}

type user = identitydb.UserByIDRow

// change is a transaction that collects what it revoked.
type change struct {
	pgx.Tx
	*identitydb.Queries
	revoked []revocation.Revocation
}

// change runs f in a transaction and announces after the commit what f revoked.
func (s store) change(ctx context.Context, f func(ctx context.Context, c *change) error) error {
	ctx, cancel := context.WithTimeout(ctx, queryTime)
	defer cancel()
	var done *change
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		done = &change{Tx: tx, Queries: identitydb.New(tx)}
		if err := f(ctx, done); err != nil {
			return err
		}
		return revocations.Record(ctx, tx, done.revoked...)
	})
	if err == nil {
		s.tell.Announce(done.revoked...)
	}
	return err
}

func (s store) read(ctx context.Context) (context.Context, context.CancelFunc, *identitydb.Queries) {
	ctx, cancel := context.WithTimeout(ctx, queryTime)
	return ctx, cancel, identitydb.New(s.pool)
}

// endUser revokes all that was issued to a user under an earlier generation, and their families.
func (s store) endUser(ctx context.Context, c *change, id uuid.UUID, generation int64, reason string) error {
	c.revoked = append(c.revoked, s.ofUser(id, generation))
	families, err := s.grants.EndOfUser(ctx, c, id, uuid.Nil, reason)
	c.revoked = append(c.revoked, families...)
	return err
}

// ensureRoles adds roles that are not there yet: the names of the configured tiers.
func (s store) ensureRoles(ctx context.Context, names []string) error {
	if err := identitydb.New(s.pool).AddRoles(ctx, names); err != nil {
		return fmt.Errorf("add roles: %w", err)
	}
	return nil
}

// taken tells which of the two a new user could not have. The unique indexes decide;
// this only saves hashing a password for nothing.
func (s store) taken(ctx context.Context, username, email string) error {
	ctx, cancel, q := s.read(ctx)
	defer cancel()
	found, err := q.Taken(ctx, identitydb.TakenParams{Username: username, Email: email})
	switch {
	case err != nil:
		return fmt.Errorf("look for user: %w", err)
	case found.ByName:
		return errNameTaken
	case found.ByEmail:
		return errEmailTaken
	}
	return nil
}

// uniqueViolation is one of Postgres' error codes.
const uniqueViolation = "23505"

func insertUser(ctx context.Context, c *change, u user) error {
	err := c.AddUser(ctx, identitydb.AddUserParams{ID: u.ID, Username: u.Username, Email: u.Email, PasswordHash: u.PasswordHash,
		CreatedAt: u.CreatedAt})
	if violated, ok := errors.AsType[*pgconn.PgError](err); ok && violated.Code == uniqueViolation {
		if violated.ConstraintName == "users_email_key" {
			return errEmailTaken
		}
		return errNameTaken
	}
	if err != nil {
		return fmt.Errorf("insert user: %w", err)
	}
	return insertRoles(ctx, c, u.ID, u.Roles)
}

func insertRoles(ctx context.Context, c *change, id uuid.UUID, roles []string) error {
	n, err := c.AddUserRoles(ctx, identitydb.AddUserRolesParams{UserID: id, Names: roles})
	if err != nil {
		return fmt.Errorf("insert roles: %w", err)
	}
	if int(n) != len(roles) {
		return errUnknownRole
	}
	return nil
}

func found[T any](row T, err error) (T, error) {
	if errors.Is(err, pgx.ErrNoRows) {
		return row, errNotFound
	}
	if err != nil {
		return row, fmt.Errorf("read: %w", err)
	}
	return row, nil
}

func (s store) userByName(ctx context.Context, name string) (user, error) {
	ctx, cancel, q := s.read(ctx)
	defer cancel()
	row, err := found(q.UserByName(ctx, name))
	return user(row), err
}

func (s store) userByID(ctx context.Context, id uuid.UUID) (user, error) {
	ctx, cancel, q := s.read(ctx)
	defer cancel()
	return found(q.UserByID(ctx, id))
}

// listUsers gives users by name.
func (s store) listUsers(ctx context.Context, which identitydb.ListUsersParams) ([]user, error) {
	ctx, cancel, q := s.read(ctx)
	defer cancel()
	rows, err := q.ListUsers(ctx, which)
	if err != nil {
		return nil, fmt.Errorf("list users: %w", err)
	}
	users := make([]user, len(rows))
	for i, row := range rows {
		users[i] = user(row)
	}
	return users, nil
}

// guardAdmins runs f and undoes it when it leaves no administrator.
func guardAdmins(ctx context.Context, c *change, f func() error) error {
	if err := c.LockAdmins(ctx); err != nil {
		return fmt.Errorf("lock roles: %w", err)
	}
	before, err := c.AnyAdmin(ctx)
	if err != nil {
		return fmt.Errorf("look for administrators: %w", err)
	}
	if err := f(); err != nil {
		return err
	}
	after, err := c.AnyAdmin(ctx)
	if err != nil {
		return fmt.Errorf("look for administrators: %w", err)
	}
	if before && !after {
		return errLastAdmin
	}
	return nil
}

// setRoles replaces the roles of a user. Their access tokens end, as they carry the old
// ones; their refresh tokens stay, as what they give carries the new ones.
func (s store) setRoles(ctx context.Context, id uuid.UUID, roles []string) error {
	return s.change(ctx, func(ctx context.Context, c *change) error { return s.replaceRoles(ctx, c, id, roles) })
}

func (s store) replaceRoles(ctx context.Context, c *change, id uuid.UUID, roles []string) error {
	return guardAdmins(ctx, c, func() error {
		generation, err := found(c.NextGeneration(ctx, id))
		if err != nil {
			return err
		}
		old, err := found(c.UserByID(ctx, id))
		if err != nil {
			return err
		}
		if err := c.DeleteUserRoles(ctx, id); err != nil {
			return fmt.Errorf("delete roles: %w", err)
		}
		if err := insertRoles(ctx, c, id, roles); err != nil {
			return err
		}
		c.revoked = append(c.revoked, s.ofUser(id, generation))
		return audit.Record(ctx, c, audit.Entry{Action: "user.roles", Target: id.String(),
			Detail: map[string]string{"from": fmt.Sprint(old.Roles), "to": fmt.Sprint(roles)}})
	})
}

// ofUser revokes the access tokens of a user that are older than the generation.
func (s store) ofUser(id uuid.UUID, generation int64) revocation.Revocation {
	return revocation.Revocation{Kind: revocation.User, ID: id.String(), Generation: generation, Until: time.Now().Add(s.life).UTC()}
}

// setDisabled locks a user out, with everything they were issued, or lets them in again.
func (s store) setDisabled(ctx context.Context, id uuid.UUID, disabled bool) error {
	return s.change(ctx, func(ctx context.Context, c *change) error {
		return guardAdmins(ctx, c, func() error {
			generation, err := found(c.SetDisabled(ctx, identitydb.SetDisabledParams{ID: id, Disabled: disabled}))
			if err != nil {
				return err
			}
			action := "user.enable"
			if disabled {
				action = "user.disable"
			}
			if err := s.endUser(ctx, c, id, generation, action); err != nil {
				return err
			}
			if err := c.DecidedUpstreamUser(ctx, id); err != nil {
				return fmt.Errorf("store decision: %w", err)
			}
			return audit.Record(ctx, c, audit.Entry{Action: action, Target: id.String()})
		})
	})
}

// setPassword stores a new hash in place of the one that was checked, and ends all that
// was issued before.
func (s store) setPassword(ctx context.Context, id uuid.UUID, checked, fresh string) error {
	return s.change(ctx, func(ctx context.Context, c *change) error {
		n, err := c.SetPassword(ctx, identitydb.SetPasswordParams{ID: id, Checked: checked, Fresh: fresh})
		if err != nil {
			return fmt.Errorf("store password: %w", err)
		}
		if n == 0 {
			return errNotFound
		}
		generation, err := found(c.NextGeneration(ctx, id))
		if err != nil {
			return err
		}
		if err := s.endUser(ctx, c, id, generation, "password changed"); err != nil {
			return err
		}
		return audit.Record(ctx, c, audit.Entry{Actor: id.String(), Action: "user.password", Target: id.String()})
	})
}

// upgradeHash stores a hash of the same password with today's parameters; nothing ends.
func (s store) upgradeHash(ctx context.Context, id uuid.UUID, checked, fresh string) error {
	ctx, cancel, q := s.read(ctx)
	defer cancel()
	if _, err := q.SetPassword(ctx, identitydb.SetPasswordParams{ID: id, Checked: checked, Fresh: fresh}); err != nil {
		return fmt.Errorf("upgrade password hash: %w", err)
	}
	return nil
}
