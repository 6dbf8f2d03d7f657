package lease

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/leaky-tokens/leaky-tokens/internal/retry"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
)

const (
	// checkEvery is how often leases are looked through for those to give back.
	checkEvery = time.Second
	// recordEvery is how often Redis is tried while there is something to write down.
	recordEvery = 100 * time.Millisecond
	// lastWords bounds what is written down and given back when the service ends.
	lastWords = 2 * time.Second
	// mostOwed bounds how many holds wait to be given back; atOnce of them are given back together.
	mostOwed = 2 * mostLeases
	atOnce   = 100
)

// What is said of holds that could not be given back.
const (
	notGivenBack = "holds are not given back, trying again"
	tooManyOwed  = "too many holds to give back, some last until they expire"
)

// errOwed is why no more is remembered.
var errOwed = fmt.Errorf("%d wait", mostOwed)

// Config of a Keeper.
type Config struct {
	Store *store.Store
	// Tokens and Requests are how many are leased at once; default 4096 and 32.
	Tokens, Requests int64
	// Idle is how long a lease is kept that no call needs; default 30 s.
	Idle time.Duration
	// Timeout bounds a round trip to Redis, > 0.
	Timeout time.Duration
	Log     *slog.Logger
	Metrics prometheus.Registerer
}

// Keeper keeps leases while Redis answers, admits from them while it does not, and then
// writes down what it admitted.
type Keeper struct {
	store    *store.Store
	leases   *table
	journal  journal
	owing    sync.Mutex
	owed     []store.Revocation // what could not be given back yet
	timeout  time.Duration
	log      *slog.Logger
	said     *retry.Troubles
	recorded *prometheus.CounterVec
}

// New makes a keeper without leases.
func New(c Config) *Keeper {
	k := &Keeper{store: c.Store, timeout: c.Timeout, log: c.Log, said: retry.NewTroubles(c.Log), leases: newTable(
		positiveOr(c.Tokens, 4096), positiveOr(c.Requests, 32), positiveOr(c.Idle, 30*time.Second), c.Store.Lifetime()*9/10)}
	k.recorded = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "leaky_ratelimit_outage_adopted_total",
		Help: "Calls of an outage written down after it: out of their lease, by force, or known before."}, []string{"how"})
	c.Metrics.MustRegister(k.recorded,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "leaky_ratelimit_outage_journal",
			Help: "Calls admitted without Redis that are not written down yet."},
			func() float64 { return float64(k.journal.size()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "leaky_ratelimit_leased_tokens",
			Help: "Tokens this replica could admit without Redis."}, k.leases.leasedTokens))
	return k
}

func positiveOr[T int64 | time.Duration](value, otherwise T) T {
	if value > 0 {
		return value
	}
	return otherwise
}

// Observe keeps a lease for calls like one that Redis decided about, or gives it back when
// it may be what the call lacked.
func (k *Keeper) Observe(t *store.Take, outcome store.Outcome) {
	switch outcome {
	case store.Admitted:
		k.leases.keepFor(t)
	case store.Refused, store.Short:
		k.leases.giveBackFor(t)
	}
}

// Run takes and gives back leases, and writes down what was admitted without Redis, until
// ctx ends; then it gives back all.
func (k *Keeper) Run(ctx context.Context) {
	var group sync.WaitGroup
	defer group.Wait()
	group.Go(func() { k.recordLoop(ctx) })
	ticker := time.NewTicker(checkEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			k.giveBackAll(context.WithoutCancel(ctx))
			return
		case one := <-k.leases.orders:
			k.carryOut(ctx, one)
		case <-ticker.C:
			k.check(ctx)
		}
	}
}

// check gives back what is due, and what could not be given back before. What leases cover is written
// down first.
func (k *Keeper) check(ctx context.Context) {
	if k.journal.size() > 0 {
		return
	}
	k.giveBackOwed(ctx) // also while Redis is down: the breaker lets one call through now and then
	if k.store.Down() {
		return
	}
	for _, one := range k.leases.removeDue(false) {
		k.giveBack(ctx, one)
	}
}

func (k *Keeper) giveBackAll(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lastWords)
	defer cancel()
	k.recordAll(ctx)
	for {
		select {
		case one := <-k.leases.orders:
			if one.ready {
				k.giveBack(ctx, one)
			}
			continue
		default:
		}
		break
	}
	for _, one := range k.leases.removeDue(true) {
		k.giveBack(ctx, one)
	}
	k.giveBackOwed(ctx)
}

// carryOut takes the lease that was ordered, or gives back one that is ready.
func (k *Keeper) carryOut(ctx context.Context, one *lease) {
	if one.ready {
		k.giveBack(ctx, one)
		return
	}
	until := time.Now().Add(k.leases.life)
	ok, back := k.take(ctx, one)
	k.leases.mu.Lock()
	one.ready, one.until = ok, until
	if !ok {
		delete(k.leases.byKey, one.key)
	}
	k.leases.mu.Unlock()
	if !ok && len(back) > 0 {
		k.revoke(context.WithoutCancel(ctx), back)
	}
}

// take takes a lease, its tokens and then its requests, and reports whether Redis granted both. Else
// back is what was taken of it, or may have been: where no answer came, Redis may have executed the
// command all the same, or may do so yet. (A lease that was granted says itself what it holds.)
func (k *Keeper) take(ctx context.Context, one *lease) (ok bool, back []store.Revocation) {
	ctx, cancel := context.WithTimeout(ctx, k.timeout)
	defer cancel()
	for _, part := range one.parts() {
		taken, err := k.store.Hold(ctx, part.take)
		if err == nil && taken.Outcome.Refuses() {
			return false, back
		}
		back = append(back, store.Revocation{Take: part.take})
		if err != nil {
			return false, back
		}
		// Repeated is granted too: the id is nobody else's, so it was the first try of this very call
		// that took it, and its answer was lost or late. It tells what that one holds.
		part.held, part.left = taken.Held, taken.Held
	}
	return true, nil
}

// Waiting is how many calls were admitted without Redis and are not written down there yet.
func (k *Keeper) Waiting() int64 { return int64(k.journal.size()) }

// giveBack settles a lease: tokens that calls were admitted for were moved to their own
// holds, requests count as used.
func (k *Keeper) giveBack(ctx context.Context, one *lease) {
	k.recordAll(ctx) // first, or others could take what it covers
	var back []store.Revocation
	for _, part := range one.parts() {
		r := store.Revocation{Take: part.take}
		if part == one.requests {
			r.Charged = part.held - part.left
		}
		back = append(back, r)
	}
	k.revoke(ctx, back)
}

// giveBackOwed tries again to give back what could not be given back.
func (k *Keeper) giveBackOwed(ctx context.Context) {
	owed := k.takeOwed()
	if len(owed) == 0 {
		return
	}
	for some := range slices.Chunk(owed, atOnce) {
		k.revoke(ctx, some)
	}
	if k.owes() == 0 {
		k.said.Over(ctx, notGivenBack, "holds are given back")
	}
}

func (k *Keeper) takeOwed() []store.Revocation {
	k.owing.Lock()
	defer k.owing.Unlock()
	owed := k.owed
	k.owed = nil
	return owed
}

func (k *Keeper) owes() int {
	k.owing.Lock()
	defer k.owing.Unlock()
	return len(k.owed)
}

// Owe has holds given back as soon as Redis answers, also those that it takes only then. Of more than
// mostOwed some last until they expire.
func (k *Keeper) Owe(ctx context.Context, holds ...store.Revocation) {
	k.owing.Lock()
	room := min(len(holds), mostOwed-len(k.owed))
	k.owed = append(k.owed, holds[:room]...)
	k.owing.Unlock()
	if room < len(holds) {
		k.said.Warn(ctx, tooManyOwed, errOwed)
	}
}

// revoke gives holds back, or remembers them for the next try: without that they would stand, held by
// nobody, until they expire.
func (k *Keeper) revoke(ctx context.Context, holds []store.Revocation) {
	ctx, cancel := context.WithTimeout(ctx, k.timeout)
	defer cancel()
	err := k.store.Revoke(ctx, holds)
	if err == nil {
		return
	}
	k.Owe(ctx, holds...)
	k.said.Warn(ctx, notGivenBack, err)
}
