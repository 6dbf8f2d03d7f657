package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/leaky-tokens/leaky-tokens/tokensvc/tokensdb"
)

// Purchase is a credit of tokens to a pool, which is made if the account has none.
type Purchase struct {
	Account   string    // empty: that of OrgID, else of UserID
	UserID    uuid.UUID // who caused it; zero: nobody, a job did
	OrgID     uuid.UUID // zero: the user's own pool
	Provider  string    // lower-case
	Tokens    int64     // 1 or more
	Reference string    // makes it happen once; 1 to 150 bytes
	Kind      string    // KindPurchase (default), KindRefund or KindAdjustment
	Reason    string    // shown in the ledger; at most 500 bytes
	ExpiresAt *time.Time
	Policy    Policy    // of the pool if it is made now
	Refill    string    // RefillWindow or RefillNever: the pool must refill so; empty: as Policy says, or as it does
	Most      int64     // the pool's total may not exceed it; 0: no cap
	At        time.Time // when it happens; zero: now, by Postgres
}

// Credit adds tokens in the caller's transaction and tells ratelimit at its commit. A
// reference that was credited before changes nothing. A refund to a pool that refills
// lasts until its window ends, as what it gives back did. Errors are ErrInvalid,
// ErrOverflow, ErrOverCap, ErrRefill, ErrReferenceTaken or what Postgres says; after one of them the
// transaction must be rolled back.
func Credit(ctx context.Context, tx pgx.Tx, c Purchase) error {
	k, counter, err := c.check()
	if err != nil {
		return err
	}
	if c.Refill != "" {
		c.Policy.Prepaid = c.Refill == RefillNever
	}
	b, pool, err := open(ctx, tx, k, c.Policy, c.At)
	if err != nil {
		return err
	}
	if c.Refill != "" && c.Refill != pool.Refill() {
		return fmt.Errorf("credit %d tokens to %s: %w (%s)", c.Tokens, k.Account, ErrRefill, pool.Refill())
	}
	done, err := posted(ctx, b.q, c.Reference, k, c.Tokens)
	if done || err != nil {
		return err
	}
	pool.advance(b.now)
	var expires time.Time
	switch {
	case c.ExpiresAt != nil:
		expires = c.ExpiresAt.Truncate(time.Microsecond) // as Postgres keeps it
	case c.Kind == KindRefund && pool.Window > 0:
		expires = pool.ResetTime
	}
	if err := pool.credit(c.Tokens, c.Reference, expires); err != nil {
		return err
	}
	if c.Most > 0 && pool.Total > c.Most {
		return fmt.Errorf("credit %d tokens to %s: %w", c.Tokens, k.Account, ErrOverCap)
	}
	pool.entries = append(pool.entries, entry{account: k.Account, counter: counter, unit: unit(k.Provider), amount: c.Tokens, kind: c.Kind,
		reference: c.Reference, reason: c.Reason, actor: c.UserID, at: b.now})
	pool.advance(b.now) // what has expired on the way here
	return b.save(ctx, true)
}

// check completes the order and finds what is wrong with it.
func (c *Purchase) check() (Key, string, error) {
	if c.Account == "" {
		c.Account = Account(c.UserID, c.OrgID)
	}
	if c.Kind == "" {
		c.Kind = KindPurchase
	}
	counter, ok := map[string]string{KindPurchase: counterSales, KindRefund: counterRefund, KindAdjustment: counterAdjustment}[c.Kind]
	k := Key{Account: c.Account, Provider: c.Provider}
	switch _, err := k.parse(); {
	case err != nil:
		return k, "", err
	case !ok:
		return k, "", fmt.Errorf("%w: kind %q", ErrInvalid, c.Kind)
	case c.Tokens < 1:
		return k, "", fmt.Errorf("%w: %d tokens", ErrInvalid, c.Tokens)
	case c.Refill != "" && c.Refill != RefillWindow && c.Refill != RefillNever:
		return k, "", fmt.Errorf("%w: refill %q", ErrInvalid, c.Refill)
	}
	return k, counter, errors.Join(checkTexts(c.Reference, c.Reason), checkOwn(c.Reference))
}

// checkOwn refuses a reference that the ledger's own entries could have.
func checkOwn(reference string) error {
	for _, prefix := range []string{usageReference(""), lateReference(""), expiryReference(""), expirySpentReference(""),
		reverseReference(""), "refill:", "opening:", "opening-usage:"} {
		if strings.HasPrefix(reference, prefix) {
			return fmt.Errorf("%w: reference %q begins like the ledger's own", ErrInvalid, reference)
		}
	}
	return nil
}

func checkTexts(reference, reason string) error {
	switch {
	case strings.TrimSpace(reference) == "" || len(reference) > longestReference || strings.ContainsRune(reference, 0):
		return fmt.Errorf("%w: reference %q", ErrInvalid, reference)
	case len(reason) > longestReason || strings.ContainsRune(reason, 0):
		return fmt.Errorf("%w: reason of %d bytes", ErrInvalid, len(reason))
	}
	return nil
}

// posted reports whether the reference is booked, with these contents. The caller holds
// the pool's lock, so that two of one reference come one after the other.
func posted(ctx context.Context, q *tokensdb.Queries, reference string, k Key, amount int64) (bool, error) {
	e, err := q.FindEntry(ctx, reference)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("find entry: %w", err)
	case e.Account != k.Account || e.Unit != unit(k.Provider) || e.Amount != amount:
		return false, fmt.Errorf("post %s: %w", reference, ErrReferenceTaken)
	}
	return true, nil
}

// Reverse takes a credit back in the caller's transaction, once: what of it has not
// expired meanwhile, spent or not, so that the account may owe afterwards. Errors are
// ErrUnknownReference, ErrShort (an adjustment has taken the tokens) or what Postgres says.
//
// What a spent credit leaves owing is paid by tokens that never expire, then by those that
// expire soonest.
func Reverse(ctx context.Context, tx pgx.Tx, reference, reason string) error {
	return reverse(ctx, tx, reference, reason, time.Time{})
}

func reverse(ctx context.Context, tx pgx.Tx, reference, reason string, at time.Time) error {
	if err := checkTexts(reference, reason); err != nil {
		return err
	}
	q := tokensdb.New(tx)
	credited, err := q.FindEntry(ctx, reference)
	if errors.Is(err, pgx.ErrNoRows) || err == nil && (credited.Amount < 1 || !slices.Contains([]string{KindPurchase, KindRefund,
		KindAdjustment}, credited.Kind)) {
		return fmt.Errorf("reverse %s: %w", reference, ErrUnknownReference)
	}
	if err != nil {
		return fmt.Errorf("find entry: %w", err)
	}
	k := Key{Account: credited.Account, Provider: strings.TrimPrefix(credited.Unit, unit(""))}
	b, err := lock(ctx, tx, []Key{k}, at)
	if err != nil {
		return err
	}
	pool := b.pools[k]
	if pool == nil {
		return fmt.Errorf("%w: pool of %s is not there", ErrCorrupt, k.Account)
	}
	if _, err := q.FindEntry(ctx, reverseReference(reference)); !errors.Is(err, pgx.ErrNoRows) {
		return err // nil: it was reversed before
	}
	pool.advance(b.now)
	expired, err := q.SumReferences(ctx, []string{expiryReference(reference), expirySpentReference(reference)})
	if err != nil {
		return fmt.Errorf("sum expiries: %w", err)
	}
	for _, e := range pool.entries { // of this very moment
		if e.reference == expiryReference(reference) || e.reference == expirySpentReference(reference) {
			expired += e.amount
		}
	}
	back := credited.Amount + expired
	if back == 0 {
		return nil
	}
	if err := pool.withdraw(back, reference); err != nil {
		return err
	}
	pool.entries = append(pool.entries, entry{account: k.Account, counter: credited.Counter, unit: credited.Unit, amount: -back,
		kind:      credited.Kind,
		reference: reverseReference(reference), reason: reason, at: b.now})
	return b.save(ctx, true)
}

// Withdrawal takes tokens back that nobody has spent.
type Withdrawal struct {
	Account, Provider string
	Tokens            int64 // 1 or more
	Reference, Reason string
	Actor             uuid.UUID
	At                time.Time // when it happens; zero: now, by Postgres
}

// Withdraw posts an adjustment downwards in the caller's transaction, once for each
// reference. Errors are ErrInvalid, ErrNoPool, ErrShort, ErrReferenceTaken or what
// Postgres says.
func Withdraw(ctx context.Context, tx pgx.Tx, w Withdrawal) error {
	k := Key{Account: w.Account, Provider: w.Provider}
	if w.Tokens < 1 {
		return fmt.Errorf("%w: %d tokens", ErrInvalid, w.Tokens)
	}
	if err := errors.Join(checkTexts(w.Reference, w.Reason), checkOwn(w.Reference)); err != nil {
		return err
	}
	b, err := lock(ctx, tx, []Key{k}, w.At)
	if err != nil {
		return err
	}
	pool := b.pools[k]
	if pool == nil {
		return fmt.Errorf("take tokens from %s: %w", k.Account, ErrNoPool)
	}
	done, err := posted(ctx, b.q, w.Reference, k, -w.Tokens)
	if done || err != nil {
		return err
	}
	pool.advance(b.now)
	if w.Tokens > pool.Remaining {
		return fmt.Errorf("take %d tokens from %s: %w", w.Tokens, k.Account, ErrShort)
	}
	if err := pool.withdraw(w.Tokens, ""); err != nil {
		return err
	}
	pool.entries = append(pool.entries, entry{account: k.Account, counter: counterAdjustment, unit: unit(k.Provider), amount: -w.Tokens,
		kind: KindAdjustment, reference: w.Reference, reason: w.Reason, actor: w.Actor, at: b.now})
	return b.save(ctx, true)
}
