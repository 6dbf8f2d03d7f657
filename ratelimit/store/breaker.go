package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// breakerFailures in a row open the breaker.
	breakerFailures = 5
	// breakerLeast and breakerMost are how long it stays open before one call may try.
	breakerLeast = 100 * time.Millisecond
	breakerMost  = 400 * time.Millisecond
)

// errUnanswered is ErrUnavailable of what was sent, or may have been.
var errUnanswered = fmt.Errorf("%w", ErrUnavailable)

// Unanswered reports whether an error leaves open what the server did: the command may have been executed
// though nobody heard, or may be executed yet, as by a server that is frozen.
func Unanswered(err error) bool {
	return errors.Is(err, errUnanswered)
}

// breaker is a circuit breaker: it keeps callers from waiting for a Redis that does not
// answer. After some failures in a row calls fail at once, and now and then one is let
// through to see.
//
// sony/gobreaker was looked at and not taken, for two reasons: its pause is fixed, so that
// all replicas knock at a server that comes back in step, where this one is random each
// time; and it takes a lock twice for each call, where this one loads one number on the
// path of every request.
//
// It goes by the monotonic clock: while a host's clock is set right, Redis is tried as ever.
type breaker struct {
	now      func() time.Time
	made     time.Time
	failures atomic.Int32
	until    atomic.Int64 // nanoseconds since it was made; 0: closed, calls go through
}

func newBreaker() *breaker { return &breaker{now: time.Now, made: time.Now()} }

// moment is now, as until has it.
func (b *breaker) moment() int64 { return int64(b.now().Sub(b.made)) }

// enter is nil if the call may go on.
func (b *breaker) enter() error {
	until := b.until.Load()
	if until == 0 {
		return nil
	}
	now := b.moment()
	if now < until || !b.until.CompareAndSwap(until, now+int64(breakerLeast+breakerMost)) {
		return fmt.Errorf("%w: it failed %d times in a row and is tried again in a moment", ErrUnavailable, b.failures.Load())
	}
	return nil // the one that tries
}

// leave reports how the call went.
func (b *breaker) leave(well bool) {
	if well {
		if b.failures.Load() != 0 {
			b.failures.Store(0)
			b.until.Store(0)
		}
		return
	}
	if b.failures.Add(1) >= breakerFailures {
		b.until.Store(b.moment() + int64(breakerLeast+rand.N(breakerMost-breakerLeast)))
	}
}

// breakerFor is the breaker of the server that has a key: in a cluster one for each, so that who is on
// others is not refused for one that is away.
func (s *Store) breakerFor(ctx context.Context, key any) *breaker {
	cluster, ok := s.client.(*redis.ClusterClient)
	text, named := key.(string)
	if !ok || !named {
		return s.breaker
	}
	master, err := cluster.MasterForKey(ctx, text)
	if err != nil { // nobody has it now
		return s.breaker
	}
	at := master.Options().Addr
	if b, there := s.breakers.Load(at); there {
		return b.(*breaker) //nolint:forcetypeassert // nothing else is stored
	}
	b, _ := s.breakers.LoadOrStore(at, newBreaker())
	return b.(*breaker) //nolint:forcetypeassert // nothing else is stored
}

// Down reports whether calls fail at once because Redis did not answer lately.
func (s *Store) Down() bool { return s.breaker.until.Load() != 0 }
