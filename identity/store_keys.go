package identity

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/leaky-tokens/leaky-tokens/identity/audit"
	"github.com/leaky-tokens/leaky-tokens/identity/identitydb"
	"github.com/leaky-tokens/leaky-tokens/identity/revocations"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/revocation"
)

// maxKeys is how many API keys a user may have.
const maxKeys = 50

// errNotMember says that a key's owner does not belong to its organisation.
var errNotMember = errors.New("not a member of the organisation")

// createKey stores a key. At the cap, keys that have expired make room first. The
// lock on the user's row makes parallel creations wait for each other.
func (s store) createKey(ctx context.Context, k identitydb.AddKeyParams) error {
	return s.change(ctx, func(ctx context.Context, c *change) error {
		if k.OrgID != nil {
			if err := c.lockMember(ctx, *k.OrgID, k.UserID); err != nil {
				return err
			}
		}
		if _, err := found(c.LockUser(ctx, k.UserID)); err != nil {
			return err
		}
		count, err := c.CountKeys(ctx, k.UserID)
		if err != nil {
			return fmt.Errorf("count keys: %w", err)
		}
		if count >= maxKeys {
			gone, err := c.DeleteExpiredKeysOf(ctx, k.UserID)
			if err != nil {
				return fmt.Errorf("delete expired keys: %w", err)
			}
			if count-gone >= maxKeys {
				return errTooManyKeys
			}
		}
		if err := c.AddKey(ctx, k); err != nil {
			return fmt.Errorf("insert key: %w", err)
		}
		detail := map[string]string{"owner": k.UserID.String()}
		if k.OrgID != nil {
			detail["org"] = k.OrgID.String()
		}
		return audit.Record(ctx, c, audit.Entry{Action: "key.create", Target: k.ID.String(), Detail: detail})
	})
}

// lockMember locks the organisation's row, so that a removal either sees the key that is made or
// is seen here; it is locked before the user's, as everywhere. errNotMember: the user is none.
func (c *change) lockMember(ctx context.Context, org, user uuid.UUID) error {
	if _, err := found(c.LockOrg(ctx, org)); errors.Is(err, errNotFound) {
		return errNotMember
	} else if err != nil {
		return err
	}
	if _, err := c.Membership(ctx, identitydb.MembershipParams{OrgID: org, UserID: user}); errors.Is(err, pgx.ErrNoRows) {
		return errNotMember
	} else if err != nil {
		return fmt.Errorf("read membership: %w", err)
	}
	return nil
}

func (s store) listKeys(ctx context.Context, owner uuid.UUID) ([]identitydb.ListKeysRow, error) {
	ctx, cancel, q := s.read(ctx)
	defer cancel()
	rows, err := q.ListKeys(ctx, owner)
	if err != nil {
		return nil, fmt.Errorf("list keys: %w", err)
	}
	return rows, nil
}

// deleteKey revokes a key of a user.
func (s store) deleteKey(ctx context.Context, owner, id uuid.UUID) error {
	return s.change(ctx, func(ctx context.Context, c *change) error {
		hash, err := found(c.DeleteKey(ctx, identitydb.DeleteKeyParams{ID: id, UserID: owner}))
		if err != nil {
			return err
		}
		c.revoked = append(c.revoked, ofKey(hash))
		return audit.Record(ctx, c, audit.Entry{Action: "key.revoke", Target: id.String(), Detail: map[string]string{"owner": owner.String()}})
	})
}

func ofKey(hash string) revocation.Revocation {
	return revocation.Revocation{Kind: revocation.Key, ID: hash, Until: time.Now().Add(revocations.KeyLife).UTC()}
}

// keyByHash finds a key and its owner as they are now, and notes that the key was used.
func (s store) keyByHash(ctx context.Context, hash string) (identitydb.KeyByHashRow, error) {
	ctx, cancel, q := s.read(ctx)
	defer cancel()
	return found(q.KeyByHash(ctx, hash))
}

// lastUsedEvery is how exact the last use of a key is.
const lastUsedEvery = time.Minute

// touchKey notes that a key is in use, unless that was noted within the last minute.
func (s store) touchKey(ctx context.Context, k identitydb.KeyByHashRow) error {
	if k.LastUsedAt != nil && time.Since(*k.LastUsedAt) < lastUsedEvery {
		return nil
	}
	ctx, cancel, q := s.read(ctx)
	defer cancel()
	if err := q.TouchKey(ctx, k.ID); err != nil {
		return fmt.Errorf("note use of key: %w", err)
	}
	return nil
}
