package ledger

import (
	"fmt"
	"slices"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/balance"
)

// Pool is what an account owns for one provider. Its numbers are the fold of the
// account's entries: Remaining of all, Total of those that are neither usage nor refill.
type Pool struct {
	Account          string // "user:<id>" or "org:<id>"
	Provider         string
	Total, Remaining int64         // tokens; Remaining below zero is owed
	Window           time.Duration // 0: prepaid, it never refills
	Anchor           time.Time     // windows are counted from here
	ResetTime        time.Time     // end of the window that Remaining is of; zero: prepaid
	Version          int64         // grows with every change
	CreatedAt        time.Time
	UpdatedAt        time.Time

	announced int64   // the version that ratelimit was told last
	lots      []lot   // open credits that expire, soonest first
	rests     []int64 // what the last windows that ended had left or, below zero, owed, the latest last; at most keptRests
	returned  int64   // what was spent in this window and given back by corrections
	dropped   []string
	entries   []entry // posted by the changes so far
}

// keptRests is how many ended windows are remembered for charges that come late. Longer than
// the longest call and than what JetStream keeps of usage, for windows of a day.
const keptRests = 16

// lot is a credit that expires. The pool's rest, Remaining less what its lots have,
// never does.
type lot struct {
	reference string
	amount    int64
	remaining int64
	expires   time.Time
	expired   bool // the unspent part is gone; the spent part goes when the window ends
}

// State is the pool as ratelimit is told of it.
func (p *Pool) State(at time.Time) balance.State {
	s := balance.State{Account: p.Account, Provider: p.Provider, Present: true, Version: p.Version, Credits: p.Total,
		Spent: max(0, p.Total-p.Remaining), Returned: p.returned, At: at}
	if p.Window > 0 {
		s.Window, s.Anchor = p.Window, p.Anchor
	}
	return s
}

// Refill is RefillWindow or RefillNever.
func (p *Pool) Refill() string {
	if p.Window > 0 {
		return RefillWindow
	}
	return RefillNever
}

func (p *Pool) unit() string { return unit(p.Provider) }

// post changes what remains and notes the entry of it.
func (p *Pool) post(counter, kind, reference, reason string, amount int64, at time.Time) {
	if amount == 0 {
		return
	}
	p.Remaining += amount
	p.entries = append(p.entries, entry{account: p.Account, counter: counter, unit: p.unit(), amount: amount, kind: kind, reference: reference,
		reason: reason, at: at})
}

// advance lets time pass up to now: lots expire and windows end, in the order in which
// they did. Time never goes back.
func (p *Pool) advance(now time.Time) {
	for {
		due := p.nextExpiry()
		if p.Window > 0 && !p.ResetTime.After(now) && (due == nil || p.ResetTime.Before(due.expires)) {
			p.endWindow(now)
			continue
		}
		if due == nil || due.expires.After(now) {
			return
		}
		p.expire(due)
	}
}

// nextExpiry is the lot that expires next, nil without one.
func (p *Pool) nextExpiry() *lot {
	for i := range p.lots {
		if !p.lots[i].expired {
			return &p.lots[i]
		}
	}
	return nil
}

// expire takes back what was not spent of a lot. In a pool that refills, what was spent of
// it stays in Total and in what is spent until the window ends: spending never shrinks
// within a window.
func (p *Pool) expire(l *lot) {
	p.Total -= l.remaining
	p.post(counterExpiry, kindExpiry, expiryReference(l.reference), "expired unspent", -l.remaining, l.expires)
	l.amount -= l.remaining
	l.remaining, l.expired = 0, true
	if p.Window == 0 || l.amount == 0 {
		p.drop(l.reference)
	}
}

// endWindow fills the pool, less what has expired of it, and moves on to the window that
// ends next: that of now, or of the next expiry before. What was overdrawn is paid out of what
// the windows give, and not forgiven.
func (p *Pool) endWindow(now time.Time) {
	ended := p.ResetTime
	p.moveOn(now)
	var expired int64
	for _, l := range p.lots {
		if l.expired {
			expired += l.amount
		}
	}
	// The first of the windows gives a full pool, which pays what is owed, and so do the others.
	windows := int64(p.ResetTime.Sub(ended) / p.Window)
	gives, overdrawn := p.Total-expired, max(0, -p.Remaining)
	owed := balance.Carried(overdrawn, gives, windows-1)
	p.rests = append(p.rests, p.Remaining)
	for w := max(1, windows-keptRests); w < windows; w++ { // those in which nothing was spent
		p.rests = append(p.rests, gives-balance.Carried(overdrawn, gives, w-1))
	}
	p.returned = 0
	p.rests = p.rests[max(0, len(p.rests)-keptRests):]
	p.post(counterRefill, KindAdjustment, refillReference(p.key(), ended), "window ended", p.Total-owed-p.Remaining, ended)
	for _, l := range slices.Clone(p.lots) {
		if l.expired {
			p.Total -= l.amount
			p.post(counterExpiry, kindExpiry, expirySpentReference(l.reference), "expired, spent in its last window", -l.amount, ended)
			p.drop(l.reference)
		}
	}
	for i := range p.lots {
		p.lots[i].remaining = p.lots[i].amount
	}
	p.take(owed)
}

// moveOn goes to the window that ends next: that of now, or the last one that the next expiry
// is not part of. A lot that expires as a window ends gives nothing to the one after.
func (p *Pool) moveOn(now time.Time) {
	ended, until := p.ResetTime, now
	if due := p.nextExpiry(); due != nil && !due.expires.After(now) {
		until = due.expires.Add(-1)
	}
	p.ResetTime = p.windowEnd(until)
	if !p.ResetTime.After(ended) {
		p.ResetTime = ended.Add(p.Window)
	}
}

// windowEnd is the end of the window that t is in.
func (p *Pool) windowEnd(t time.Time) time.Time {
	since := t.Sub(p.Anchor)
	k := since / p.Window
	if since < 0 && since%p.Window != 0 {
		k--
	}
	return p.Anchor.Add((k + 1) * p.Window)
}

// credit adds tokens, until expires or for good (zero).
func (p *Pool) credit(amount int64, reference string, expires time.Time) error {
	if amount > mostTokens-p.Total {
		return fmt.Errorf("credit %d tokens to %s: %w", amount, p.Account, ErrOverflow)
	}
	p.Total += amount
	p.Remaining += amount
	if !expires.IsZero() {
		p.lots = append(p.lots, lot{reference: reference, amount: amount, remaining: amount, expires: expires})
		p.order()
	}
	p.settleLots()
	return nil
}

// spend takes what a call that began at was charged, or gives back (below zero) what it was charged
// too much; its entry is posted already. It answers how much of that concerns windows that have
// ended: their tokens have been given anew since.
func (p *Pool) spend(amount int64, at time.Time) (past int64) {
	p.Remaining -= amount
	past = p.takePast(amount, at)
	if present := amount - past; present >= 0 {
		p.take(present)
	} else {
		p.returned -= present
		p.giveBack(-present)
	}
	return past
}

// takePast takes what it can from the window that at is in and those after it that have ended,
// in their order: had the charge come in time, it would have drawn on the first of them, and
// each would have paid what the one before was overdrawn by. What is given back goes the same way:
// each window pays so much less for the one before. A window that is too long ago to be remembered
// is taken for the oldest that is.
func (p *Pool) takePast(amount int64, at time.Time) (past int64) {
	if p.Window == 0 {
		return 0
	}
	begin := p.ResetTime.Add(-p.Window)
	if !at.Before(begin) {
		return 0
	}
	ago := int64((begin.Sub(at)-1)/p.Window) + 1
	carried := amount
	for i := max(0, int64(len(p.rests))-ago); i < int64(len(p.rests)); i++ {
		owed := max(0, -p.rests[i])
		p.rests[i] -= carried
		carried = max(0, -p.rests[i]) - owed
	}
	return amount - carried
}

// refillPast makes up for charges that windows have paid which have ended.
func (p *Pool) refillPast(amount int64, call string, at time.Time) {
	p.post(counterRefill, KindAdjustment, lateReference(call), "charges of a window that has ended", amount, at)
}

// withdraw takes tokens back for good: those of the credit with the reference, or any
// (empty). ErrShort: the pool was not given so much.
func (p *Pool) withdraw(amount int64, reference string) error {
	if amount > p.Total {
		return fmt.Errorf("take %d tokens from %s: %w", amount, p.Account, ErrShort)
	}
	p.Total -= amount
	p.Remaining -= amount
	if slices.ContainsFunc(p.lots, func(l lot) bool { return l.reference == reference }) {
		p.drop(reference)
	}
	p.settleLots()
	return nil
}

// take spends from the lots, soonest expiry first; what they lack is the rest's.
func (p *Pool) take(amount int64) {
	for i := range p.lots {
		part := min(amount, p.lots[i].remaining)
		p.lots[i].remaining -= part
		amount -= part
	}
}

// giveBack undoes take: what was spent last comes back first, which is what the rest paid and then
// what the lots that expire latest did. Remaining has the tokens already.
func (p *Pool) giveBack(amount int64) {
	paid := p.Total - (p.Remaining - amount) // by the rest
	for _, l := range p.lots {
		paid -= l.amount - l.remaining
	}
	amount -= min(amount, max(0, paid))
	for i := len(p.lots) - 1; i >= 0; i-- {
		if l := &p.lots[i]; !l.expired {
			part := min(amount, l.amount-l.remaining)
			l.remaining += part
			amount -= part
		}
	}
}

// settleLots lets lots pay what the rest owes, so that they never promise what is not
// there, neither now nor when the window ends.
func (p *Pool) settleLots() {
	owed, excess := -p.Remaining, -p.Total
	for _, l := range p.lots {
		owed += l.remaining
		excess += l.amount
	}
	p.take(max(owed, 0))
	for i := range p.lots {
		l := &p.lots[i]
		part := max(0, min(excess, l.amount))
		l.amount -= part
		l.remaining = min(l.remaining, l.amount)
		excess -= part
	}
	for _, l := range slices.Clone(p.lots) {
		if l.amount == 0 {
			p.drop(l.reference)
		}
	}
}

func (p *Pool) drop(reference string) {
	p.lots = slices.DeleteFunc(p.lots, func(l lot) bool { return l.reference == reference })
	p.dropped = append(p.dropped, reference)
}

// order keeps lots by expiry and, of those that expire together, the oldest first.
func (p *Pool) order() {
	slices.SortStableFunc(p.lots, func(a, b lot) int { return a.expires.Compare(b.expires) })
}

func (p *Pool) key() Key { return Key{Account: p.Account, Provider: p.Provider} }
