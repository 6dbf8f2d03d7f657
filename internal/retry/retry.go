// Package retry is beside the request path: what waits for a store, a stream or another
// service tries again by its rules. The pauses and the loop are those of
// github.com/cenkalti/backoff; here is what all callers have in common: pauses double, a
// loop ends with its context, and what goes wrong again and again is few lines in the log (Troubles).
package retry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// Policy says how long to pause after each failure in a row.
type Policy struct {
	First  time.Duration // after the first, above 0; doubled from one to the next
	Most   time.Duration // longest, at least First; default First: all are as long
	Spread bool          // each is drawn between its half and the whole, so that replicas do not come back in step
}

// Pauses gives the pauses one after the other, for a loop that waits for more than time.
// Reset begins again with the first. It is not safe for concurrent use.
func (p Policy) Pauses() backoff.BackOff {
	most := max(p.Most, p.First)
	b := &backoff.ExponentialBackOff{InitialInterval: p.First, MaxInterval: most, Multiplier: 2}
	if p.Spread { // the library draws around a middle: of 0.5 to 1 that is 0.75, give or take a third
		b.InitialInterval, b.MaxInterval, b.RandomizationFactor = p.First*3/4, most*3/4, 1.0/3
	}
	return b
}

// After is the pause after so many failures before this one, for who keeps that number
// elsewhere.
func (p Policy) After(failures int) time.Duration {
	pauses := p.Pauses()
	for range min(failures, 62) {
		pauses.NextBackOff()
	}
	return pauses.NextBackOff()
}

// Do calls f until it succeeds, returns a Permanent error, or ctx ends; then the error is
// the last one of f, joined with the end of ctx. failed hears of every failure before its
// pause, with how many came before it; it may be nil.
func (p Policy) Do(ctx context.Context, f func(context.Context) error, failed func(before int, err error)) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var last error
	before := 0
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		last = f(ctx)
		return struct{}{}, last
	}, backoff.WithBackOff(p.Pauses()), backoff.WithMaxElapsedTime(0), backoff.WithNotify(func(err error, _ time.Duration) {
		if failed != nil {
			failed(before, err)
		}
		before++
	}))
	if _, final := errors.AsType[*backoff.PermanentError](last); err == nil || final {
		return err
	}
	return fmt.Errorf("%w: %w", last, err)
}

// Forever is Do for what cannot fail for good: it returns when f has succeeded or ctx has
// ended. said hears of failures, with more, and of the success after them.
func (p Policy) Forever(ctx context.Context, said *Troubles, what string, f func(context.Context) error, more ...slog.Attr) {
	failed := what + " failed, trying again"
	err := p.Do(ctx, f, func(_ int, err error) {
		if ctx.Err() == nil {
			said.Warn(ctx, failed, err, more...)
		}
	})
	if err == nil { // else ctx has ended, which the caller sees
		said.Over(ctx, failed, what+" goes on")
	}
}

// Pause waits, and reports whether it waited to the end: false where ctx ended first.
func Pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Permanent marks an error that no waiting cures; Do returns it without the mark.
func Permanent(err error) error { return backoff.Permanent(err) }

// Away is for a store or a stream that all replicas wait for.
func Away() Policy { return Policy{First: 100 * time.Millisecond, Most: 3 * time.Second, Spread: true} }
