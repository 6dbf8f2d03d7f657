package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/leaky-tokens/leaky-tokens/tokensvc/tokensdb"
)

// Find reads a pool as it is now: windows that have ended and credits that have expired
// since it was last touched are taken into account, and nothing is written. ErrNoPool says
// that there is none.
func Find(ctx context.Context, db tokensdb.DBTX, k Key) (Pool, error) {
	return findAt(ctx, db, k, time.Time{})
}

func findAt(ctx context.Context, db tokensdb.DBTX, k Key, at time.Time) (Pool, error) {
	b, err := read(ctx, db, []Key{k}, at)
	if err != nil {
		return Pool{}, err
	}
	p := b.pools[k]
	if p == nil {
		return Pool{}, fmt.Errorf("find pool of %s: %w", k.Account, ErrNoPool)
	}
	p.advance(b.now)
	return *p, nil
}

// Verify proves the books: every unit sums to zero over both sides of its entries, every
// pool is the fold of its entries, and no pool promises more in lots than it has. It
// answers what differs, in words. It reads everything; where others write meanwhile, db must
// be a transaction with REPEATABLE READ.
func Verify(ctx context.Context, db tokensdb.DBTX) ([]string, error) {
	q := tokensdb.New(db)
	units, err1 := q.UnbalancedUnits(ctx)
	pools, err2 := q.LedgerDifferences(ctx)
	lots, err3 := q.OverfullLots(ctx)
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, fmt.Errorf("verify ledger: %w", err)
	}
	var found []string
	for _, u := range units {
		found = append(found, fmt.Sprintf("entries of %s sum to %d, want 0", u.Unit, u.Sum))
	}
	for _, p := range pools {
		found = append(found, fmt.Sprintf("%s %s: remaining %d, entries say %d; total %d, entries say %d", p.Account, p.Provider,
			p.Remaining, p.RemainingBooked, p.Total, p.TotalBooked))
	}
	for _, l := range lots {
		found = append(found, fmt.Sprintf("%s %s: lots promise %d, more than what remains", l.Account, l.Provider, l.Remaining))
	}
	return found, nil
}

// Entries are an account's entries for one provider, newest first, with ids below before.
func Entries(ctx context.Context, db tokensdb.DBTX, k Key, before int64, most int) ([]tokensdb.TokenLedger, error) {
	if _, err := k.parse(); err != nil {
		return nil, err
	}
	rows, err := tokensdb.New(db).ListEntries(ctx, tokensdb.ListEntriesParams{Account: k.Account, Unit: unit(k.Provider), Before: before,
		Most: int32(most)})
	if err != nil {
		return nil, fmt.Errorf("list entries: %w", err)
	}
	return rows, nil
}
