package ledger

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
)

// mostCharge is the most tokens that one call can be charged; more is a mistake.
const mostCharge = 1 << 40

// Charge is what a call cost an account.
type Charge struct {
	Request  string // its id makes the charge happen once
	Account  string
	Provider string
	Tokens   int64 // 1 or more
	Drawn    bool  // the limiter took it from the pool; else it does not know
	At       time.Time
}

// chargeOf is what an event costs a pool. Not every event costs one.
func chargeOf(e usage.Event) (Charge, bool, error) {
	switch {
	case len(e.RequestID) > longestReference:
		return Charge{}, false, fmt.Errorf("%w: request id of %d bytes", ErrInvalid, len(e.RequestID))
	case e.Charged > mostCharge:
		return Charge{}, false, fmt.Errorf("%w: a charge of %d tokens", ErrInvalid, e.Charged)
	case e.Charged == 0 || e.Pool == usage.PoolNone:
		return Charge{}, false, nil
	}
	c := Charge{Request: e.RequestID, Account: e.Account, Provider: e.Provider, Tokens: e.Charged, Drawn: e.Pool == usage.PoolDrawn,
		At: e.Timestamp}
	return c, true, checkTexts(c.Request, "")
}

// Applied counts what became of charges.
type Applied struct {
	New      int // booked now
	Repeated int // booked before
	NoPool   int // of accounts without a pool for the provider
}

// Apply books charges in one transaction. Each is booked once, however often it comes.
// Pools are locked last and each is written once, however many charges it has, so that
// one that everybody draws on costs its lock once for a batch.
func Apply(ctx context.Context, db *pgxpool.Pool, charges []Charge) (Applied, error) {
	return applyAt(ctx, db, charges, time.Time{})
}

func applyAt(ctx context.Context, db *pgxpool.Pool, charges []Charge, at time.Time) (Applied, error) {
	var done Applied
	err := pgx.BeginFunc(ctx, db, func(tx pgx.Tx) (err error) {
		done, err = apply(ctx, tx, charges, at)
		return err
	})
	if err != nil {
		return Applied{}, fmt.Errorf("apply usage: %w", err)
	}
	return done, nil
}

func apply(ctx context.Context, tx pgx.Tx, charges []Charge, at time.Time) (Applied, error) {
	known, err := read(ctx, tx, keysOf(charges), at)
	if err != nil {
		return Applied{}, err
	}
	byReference := make(map[string]Charge, len(charges))
	entries := make([]entry, 0, len(charges))
	done := Applied{}
	for _, c := range charges {
		pool := known.pools[Key{c.Account, c.Provider}]
		// A hold that nobody remembers drew on no pool that was made after it.
		if pool == nil || !c.Drawn && c.At.Before(pool.CreatedAt) {
			done.NoPool++
			continue
		}
		reference := usageReference(c.Request)
		if _, twice := byReference[reference]; twice {
			done.Repeated++
			continue
		}
		if c.At.After(known.now) { // another machine's clock
			c.At = known.now
		}
		byReference[reference] = c
		entries = append(entries, entry{account: c.Account, counter: counterUsage, unit: unit(c.Provider), amount: -c.Tokens, kind: kindUsage,
			reference: reference, at: c.At})
	}
	if len(entries) == 0 {
		return done, nil
	}
	added, err := post(ctx, known.q, entries)
	if err != nil {
		return Applied{}, err
	}
	done.New, done.Repeated = len(added), done.Repeated+len(entries)-len(added)
	fresh := make([]Charge, 0, len(added))
	for _, reference := range added {
		fresh = append(fresh, byReference[reference])
	}
	return done, spend(ctx, tx, fresh, at)
}

// spend takes charges whose entries are posted from their pools.
func spend(ctx context.Context, tx pgx.Tx, charges []Charge, at time.Time) error {
	if len(charges) == 0 {
		return nil
	}
	b, err := lock(ctx, tx, keysOf(charges), at)
	if err != nil {
		return err
	}
	for _, p := range b.pools {
		p.advance(b.now)
	}
	late := map[Key]Charge{} // what ended windows paid, summed, with the first one's id
	for _, c := range charges {
		k := Key{c.Account, c.Provider}
		past := b.pools[k].spend(c.Tokens, c.At)
		if past == 0 {
			continue
		}
		sum, more := late[k]
		if !more {
			sum = c
			sum.Tokens = 0
		}
		sum.Tokens += past
		late[k] = sum
	}
	for k, sum := range late {
		b.pools[k].refillPast(sum.Tokens, sum.Request, sum.At)
	}
	return b.save(ctx, false)
}

// keysOf are the pools of the charges, each once. What is no account owns none.
func keysOf(charges []Charge) []Key {
	seen := make(map[Key]struct{}, len(charges))
	var keys []Key
	for _, c := range charges {
		k := Key{c.Account, c.Provider}
		if _, twice := seen[k]; twice {
			continue
		}
		seen[k] = struct{}{}
		if _, err := k.parse(); err == nil {
			keys = append(keys, k)
		}
	}
	return keys
}
