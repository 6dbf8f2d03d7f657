package ledger

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	pg "github.com/leaky-tokens/leaky-tokens/internal/pgconn"
	"github.com/leaky-tokens/leaky-tokens/internal/retry"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/tokensdb"
)

const (
	// lockTimeout is Postgres's code (its manual, appendix A) of a lock that did not come in time.
	lockTimeout = "55P03"
	// bookTries is how often one batch is tried, each time without what was locked.
	bookTries = 3
	// waryFor is how long batches look for locks first after one met a lock.
	waryFor = 30 * time.Second
	// looks is at how many looks, lookPause apart, a pool must be locked to be taken for held.
	looks     = 3
	lookPause = 30 * time.Millisecond
	// catchEvery is how often charges that wait are tried.
	catchEvery = time.Second
)

// errWaiting says that charges of a pool are not booked, since somebody has locked it.
var errWaiting = errors.New("charges wait for the pool, which somebody has locked")

// busy says that somebody has locked what was needed.
func busy(err error) bool {
	answer, answered := errors.AsType[*pgconn.PgError](err)
	return answered && answer.Code == lockTimeout
}

// book books a batch. One transaction takes all pools of it, so one that somebody has locked would
// hold up the charges of everybody else, and the locks that it has already would hold up their
// purchases:
//
//	charges -> booked within beginBooking's wait ------------------------> done
//	            |  \- no: which pools stay locked? their charges ---------> token_waiting_charges
//	            \----------------------------- the others, once more <---/        |
//	                                                                              v
//	            catchWaiting: every second, when the pool is free ---------> booked, and gone there
//
// A charge that waits is as safe as one that is booked, so its message is acknowledged, and the
// ledger has caught up for all other pools. For its own pool it has not: Read answers busy.
// For waryFor after a lock was met, batches look for locks first instead of waiting for them: a session
// that somebody left open stands for long, and the batches between two charges of its pool meet nothing.
func (b *bookings) book(ctx context.Context, charged []delivery, refused map[int]error) error {
	for tries := 1; ; tries++ {
		if time.Now().Before(b.waryUntil) {
			others, err := b.setAside(ctx, charged)
			if err != nil {
				return err
			}
			if len(others) < len(charged) {
				b.waryUntil = time.Now().Add(waryFor)
			}
			charged = others
		}
		err := b.apply(ctx, charged, refused)
		if !busy(err) {
			return err
		}
		if b.waryUntil = time.Now().Add(waryFor); tries == bookTries {
			return err // it is no pool's lock, or the whole table's
		}
	}
}

// setAside writes down the charges whose pools stay locked, and answers the others. Another replica, or a
// purchase, has a pool for milliseconds, so only one that is locked at each look is taken for held. The
// looks take locks themselves, for no longer than each, so that two replicas do not set aside what the
// other one looks at.
func (b *bookings) setAside(ctx context.Context, charged []delivery) ([]delivery, error) {
	charges := make([]Charge, len(charged))
	for i, d := range charged {
		charges[i] = d.charge
	}
	held := keysOf(charges)
	for look := range looks {
		if look > 0 && !retry.Pause(ctx, lookPause) {
			return nil, ctx.Err()
		}
		var err error
		if held, err = b.locked(ctx, held); err != nil {
			return nil, fmt.Errorf("look for locked pools: %w", err)
		}
		if len(held) == 0 {
			return charged, nil
		}
	}
	var wait, others []delivery
	for _, d := range charged {
		if slices.Contains(held, Key{d.charge.Account, d.charge.Provider}) {
			wait = append(wait, d)
		} else {
			others = append(others, d)
		}
	}
	// In one order for all: two replicas that were given the same events in different orders would each
	// wait for a row of the other's.
	slices.SortFunc(wait, func(x, y delivery) int {
		return cmp.Or(cmp.Compare(x.charge.Request, y.charge.Request), cmp.Compare(x.charge.Version, y.charge.Version))
	})
	var keep tokensdb.KeepWaitingParams
	for _, d := range wait {
		c := d.charge
		keep.Accounts, keep.Providers = append(keep.Accounts, c.Account), append(keep.Providers, c.Provider)
		keep.Requests, keep.Versions = append(keep.Requests, c.Request), append(keep.Versions, c.Version)
		keep.Events = append(keep.Events, d.event)
	}
	err := b.inTime(ctx, func(ctx context.Context, tx pgx.Tx) error { return tokensdb.New(tx).KeepWaiting(ctx, keep) })
	if err != nil {
		return nil, fmt.Errorf("set usage aside: %w", err)
	}
	b.events.WithLabelValues("waiting").Add(float64(len(wait)))
	return others, nil
}

// locked are those of the pools that are there and that somebody has locked at this moment.
func (b *bookings) locked(ctx context.Context, keys []Key) (held []Key, err error) {
	err = b.inTime(ctx, func(ctx context.Context, tx pgx.Tx) error {
		there, err := read(ctx, tx, keys, time.Time{})
		if err != nil {
			return err
		}
		mine, err := free(ctx, tx, keys)
		if err != nil {
			return err
		}
		for _, k := range mine {
			delete(there.pools, k)
		}
		held = slices.Collect(maps.Keys(there.pools))
		return nil
	})
	return held, err
}

// inTime runs f in a transaction that waits for no lock for long.
func (b *bookings) inTime(ctx context.Context, f func(ctx context.Context, tx pgx.Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, applyWait)
	defer cancel()
	return pgx.BeginTxFunc(ctx, b.db, pgx.TxOptions{BeginQuery: beginBooking}, func(tx pgx.Tx) error { return f(ctx, tx) })
}

// lateBookings is said while charges that wait cannot be looked for.
const lateBookings = "usage that waits for locked pools is not booked, trying again"

// catchWaiting books what waits, until ctx ends. Replicas may do this at once: each charge is booked
// once, whoever does it.
func (b *bookings) catchWaiting(ctx context.Context) {
	for retry.Pause(ctx, catchEvery) {
		running, cancel := context.WithTimeout(ctx, applyWait)
		err := b.bookWaiting(running)
		cancel()
		switch {
		case err == nil:
			b.said.Over(ctx, lateBookings, "usage that waited for locked pools is booked")
		case ctx.Err() == nil && !pg.Gone(err):
			b.said.Warn(ctx, lateBookings, err)
		}
	}
}

// bookWaiting books the charges of pools that are free by now. One of the pools that are not is waited
// for, another each time: one that many draw on may never be free when somebody looks.
func (b *bookings) bookWaiting(ctx context.Context) error {
	found, err := tokensdb.New(b.db).WaitingPools(ctx, jobBatch)
	if err != nil || len(found) == 0 {
		return err
	}
	keys := make([]Key, len(found))
	for i, r := range found {
		keys[i] = Key{r.Account, r.Provider}
	}
	var mine []Key
	err = b.inTime(ctx, func(ctx context.Context, tx pgx.Tx) error { mine, err = free(ctx, tx, keys); return err })
	if err != nil {
		return err
	}
	locked := slices.DeleteFunc(keys, func(k Key) bool { return slices.Contains(mine, k) })
	err = b.bookPools(ctx, mine)
	if len(locked) > 0 {
		err = errors.Join(err, b.bookPools(ctx, []Key{locked[rand.IntN(len(locked))]}))
	}
	return err
}

// bookPools books what waits for pools, as much as a batch. A charge that turns out to be none that can
// be booked stays where it is, with the reason.
func (b *bookings) bookPools(ctx context.Context, keys []Key) error {
	if len(keys) == 0 {
		return nil
	}
	q := tokensdb.New(b.db)
	var p tokensdb.WaitingChargesParams
	p.Accounts, p.Providers = names(keys)
	p.Most = usage.BatchMost
	rows, err := q.WaitingCharges(ctx, p)
	if err != nil {
		return err
	}
	refused, charged, booked := map[int]error{}, make([]delivery, 0, len(rows)), make([]int64, 0, len(rows))
	for i, r := range rows {
		charge, _, err := decode(r.Event)
		if err != nil {
			refused[i] = err
			continue
		}
		charged = append(charged, delivery{i, charge, r.Event})
	}
	if err := b.apply(ctx, charged, refused); err != nil {
		return err // some may be booked; they are known the next time
	}
	for i, r := range rows {
		reason := refused[i]
		if reason == nil {
			booked = append(booked, r.ID)
			continue
		}
		if err := q.RefuseWaiting(ctx, tokensdb.RefuseWaitingParams{ID: r.ID, Reason: usage.Printable(reason.Error())}); err != nil {
			return err
		}
		b.events.WithLabelValues("dead").Inc()
		b.log.LogAttrs(ctx, slog.LevelError, "usage that waited for a locked pool cannot be booked; it is kept in token_waiting_charges",
			slog.Int64("id", r.ID), slog.Any("error", reason))
	}
	return q.DropWaiting(ctx, booked)
}

// waiting are those of the pools that charges wait for.
func waiting(ctx context.Context, db tokensdb.DBTX, keys []Key) (map[Key]error, error) {
	var p tokensdb.WaitingAmongParams
	p.Accounts, p.Providers = names(keys)
	rows, err := tokensdb.New(db).WaitingAmong(ctx, p)
	if err != nil {
		return nil, fmt.Errorf("look for charges that wait: %w", err)
	}
	found := make(map[Key]error, len(rows))
	for _, r := range rows {
		found[Key{r.Account, r.Provider}] = errWaiting
	}
	return found, nil
}

func names(keys []Key) (accounts, providers []string) {
	for _, k := range keys {
		accounts, providers = append(accounts, k.Account), append(providers, k.Provider)
	}
	return accounts, providers
}
