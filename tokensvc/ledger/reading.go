package ledger

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/leaky-tokens/leaky-tokens/tokensvc/tokensdb"
)

// touchAtOnce bounds the connections that one Read takes to write pools down.
const touchAtOnce = 4

// Reading is what Read found. An account in neither map has no pool.
type Reading struct {
	At    time.Time // of Postgres
	Pools map[Key]Pool
	Busy  map[Key]error // those that cannot be told now, and why
}

// Exists tells which pools there are, whatever anybody does to them at this moment.
func Exists(ctx context.Context, db tokensdb.DBTX, keys []Key) (map[Key]bool, time.Time, error) {
	o, err := sortOwners(keys)
	if err != nil {
		return nil, time.Time{}, err
	}
	q := tokensdb.New(db)
	at, err := q.Clock(ctx)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("ask for the time: %w", err)
	}
	rows, err := q.ReadPools(ctx, tokensdb.ReadPoolsParams{Users: o.users, UserProviders: o.userProviders, Orgs: o.orgs,
		OrgProviders: o.orgProviders})
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("read pools: %w", err)
	}
	found := &books{pools: map[Key]*Pool{}}
	for _, r := range rows {
		found.add(r)
	}
	there := make(map[Key]bool, len(found.pools))
	for k := range found.pools {
		there[k] = true
	}
	return there, at, nil
}

// Read reads pools as they are at the moment that it answers too. One from which time has
// taken something that its version does not tell is written down first, by itself: a row
// that somebody else has locked makes that pool busy and holds up no other. For locks it
// waits half of the time that ctx has. A pool with charges that wait for its lock is busy, too.
func Read(ctx context.Context, db *pgxpool.Pool, keys []Key) (Reading, error) {
	busy, err := waiting(ctx, db, keys) // first: a charge that does not wait any more is in what is read after
	if err != nil {
		return Reading{}, err
	}
	b, err := read(ctx, db, keys, time.Time{})
	if err != nil {
		return Reading{}, err
	}
	var stale []Key
	for k, p := range b.pools {
		if p.advance(b.now); len(p.entries) > 0 && busy[k] == nil {
			stale = append(stale, k)
		}
	}
	if len(stale) > 0 {
		maps.Copy(busy, touchEach(ctx, db, stale))
		if b, err = read(ctx, db, keys, time.Time{}); err != nil {
			return Reading{}, err
		}
	}
	got := Reading{At: b.now, Pools: make(map[Key]Pool, len(b.pools)), Busy: busy}
	for k, p := range b.pools {
		if _, isBusy := busy[k]; !isBusy {
			p.advance(b.now)
			got.Pools[k] = *p
		}
	}
	return got, nil
}

// touchEach touches pools by themselves, a few at once, and answers for which it failed.
func touchEach(ctx context.Context, db *pgxpool.Pool, keys []Key) map[Key]error {
	if end, bounded := ctx.Deadline(); bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(end)/2)
		defer cancel()
	}
	var mu sync.Mutex
	var running sync.WaitGroup
	failed, hands := map[Key]error{}, make(chan struct{}, touchAtOnce)
	for _, k := range keys {
		running.Go(func() {
			hands <- struct{}{}
			defer func() { <-hands }()
			if err := Touch(ctx, db, []Key{k}, time.Time{}); err != nil {
				mu.Lock()
				defer mu.Unlock()
				failed[k] = err
			}
		})
	}
	running.Wait()
	return failed
}
