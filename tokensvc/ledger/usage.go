package ledger

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
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
	Version  int64  // of a correction 1 or more: it replaces what lower ones charged, whole
	Account  string
	Provider string
	Tokens   int64 // 1 or more; of a correction 0 or more
	Drawn    bool  // the limiter took it from the pool; else it does not know
	At       time.Time
	Cost     Cost
}

// Cost is what a call cost in money, as its event has it. Without a Version no price was known.
type Cost struct {
	Micros   int64  // millionths of Currency
	Currency string // ISO 4217
	Version  string // of the price list
}

// chargeOf is what an event costs a pool. Not every event costs one.
func chargeOf(e usage.Event) (Charge, bool, error) {
	switch {
	case len(e.RequestID) > longestReference:
		return Charge{}, false, fmt.Errorf("%w: request id of %d bytes", ErrInvalid, len(e.RequestID))
	case e.Charged > mostCharge:
		return Charge{}, false, fmt.Errorf("%w: a charge of %d tokens", ErrInvalid, e.Charged)
	case e.Charged == 0 && e.Version == 0 || e.Pool == usage.PoolNone:
		return Charge{}, false, nil
	}
	c := Charge{Request: e.RequestID, Version: e.Version, Account: e.Account, Provider: e.Provider, Tokens: e.Charged,
		Drawn: e.Pool == usage.PoolDrawn, At: e.Timestamp, Cost: Cost{Micros: e.CostMicros, Currency: e.Currency, Version: e.PriceVersion}}
	return c, true, checkTexts(c.Request, "")
}

// Applied counts what became of charges.
type Applied struct {
	New      int // booked now
	Mended   int // corrections of what was booked before
	Repeated int // booked before
	NoPool   int // of accounts without a pool for the provider
}

// Apply books charges in one transaction. Each version of each is booked once, however often it
// comes, and a version that comes after a higher one changes nothing.
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
	done := Applied{}
	told := known.told(charges, &done)
	entries := make([]entry, 0, len(told))
	for _, c := range told {
		entries = append(entries, c.entry(usageReference(c.Request), c.Tokens))
	}
	if len(entries) == 0 {
		return done, nil
	}
	// Whatever is the first word on a call takes its reference, and two writers of it wait here for
	// each other. Only what comes after it has to look at what is booked.
	added, err := post(ctx, known.q, entries)
	if err != nil {
		return Applied{}, err
	}
	var changes []change
	for _, reference := range added {
		changes = append(changes, change{Charge: told[reference], tokens: told[reference].Tokens})
		delete(told, reference)
	}
	done.New = len(added)
	var later []Charge
	for _, c := range told {
		if c.Version > 0 {
			later = append(later, c)
		}
	}
	mended, err := spend(ctx, tx, changes, later, at)
	done.Mended, done.Repeated = mended, done.Repeated+len(told)-mended
	return done, err
}

// told are the charges that pools are there for, by reference, of each call the highest version.
func (b *books) told(charges []Charge, done *Applied) map[string]Charge {
	told := make(map[string]Charge, len(charges))
	for _, c := range charges {
		pool := b.pools[Key{c.Account, c.Provider}]
		// A hold that nobody remembers drew on no pool that was made after it.
		if pool == nil || !c.Drawn && c.At.Before(pool.CreatedAt) {
			done.NoPool++
			continue
		}
		reference := usageReference(c.Request)
		if other, twice := told[reference]; twice {
			done.Repeated++
			if c.Version <= other.Version {
				continue
			}
		}
		if c.At.After(b.now) { // another machine's clock
			c.At = b.now
		}
		told[reference] = c
	}
	return told
}

// entry books tokens of the charge.
func (c Charge) entry(reference string, tokens int64) entry {
	return entry{account: c.Account, counter: counterUsage, unit: unit(c.Provider), amount: -tokens, kind: kindUsage, reference: reference,
		at: c.At, version: c.Version, cost: c.Cost}
}

// change is what a charge whose entry is posted does to its pool: it takes tokens, or gives some
// back (below zero).
type change struct {
	Charge
	tokens int64
}

// call names the charge among those of its call.
func (c Charge) call() string {
	if c.Version == 0 {
		return c.Request
	}
	return c.Request + "~" + strconv.FormatInt(c.Version, 10)
}

// spend takes changes from their pools, and under the pools' locks finds out what the charges that
// come later in a call's life change, and takes that too. It counts those that did.
func spend(ctx context.Context, tx pgx.Tx, changes []change, later []Charge, at time.Time) (mended int, err error) {
	if len(changes)+len(later) == 0 {
		return 0, nil
	}
	all := slices.Clone(later)
	for _, c := range changes {
		all = append(all, c.Charge)
	}
	b, err := lock(ctx, tx, keysOf(all), at)
	if err != nil {
		return 0, err
	}
	corrections, err := b.correct(ctx, later)
	if err != nil || len(changes)+len(corrections) == 0 {
		return 0, err
	}
	for _, p := range b.pools {
		p.advance(b.now)
	}
	late := map[Key]change{} // what ended windows paid, summed, with the first one's id
	for _, c := range append(changes, corrections...) {
		k := Key{c.Account, c.Provider}
		past := b.pools[k].spend(c.tokens, c.At)
		if past == 0 {
			continue
		}
		sum, more := late[k]
		if !more {
			sum = c
			sum.tokens = 0
		}
		sum.tokens += past
		late[k] = sum
	}
	for k, sum := range late {
		b.pools[k].refillPast(sum.tokens, sum.call(), sum.At)
	}
	return len(corrections), b.save(ctx, false)
}

// correct posts what charges of calls that are booked already change. A call's pool is locked, so
// that nobody else corrects it at the same time.
func (b *books) correct(ctx context.Context, later []Charge) ([]change, error) {
	if len(later) == 0 {
		return nil, nil
	}
	byReference := make(map[string]Charge, len(later))
	for _, c := range later {
		byReference[usageReference(c.Request)] = c
	}
	booked, err := b.q.BookedCalls(ctx, slices.Sorted(maps.Keys(byReference)))
	if err != nil {
		return nil, fmt.Errorf("read booked calls: %w", err)
	}
	var changes []change
	var entries []entry
	for _, was := range booked {
		c := byReference[was.Reference]
		switch {
		case was.Account != c.Account || was.Unit != unit(c.Provider):
			return nil, fmt.Errorf("correct %s of %s: %w", was.Reference, was.Account, ErrReferenceTaken)
		case c.Version <= was.Version:
			continue // it came late
		}
		c.At = was.At // in the window that paid
		difference := change{Charge: c, tokens: c.Tokens - was.Tokens}
		e := c.entry(usageReference(c.call()), difference.tokens)
		e.corrects = was.Reference
		e.cost.Micros -= was.CostMicros
		changes, entries = append(changes, difference), append(entries, e)
	}
	if len(entries) == 0 {
		return nil, nil
	}
	added, err := post(ctx, b.q, entries)
	if err == nil && len(added) != len(entries) {
		err = fmt.Errorf("correct usage: %w", ErrReferenceTaken)
	}
	return changes, err
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
