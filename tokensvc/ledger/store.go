package ledger

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/balance"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/outbox"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/tokensdb"
)

// The event of a pool that changed; its data is a balance.State.
const (
	aggregatePool = "TokenPool"
	eventChanged  = "TOKEN_BALANCE_CHANGED"
)

// owners are accounts as the two tables want them.
type owners struct {
	users, orgs                 []uuid.UUID
	userProviders, orgProviders []string
}

func sortOwners(keys []Key) (owners, error) {
	var o owners
	for _, k := range keys {
		who, err := k.parse()
		switch {
		case err != nil:
			return o, err
		case who.org:
			o.orgs, o.orgProviders = append(o.orgs, who.id), append(o.orgProviders, k.Provider)
		default:
			o.users, o.userProviders = append(o.users, who.id), append(o.userProviders, k.Provider)
		}
	}
	return o, nil
}

// books are pools under lock, or read.
type books struct {
	q     *tokensdb.Queries
	tx    pgx.Tx
	now   time.Time // of Postgres, or the caller's
	pools map[Key]*Pool
}

// read reads pools as they are, at the time of Postgres or at.
func read(ctx context.Context, db tokensdb.DBTX, keys []Key, at time.Time) (*books, error) {
	o, err := sortOwners(keys)
	if err != nil {
		return nil, err
	}
	b := &books{q: tokensdb.New(db), now: at, pools: map[Key]*Pool{}}
	rows, err := b.q.ReadPools(ctx, tokensdb.ReadPoolsParams{Users: o.users, UserProviders: o.userProviders, Orgs: o.orgs,
		OrgProviders: o.orgProviders})
	if err != nil {
		return nil, fmt.Errorf("read pools: %w", err)
	}
	for _, r := range rows {
		b.add(r)
	}
	return b, b.readLots(ctx)
}

// lock reads pools under their row locks, which end with the transaction.
func lock(ctx context.Context, tx pgx.Tx, keys []Key, at time.Time) (*books, error) {
	o, err := sortOwners(keys)
	if err != nil {
		return nil, err
	}
	b := &books{q: tokensdb.New(tx), tx: tx, now: at, pools: map[Key]*Pool{}}
	if len(o.users) > 0 {
		rows, err := b.q.LockUserPools(ctx, tokensdb.LockUserPoolsParams{Owners: o.users, Providers: o.userProviders})
		if err != nil {
			return nil, fmt.Errorf("lock pools: %w", err)
		}
		for _, r := range rows {
			b.add(tokensdb.ReadPoolsRow(r))
		}
	}
	if len(o.orgs) > 0 {
		rows, err := b.q.LockOrgPools(ctx, tokensdb.LockOrgPoolsParams{Owners: o.orgs, Providers: o.orgProviders})
		if err != nil {
			return nil, fmt.Errorf("lock pools: %w", err)
		}
		for _, r := range rows {
			b.add(tokensdb.ReadPoolsRow(r))
		}
	}
	return b, b.readLots(ctx)
}

// free locks those of the pools that nobody else has locked, waits for none, and answers which.
func free(ctx context.Context, tx pgx.Tx, keys []Key) ([]Key, error) {
	o, err := sortOwners(keys)
	if err != nil {
		return nil, err
	}
	q := tokensdb.New(tx)
	users, err := q.FreeUserPools(ctx, tokensdb.FreeUserPoolsParams{Owners: o.users, Providers: o.userProviders})
	if err != nil {
		return nil, fmt.Errorf("lock free pools: %w", err)
	}
	orgs, err := q.FreeOrgPools(ctx, tokensdb.FreeOrgPoolsParams{Owners: o.orgs, Providers: o.orgProviders})
	if err != nil {
		return nil, fmt.Errorf("lock free pools: %w", err)
	}
	mine := make([]Key, 0, len(users)+len(orgs))
	for _, r := range users {
		mine = append(mine, Key{Account(r.UserID, uuid.Nil), r.Provider})
	}
	for _, r := range orgs {
		mine = append(mine, Key{Account(uuid.Nil, r.OrgID), r.Provider})
	}
	return mine, nil
}

func (b *books) add(r tokensdb.ReadPoolsRow) {
	if b.now.IsZero() {
		b.now = r.Now
	}
	p := &Pool{Account: Account(r.Owner, uuid.Nil), Provider: r.Provider, Total: r.TotalTokens, Remaining: r.RemainingTokens,
		Version: r.Version, CreatedAt: r.CreatedAt, UpdatedAt: r.UpdatedAt, announced: r.Announced, rests: r.Rests, returned: r.Returned}
	if r.IsOrg {
		p.Account = Account(uuid.Nil, r.Owner)
	}
	if r.Refill == RefillWindow {
		p.Window, p.Anchor = time.Duration(r.WindowUs)*time.Microsecond, r.Anchor
		if r.ResetTime != nil {
			p.ResetTime = *r.ResetTime
		} else { // made without a window: it begins with the one that the pool was made in
			p.ResetTime = p.windowEnd(r.CreatedAt)
		}
	}
	b.pools[p.key()] = p
}

func (b *books) readLots(ctx context.Context) error {
	if len(b.pools) == 0 {
		return nil
	}
	var p tokensdb.OpenLotsParams
	for k := range b.pools {
		p.Accounts, p.Providers = append(p.Accounts, k.Account), append(p.Providers, k.Provider)
	}
	rows, err := b.q.OpenLots(ctx, p)
	if err != nil {
		return fmt.Errorf("read lots: %w", err)
	}
	for _, r := range rows {
		pool := b.pools[Key{r.Account, r.Provider}]
		pool.lots = append(pool.lots, lot{reference: r.Reference, amount: r.Amount, remaining: r.Remaining, expires: r.ExpiresAt,
			expired: r.Expired})
	}
	return nil
}

// open locks one pool and makes it if need be.
func open(ctx context.Context, tx pgx.Tx, k Key, policy Policy, at time.Time) (*books, *Pool, error) {
	b, err := lock(ctx, tx, []Key{k}, at)
	if err != nil || b.pools[k] != nil {
		return b, b.find(k), err
	}
	who, err := k.parse()
	if err != nil {
		return nil, nil, err
	}
	if at.IsZero() {
		if at, err = b.q.Clock(ctx); err != nil {
			return nil, nil, fmt.Errorf("ask for the time: %w", err)
		}
	}
	made := tokensdb.MakeUserPoolParams{Owner: who.id, Provider: k.Provider, Refill: RefillNever, WindowUs: DefaultWindow.Microseconds(),
		At: at}
	if !policy.Prepaid {
		window := policy.Window
		if window <= 0 {
			window = DefaultWindow
		}
		end := at.Add(window)
		made.Refill, made.WindowUs, made.ResetTime = RefillWindow, window.Microseconds(), &end
	}
	if who.org {
		err = b.q.MakeOrgPool(ctx, tokensdb.MakeOrgPoolParams(made))
	} else {
		err = b.q.MakeUserPool(ctx, made)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("make pool: %w", err)
	}
	if b, err = lock(ctx, tx, []Key{k}, b.now); err == nil && b.pools[k] == nil {
		err = fmt.Errorf("%w: pool of %s is not there", ErrCorrupt, k.Account)
	}
	return b, b.find(k), err
}

func (b *books) find(k Key) *Pool {
	if b == nil {
		return nil
	}
	return b.pools[k]
}

// post writes entries and answers the references of those that are new.
func post(ctx context.Context, q *tokensdb.Queries, entries []entry) ([]string, error) {
	var p tokensdb.PostEntriesParams
	for _, e := range entries {
		p.Accounts, p.Counters, p.Units = append(p.Accounts, e.account), append(p.Counters, e.counter), append(p.Units, e.unit)
		p.Amounts, p.Kinds, p.Refs = append(p.Amounts, e.amount), append(p.Kinds, e.kind), append(p.Refs, e.reference)
		p.Reasons, p.Actors, p.Ats = append(p.Reasons, e.reason), append(p.Actors, e.actor), append(p.Ats, e.at)
		p.Versions, p.Corrected = append(p.Versions, e.version), append(p.Corrected, e.corrects)
		p.Costs, p.Currencies, p.Prices = append(p.Costs, e.cost.Micros), append(p.Currencies, e.cost.Currency), append(p.Prices, e.cost.Version)
	}
	added, err := q.PostEntries(ctx, p)
	if err != nil {
		return nil, fmt.Errorf("post entries: %w", err)
	}
	return added, nil
}

// save writes what changed: first what follows from time and order (entries, lots), the
// pools, which others wait for, next, and the events of them last. announce tells
// ratelimit now.
func (b *books) save(ctx context.Context, announce bool) error {
	changed := make([]*Pool, 0, len(b.pools))
	for _, p := range b.pools {
		changed = append(changed, p)
	}
	slices.SortFunc(changed, func(x, y *Pool) int { return x.key().compare(y.key()) })
	var entries []entry
	for _, p := range changed {
		entries = append(entries, p.entries...)
		// A count alone would give versions twice where Postgres comes back older, and whoever heard of
		// the first would take what is new for old.
		p.Version = max(p.Version+1, b.now.UnixMicro())
		if announce {
			p.announced = p.Version
		}
	}
	if len(entries) > 0 {
		added, err := post(ctx, b.q, entries)
		if err != nil {
			return err
		}
		if len(added) != len(entries) { // the caller looked, so another account was faster
			return fmt.Errorf("post %s: %w", entries[len(entries)-1].reference, ErrReferenceTaken)
		}
	}
	if err := b.saveLots(ctx, changed); err != nil {
		return err
	}
	if err := b.savePools(ctx, changed); err != nil {
		return err
	}
	if !announce {
		return nil
	}
	return tell(ctx, b.tx, changed, b.now)
}

func (b *books) saveLots(ctx context.Context, changed []*Pool) error {
	var p tokensdb.SaveLotsParams
	var dropped []string
	for _, pool := range changed {
		dropped = append(dropped, pool.dropped...)
		for _, l := range pool.lots {
			p.Accounts, p.Providers, p.Refs = append(p.Accounts, pool.Account), append(p.Providers, pool.Provider), append(p.Refs, l.reference)
			p.Amounts, p.Remainings = append(p.Amounts, l.amount), append(p.Remainings, l.remaining)
			p.Expiries, p.Expired = append(p.Expiries, l.expires), append(p.Expired, l.expired)
		}
	}
	if len(p.Refs) > 0 {
		if err := b.q.SaveLots(ctx, p); err != nil {
			return fmt.Errorf("save lots: %w", err)
		}
	}
	if len(dropped) > 0 {
		if err := b.q.DropLots(ctx, dropped); err != nil {
			return fmt.Errorf("drop lots: %w", err)
		}
	}
	return nil
}

func (b *books) savePools(ctx context.Context, changed []*Pool) error {
	var users, orgs tokensdb.SaveUserPoolsParams
	for _, pool := range changed {
		who, err := pool.key().parse()
		if err != nil {
			return err
		}
		p := &users
		if who.org {
			p = &orgs
		}
		reset := pool.ResetTime
		if pool.Window == 0 {
			reset = time.Unix(0, 0) // null
		}
		p.Owners, p.Providers = append(p.Owners, who.id), append(p.Providers, pool.Provider)
		p.Totals, p.Remainings = append(p.Totals, pool.Total), append(p.Remainings, pool.Remaining)
		p.ResetTimes, p.Rests = append(p.ResetTimes, reset), append(p.Rests, array(pool.rests))
		p.Returneds = append(p.Returneds, pool.returned)
		p.Versions, p.Announceds = append(p.Versions, pool.Version), append(p.Announceds, pool.announced)
	}
	if len(users.Owners) > 0 {
		if err := b.q.SaveUserPools(ctx, users); err != nil {
			return fmt.Errorf("save pools: %w", err)
		}
	}
	if len(orgs.Owners) > 0 {
		if err := b.q.SaveOrgPools(ctx, tokensdb.SaveOrgPoolsParams(orgs)); err != nil {
			return fmt.Errorf("save pools: %w", err)
		}
	}
	return nil
}

// array is a list as Postgres reads it: lists of lists of different lengths are no parameter.
func array(numbers []int64) string {
	texts := make([]string, len(numbers))
	for i, n := range numbers {
		texts[i] = strconv.FormatInt(n, 10)
	}
	return "{" + strings.Join(texts, ",") + "}"
}

// tell writes the events that carry the pools' states to ratelimit.
func tell(ctx context.Context, tx pgx.Tx, pools []*Pool, at time.Time) error {
	events := make([]outbox.Event, 0, len(pools))
	for _, p := range pools {
		events = append(events, outbox.Event{AggregateType: aggregatePool, AggregateID: p.Account + "/" + p.Provider, Type: eventChanged,
			Subject: balance.Subject(p.Provider), Data: p.State(at)})
	}
	return outbox.AddAll(ctx, tx, events)
}
