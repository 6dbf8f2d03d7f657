package demo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/local/demo/judge"
	"github.com/leaky-tokens/leaky-tokens/internal/retry"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
)

const (
	drainEvery = 250 * time.Millisecond
	finalTries = 20 // of reading the books at the end, drainEvery apart
)

// watcher reads the other books: while the load runs, for the live table and so that
// little is left to look up, and then to the end.
type watcher struct {
	book    *book
	stubs   []*stubBook
	limiter *limiterBook
	events  *eventBook

	pending []map[string]bool // by account: ids without a final charge; true: it must get one
	charges map[string]judge.Charge
	limits  map[judge.Pair]judge.Limit
	found   map[string]judge.Event
	strays  bool // clients leave before they know their call's id, so the stubs' records are waited for too
}

func newWatcher(b *book, stubs []*stubBook, limiter *limiterBook, events *eventBook) *watcher {
	w := &watcher{book: b, stubs: stubs, limiter: limiter, events: events, charges: map[string]judge.Charge{},
		limits: map[judge.Pair]judge.Limit{},
		found:  map[string]judge.Event{}}
	for range limiter.accounts {
		w.pending = append(w.pending, map[string]bool{})
	}
	return w
}

// tick reads what is new. A part that is down is no end: what it knows is read later.
func (w *watcher) tick(ctx context.Context) error {
	for _, c := range w.book.takeFresh() {
		w.pending[c.Account][c.ID] = c.Admitted() && c.Held > 0 // Envoy lets calls pass unasked where limits are open
	}
	var errs []error
	for _, s := range w.stubs {
		errs = append(errs, s.read(ctx))
	}
	for account := range w.pending {
		errs = append(errs, w.settle(ctx, account))
	}
	return errors.Join(append(errs, w.look(ctx))...)
}

// settle asks after the holds that are not final yet.
func (w *watcher) settle(ctx context.Context, account int) error {
	pending := w.pending[account]
	ids := make([]string, 0, len(pending))
	for id := range pending {
		ids = append(ids, id)
	}
	charges, err := w.limiter.charges(ctx, account, ids)
	if err != nil {
		return err
	}
	tokens := int64(0)
	for id, charge := range charges {
		w.charges[id] = charge
		switch {
		case charge.State == judge.Settled || charge.State == judge.Expired:
			tokens += charge.Charged
			delete(pending, id)
		case charge.State == judge.Unknown && !pending[id]:
			delete(pending, id) // failed before a hold was taken
		}
	}
	w.book.settle(account, tokens)
	return nil
}

// look reads every bucket.
func (w *watcher) look(ctx context.Context) error {
	for account := range w.pending {
		for _, s := range w.stubs {
			p := judge.Pair{Account: account, Provider: s.provider}
			limit, err := w.limiter.limit(ctx, p)
			if err != nil {
				return err
			}
			w.limits[p] = limit
		}
	}
	return nil
}

// drain waits until every hold is settled and every event is there, at most limit.
// It tells say what it waits for.
func (w *watcher) drain(ctx context.Context, calls []judge.Call, limit time.Duration, say func(string)) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for ctx.Err() == nil {
		err := w.tick(ctx)
		holds, records := w.unsettled(), w.unserved(calls)
		events := -1
		if err == nil && holds == 0 {
			if w.found, err = w.events.read(ctx); err == nil {
				events = w.unwritten(calls)
			}
		}
		switch {
		case err != nil:
			say("waiting for the books: " + err.Error())
		case holds > 0:
			say(fmt.Sprintf("waiting for %s to be settled", judge.Count(holds, "hold")))
		case records > 0:
			say(fmt.Sprintf("waiting for the stubs' word on %s", judge.Count(records, "call")))
		case events > 0:
			say(fmt.Sprintf("waiting for %s", judge.Count(events, "usage event")))
		case !w.strays || w.stray(ctx, calls):
			return
		}
		retry.Pause(ctx, drainEvery)
	}
}

// stray reports whether every call of ours is on the books whose client left before it knew its id.
func (w *watcher) stray(ctx context.Context, calls []judge.Call) bool {
	known := map[string]bool{}
	for i := range calls {
		known[calls[i].ID] = true
	}
	e := judge.Evidence{Accounts: w.limiter.accounts, Events: w.found, Charges: map[string]judge.Charge{}}
	return w.orphans(ctx, &e, known) == nil && len(e.Orphans) == 0
}

func (w *watcher) unsettled() int {
	n := 0
	for _, pending := range w.pending {
		n += len(pending)
	}
	return n
}

func (w *watcher) served(id string) judge.Served {
	var sum judge.Served
	for _, s := range w.stubs {
		one := s.served[id]
		sum = judge.Served{Input: sum.Input + one.Input, Output: sum.Output + one.Output, Times: sum.Times + one.Times}
	}
	return sum
}

func (w *watcher) unserved(calls []judge.Call) int {
	n := 0
	for i := range calls {
		if c := &calls[i]; c.Admitted() && c.ID != "" && w.served(c.ID).Times == 0 {
			n++
		}
	}
	return n
}

// unwritten counts the calls whose event must come and has not.
func (w *watcher) unwritten(calls []judge.Call) int {
	n := 0
	skipping := judge.Bounded(calls, w.found)
	for i := range calls {
		c := &calls[i]
		due := c.Outcome == judge.Refused && !skipping[c.Account] || c.Admitted() || w.charges[c.ID].State == judge.Settled
		if c.ID != "" && due && w.found[c.ID].Times == 0 {
			n++
		}
	}
	return n
}

// gather reads every book once more, whole, into the evidence. A charge that changed after
// it was settled is seen here.
func (w *watcher) gather(ctx context.Context, e *judge.Evidence) {
	e.Served, e.Charges = map[string]judge.Served{}, map[string]judge.Charge{}
	attempt := func(read func() error) {
		var err error
		for range finalTries {
			if err = read(); err == nil || ctx.Err() != nil {
				break
			}
			retry.Pause(ctx, drainEvery)
		}
		if err != nil {
			e.Unread = append(e.Unread, err.Error())
		}
	}
	for _, s := range w.stubs {
		attempt(func() error { return s.read(ctx) })
		for id := range s.served {
			e.Served[id] = w.served(id)
		}
	}
	attempt(func() (err error) { e.Events, err = w.events.read(ctx); return err })
	attempt(func() (err error) { e.Totals, err = w.events.totals(ctx); return err })
	attempt(func() error { return w.final(ctx, e) })
	attempt(func() error { return w.look(ctx) })
	e.Limits = w.limits
	attempt(func() error { return w.leases(ctx, e) })
}

// leases reads what is held for an outage, if a route lives on that. Leases come and go
// by themselves, so the buckets are read again with them.
func (w *watcher) leases(ctx context.Context, e *judge.Evidence) error {
	e.Leases = map[int]float64{}
	lends := slices.ContainsFunc(e.Targets, func(t judge.Target) bool {
		return t.Mode(false) == config.OutageLease ||
			t.Mode(true) == config.OutageLease
	})
	for account := range e.Accounts {
		if !lends {
			return nil
		}
		before, err := w.limiter.leased(ctx, account)
		if err != nil {
			return err
		}
		e.Leases[account] = before
	}
	return w.look(ctx)
}

// final looks at the holds of every id that is known, refusals and strangers' included.
func (w *watcher) final(ctx context.Context, e *judge.Evidence) error {
	ids := make([][]string, len(e.Accounts))
	known := map[string]bool{}
	for i := range e.Calls {
		if c := &e.Calls[i]; c.ID != "" && !known[c.ID] {
			known[c.ID] = true
			ids[c.Account] = append(ids[c.Account], c.ID)
		}
	}
	for i, a := range e.Accounts {
		for id, event := range e.Events {
			if event.User == a.User && !known[id] {
				ids[i] = append(ids[i], id)
			}
		}
		charges, err := w.limiter.charges(ctx, i, ids[i])
		if err != nil {
			return err
		}
		for id, charge := range charges {
			if before, ok := w.charges[id]; ok && charge.State == judge.Unknown {
				charge = before // settled long ago, and forgotten on purpose since
			}
			e.Charges[id] = charge
		}
	}
	return w.orphans(ctx, e, known)
}

// orphans asks the limiter whose the requests are that a stub served and that neither a
// client nor an event knows.
func (w *watcher) orphans(ctx context.Context, e *judge.Evidence, known map[string]bool) error {
	e.Orphans = nil
	for _, s := range w.stubs {
		var ids []string
		for id := range s.served {
			if !known[id] && e.Events[id].Times == 0 {
				ids = append(ids, id)
			}
		}
		for account := range e.Accounts {
			charges, err := w.limiter.charges(ctx, account, ids)
			if err != nil {
				return err
			}
			for id, charge := range charges {
				if charge.State != judge.Unknown {
					e.Charges[id] = charge
					e.Orphans = append(e.Orphans, judge.Call{ID: id, Account: account, Provider: s.provider, Answered: e.Elapsed})
				}
			}
		}
	}
	return nil
}
