package ledger

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/leaky-tokens/leaky-tokens/tokensvc/tokensdb"
)

// Advisory locks of the jobs: one replica at a time is enough.
const (
	expiryJob   = 0x6c65646765722d65 // "ledger-e"
	announceJob = 0x6c65646765722d61 // "ledger-a"
	// jobBatch is how many pools one transaction of a job touches.
	jobBatch = 500
)

// Touch writes down what time has done to pools, windows that ended and credits that
// expired, and tells ratelimit. at is a moment, or zero for now by Postgres.
func Touch(ctx context.Context, db *pgxpool.Pool, keys []Key, at time.Time) error {
	err := pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error { return touch(ctx, tx, keys, at, false) })
	if err != nil {
		return fmt.Errorf("touch pools: %w", err)
	}
	return nil
}

// touch leaves out pools that time has not changed, unless all are to be told of.
func touch(ctx context.Context, tx pgx.Tx, keys []Key, at time.Time, all bool) error {
	b, err := lock(ctx, tx, keys, at)
	if err != nil {
		return err
	}
	for k, p := range b.pools {
		reset := p.ResetTime
		if p.advance(b.now); !all && len(p.entries)+len(p.dropped) == 0 && p.ResetTime.Equal(reset) {
			delete(b.pools, k)
		}
	}
	return b.save(ctx, true)
}

// Expire takes back what was not spent of credits whose time is over, and answers how many
// pools that was. While another replica does it, this one does nothing. A pool that somebody
// has locked is left to the next run.
func Expire(ctx context.Context, db *pgxpool.Pool, at time.Time) (int, error) {
	return job(ctx, db, expiryJob, func(q *tokensdb.Queries) ([]Key, error) {
		if at.IsZero() {
			var err error
			if at, err = q.Clock(ctx); err != nil {
				return nil, err
			}
		}
		rows, err := q.DueLots(ctx, tokensdb.DueLotsParams{At: at, Most: jobBatch})
		keys := make([]Key, len(rows))
		for i, r := range rows {
			keys[i] = Key{r.Account, r.Provider}
		}
		return keys, err
	}, func(tx pgx.Tx, keys []Key) error { return touch(ctx, tx, keys, at, false) })
}

// Announce tells ratelimit of pools that usage has changed since it was told last, and
// answers how many. It counts charges itself, so this only mends what it has lost. A pool that
// somebody has locked is left to the next run.
func Announce(ctx context.Context, db *pgxpool.Pool) (int, error) {
	return job(ctx, db, announceJob, func(q *tokensdb.Queries) ([]Key, error) {
		rows, err := q.UnannouncedPools(ctx, jobBatch)
		keys := make([]Key, len(rows))
		for i, r := range rows {
			keys[i] = Key{r.Account, r.Provider}
		}
		return keys, err
	}, func(tx pgx.Tx, keys []Key) error { return touch(ctx, tx, keys, time.Time{}, true) })
}

// job does what is due in batches under an advisory lock, until one is not full or all of one is locked.
func job(ctx context.Context, db *pgxpool.Pool, id int64, due func(q *tokensdb.Queries) ([]Key, error),
	do func(tx pgx.Tx, keys []Key) error) (int, error) {
	for total := 0; ; {
		var found, mine []Key
		err := pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
			q := tokensdb.New(tx)
			alone, err := q.TryJobLock(ctx, id)
			if err != nil || !alone {
				return err
			}
			if found, err = due(q); err != nil {
				return err
			}
			if mine, err = free(ctx, tx, found); err != nil {
				return err
			}
			return do(tx, mine)
		})
		if err != nil {
			return total, fmt.Errorf("job over pools: %w", err)
		}
		total += len(mine)
		if len(found) < jobBatch || len(mine) == 0 {
			return total, nil
		}
	}
}

// Owner is the user or the organisation that the pool belongs to; the other is zero.
func (p Pool) Owner() (user, org uuid.UUID) {
	who, err := p.key().parse()
	switch {
	case err != nil:
		return uuid.Nil, uuid.Nil
	case who.org:
		return uuid.Nil, who.id
	}
	return who.id, uuid.Nil
}
