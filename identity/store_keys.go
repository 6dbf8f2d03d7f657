package identity

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// maxKeys is how many API keys a user may have.
const maxKeys = 50

// apiKey is a key without its secret.
type apiKey struct {
	id      uuid.UUID
	user    uuid.UUID
	hash    string // SHA-256 in hex
	name    *string
	created time.Time
	expires *time.Time
}

// createKey stores a key. At the cap, keys that have expired make room first. The
// lock on the user's row makes parallel creations wait for each other.
func (s store) createKey(ctx context.Context, k apiKey) error {
	ctx, cancel := context.WithTimeout(ctx, queryTime)
	defer cancel()
	return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `SELECT 1 FROM users WHERE id = $1 FOR NO KEY UPDATE`, k.user)
		if err != nil {
			return fmt.Errorf("lock user: %w", err)
		}
		if tag.RowsAffected() == 0 {
			return errNotFound
		}
		var count int
		if err := tx.QueryRow(ctx, `SELECT count(*) FROM api_keys WHERE user_id = $1`, k.user).Scan(&count); err != nil {
			return fmt.Errorf("count keys: %w", err)
		}
		if count >= maxKeys {
			gone, err := tx.Exec(ctx, `DELETE FROM api_keys WHERE user_id = $1 AND expires_at <= now()`, k.user)
			if err != nil {
				return fmt.Errorf("delete expired keys: %w", err)
			}
			if count-int(gone.RowsAffected()) >= maxKeys {
				return errTooManyKeys
			}
		}
		_, err = tx.Exec(ctx, `INSERT INTO api_keys (id, user_id, key_value, name, created_at, expires_at) VALUES ($1, $2, $3, $4, $5, $6)`,
			k.id, k.user, k.hash, k.name, k.created, k.expires)
		if err != nil {
			return fmt.Errorf("insert key: %w", err)
		}
		return nil
	})
}

func (s store) listKeys(ctx context.Context, owner uuid.UUID) ([]apiKey, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTime)
	defer cancel()
	rows, err := s.pool.Query(ctx, `SELECT id, name, created_at, expires_at FROM api_keys WHERE user_id = $1 ORDER BY created_at, id`, owner)
	if err != nil {
		return nil, fmt.Errorf("list keys: %w", err)
	}
	keys, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (k apiKey, err error) {
		err = row.Scan(&k.id, &k.name, &k.created, &k.expires)
		return k, err
	})
	if err != nil {
		return nil, fmt.Errorf("list keys: %w", err)
	}
	return keys, nil
}

// deleteKey revokes a key of a user and gives its hash, for the caches to drop.
func (s store) deleteKey(ctx context.Context, owner, id uuid.UUID) (hash string, err error) {
	ctx, cancel := context.WithTimeout(ctx, queryTime)
	defer cancel()
	err = s.pool.QueryRow(ctx, `DELETE FROM api_keys WHERE id = $1 AND user_id = $2 RETURNING key_value`, id, owner).Scan(&hash)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", errNotFound
	}
	if err != nil {
		return "", fmt.Errorf("delete key: %w", err)
	}
	return hash, nil
}

// keyByHash finds a key and the roles of its owner.
func (s store) keyByHash(ctx context.Context, hash string) (k apiKey, roles []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, queryTime)
	defer cancel()
	err = s.pool.QueryRow(ctx, `SELECT k.id, k.user_id, k.key_value, k.name, k.created_at, k.expires_at,
		ARRAY(SELECT r.name FROM user_roles ur JOIN roles r ON r.id = ur.role_id WHERE ur.user_id = k.user_id ORDER BY r.name COLLATE "C")
		FROM api_keys k WHERE k.key_value = $1`, hash).Scan(&k.id, &k.user, &k.hash, &k.name, &k.created, &k.expires, &roles)
	if errors.Is(err, pgx.ErrNoRows) {
		return apiKey{}, nil, errNotFound
	}
	if err != nil {
		return apiKey{}, nil, fmt.Errorf("find key: %w", err)
	}
	return k, roles, nil
}
