package reconcile

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/ledgerbook"
	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/prices"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
)

// EventStore is ClickHouse's book: each row that stands of the calls that began in [from, to), a
// call that is there twice comes twice.
type EventStore interface {
	Booked(ctx context.Context, from, to time.Time) iter.Seq2[usage.Event, error]
}

// Ledger is the token service's book, as package ledgerbook reads it.
type Ledger interface {
	// Entries gives what pools paid for calls that began in [from, to).
	Entries(ctx context.Context, from, to time.Time) iter.Seq2[ledgerbook.Entry, error]
	// Pools gives those of the keys that there are.
	Pools(ctx context.Context, keys []ledgerbook.Key) ([]ledgerbook.Pool, error)
}

// Sources are where the books are. Those that are nil are not read, and the report says so.
type Sources struct {
	Stream  jetstream.JetStream
	Store   EventStore
	Ledger  Ledger
	Limiter limitpb.LimiterClient
	Stubs   map[string]Stub // by provider
	Prices  *prices.Table   // the list whose costs can be checked; nil: none
	Most    int             // calls of one run, which bounds its memory: one takes some 400 bytes in each book
}

const (
	// readAgain is the pause before books that differ are read again: settlements, events and
	// entries of one call come one after the other.
	readAgain = 2 * time.Second
	// holdGrace is how long after its end a sweeper may take to find a hold.
	holdGrace = 2 * time.Minute
)

// ErrTooMany says that the span holds more calls than one run takes.
var ErrTooMany = errors.New("too many calls in this time for one run; take a shorter one")

// Run reads the books of the calls that began in [from, to) and compares them, again and again for
// as long as wait while they differ. Both ends are cut to whole milliseconds, which is how exactly every
// book knows when a call began: else one would have a call of that millisecond, and another not.
func Run(ctx context.Context, s Sources, from, to time.Time, wait time.Duration) (Report, error) {
	from, to = from.Truncate(time.Millisecond), to.Truncate(time.Millisecond)
	end := time.Now().Add(wait)
	for {
		r, err := s.once(ctx, from, to)
		if err != nil || r.Clean || !time.Now().Add(readAgain).Before(end) {
			return r, err
		}
		select {
		case <-ctx.Done():
			return r, ctx.Err()
		case <-time.After(readAgain):
		}
	}
}

// once reads and compares. A book that cannot be read is told and left out; without the stream and
// ClickHouse there is nothing to compare.
func (s Sources) once(ctx context.Context, from, to time.Time) (Report, error) {
	b := Books{Grace: holdGrace}
	var unread []string
	read := func(book string, have bool, f func() error) error {
		err := errors.New("not configured")
		if have {
			err = f()
		}
		if errors.Is(err, ErrTooMany) || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		if err != nil {
			unread = append(unread, fmt.Sprintf("%s: %v", book, err))
		}
		return nil
	}
	steps := []struct {
		book string
		have bool
		f    func() error
	}{
		{"stubs", len(s.Stubs) > 0, func() (err error) { b.Served, err = s.served(ctx, from, to); return err }},
		{"redis holds", s.Limiter != nil, func() (err error) { b.Holds, err = s.standing(ctx); return err }},
		{"stream", s.Stream != nil, func() (err error) { b.Events, err = s.published(ctx, from, to); return err }},
		{"clickhouse", s.Store != nil, func() (err error) { b.Calls, err = s.booked(ctx, from, to); return err }},
		{"ledger", s.Ledger != nil, func() (err error) { b.Entries, err = s.entries(ctx, from, to); return err }},
		{"redis", s.Limiter != nil, func() (err error) { b.Settled, err = s.settled(ctx, b.Events, b.Calls); return err }},
		{"pools", s.Limiter != nil && s.Ledger != nil, func() (err error) {
			b.Pools, err = s.pools(ctx, b.Events, b.Calls, b.Entries)
			return err
		}},
	}
	for _, step := range steps {
		if err := read(step.book, step.have, step.f); err != nil {
			return Report{}, err
		}
	}
	if b.Events == nil && b.Calls == nil {
		return Report{}, fmt.Errorf("neither the stream nor ClickHouse can be read: %v", unread)
	}
	r := Compare(b)
	r.From, r.To, r.Unread = from, to, append(r.Unread, unread...)
	return r, nil
}

// booked reads ClickHouse.
func (s Sources) booked(ctx context.Context, from, to time.Time) (map[string]Call, error) {
	calls := map[string]Call{}
	for e, err := range s.Store.Booked(ctx, from, to) {
		if err != nil {
			return nil, err
		}
		c := s.callOf(&e)
		if before, twice := calls[e.RequestID]; twice {
			c.Rows = before.Rows
		}
		c.Rows++
		if calls[e.RequestID] = c; len(calls) > s.Most {
			return nil, ErrTooMany
		}
	}
	return calls, nil
}

// callOf is what an event says.
func (s Sources) callOf(e *usage.Event) Call {
	model := e.ModelServed
	if model == "" {
		model = e.ModelAsked
	}
	c := Call{Account: e.Account, Provider: e.Provider, Model: model, Tokens: e.Charged, Input: e.Input, Output: e.Output,
		CostMicros: e.CostMicros, PriceVersion: e.PriceVersion, Currency: e.Currency, WantMicros: e.CostMicros,
		Drawn: e.Pool == usage.PoolDrawn, Told: e.Source == usage.FromProvider, Allowed: e.Allowed, Retried: e.Attempts > 1,
		Version: e.Version, At: e.Timestamp}
	if s.Prices != nil && e.PriceVersion == s.Prices.Version {
		again := *e
		s.Prices.Freeze(&again)
		c.WantMicros = again.CostMicros
	}
	return c
}

// entries reads the ledger.
func (s Sources) entries(ctx context.Context, from, to time.Time) (map[string]Entry, error) {
	entries := map[string]Entry{}
	for e, err := range s.Ledger.Entries(ctx, from, to) {
		if err != nil {
			return nil, err
		}
		entries[e.RequestID] = Entry{Account: e.Account, Provider: e.Provider, Tokens: e.Tokens, CostMicros: e.CostMicros,
			PriceVersion: e.PriceVersion, Currency: e.Currency, Costed: e.Costed}
		if len(entries) > s.Most {
			return nil, ErrTooMany
		}
	}
	return entries, nil
}
