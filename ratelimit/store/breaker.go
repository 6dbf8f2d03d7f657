package store

import (
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

const (
	// breakerFailures in a row close the gate.
	breakerFailures = 5
	// breakerLeast and breakerMost are how long it stays closed before one call may try.
	breakerLeast = 100 * time.Millisecond
	breakerMost  = 400 * time.Millisecond
)

// gate keeps callers from waiting for a Redis that does not answer: after some failures
// in a row calls fail at once, and now and then one is let through to see. The pause is
// random, so that replicas do not knock in step.
type breaker struct {
	now      func() time.Time
	failures atomic.Int32
	until    atomic.Int64 // nanoseconds; 0: open
}

// enter is nil if the call may go on.
func (g *breaker) enter() error {
	until := g.until.Load()
	if until == 0 {
		return nil
	}
	now := g.now().UnixNano()
	if now < until || !g.until.CompareAndSwap(until, now+int64(breakerLeast+breakerMost)) {
		return fmt.Errorf("%w: it failed %d times in a row and is tried again in a moment", ErrUnavailable, g.failures.Load())
	}
	return nil // the one that tries
}

// leave reports how the call went.
func (g *breaker) leave(well bool) {
	if well {
		if g.failures.Load() != 0 {
			g.failures.Store(0)
			g.until.Store(0)
		}
		return
	}
	if g.failures.Add(1) >= breakerFailures {
		g.until.Store(g.now().Add(breakerLeast + rand.N(breakerMost-breakerLeast)).UnixNano())
	}
}

// Closed reports whether calls fail at once.
func (g *breaker) closed() bool { return g.until.Load() != 0 }

// Down reports whether calls fail at once because Redis did not answer lately.
func (s *Store) Down() bool { return s.breaker.closed() }
