package outbox

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/retry"
)

// TestNoWakeUpIsLost forces the interleaving in which two workers once slept beside an event:
// the first is in the middle of a round that began before the commit, the second takes every
// wake-up of it and finds the slot claimed, and then the first ends with nothing done.
func TestNoWakeUpIsLost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		r := &Relay{cfg: Config{PollEvery: time.Hour, Workers: 2, Log: slog.New(slog.DiscardHandler)}, bell: newBell(),
			said: retry.NewTroubles(slog.New(slog.DiscardHandler))}
		inside, end := make(chan struct{}), make(chan struct{})
		var rounds, published atomic.Int32
		committed := false // written while nobody runs
		go func() {
			_ = r.work(ctx, func(context.Context) (int, error) {
				if rounds.Add(1) == 1 { // it has looked, and holds its claim
					close(inside)
					<-end
					return 0, nil
				}
				if committed {
					published.Add(1)
				}
				return 0, nil
			})
		}()
		<-inside
		go func() { _ = r.work(ctx, func(context.Context) (int, error) { return 0, nil }) }() // what there is is claimed
		synctest.Wait()
		committed = true
		r.bell.ring()
		synctest.Wait() // the second worker has seen every wake-up, and sleeps
		close(end)
		synctest.Wait() // and so does the first: the fake clock has not moved
		if published.Load() == 0 {
			t.Error("want the event published by the wake-up of its commit, but both workers sleep until the next poll")
		}
		stop()
		synctest.Wait()
	})
}

// A commit during an outage costs no round of its own: the relay looks again by itself, each
// time later.
func TestOutageIsNotHammered(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		r := &Relay{cfg: Config{PollEvery: 2 * time.Second, Workers: 1, Log: slog.New(slog.DiscardHandler)}, bell: newBell(),
			said: retry.NewTroubles(slog.New(slog.DiscardHandler))}
		var rounds atomic.Int32
		go func() {
			_ = r.work(ctx, func(context.Context) (int, error) { rounds.Add(1); return 0, errors.New("nobody there") })
		}()
		for range 1000 {
			time.Sleep(10 * time.Millisecond) // of the fake clock
			r.bell.ring()
		}
		if n := rounds.Load(); n > 12 {
			t.Errorf("want at most 12 tries in 10 s of an outage, got %d", n)
		}
		stop()
		synctest.Wait()
	})
}
