package ratelimit

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/retry"
)

// evictions is what Redis took for want of memory. Among it may be records of holds, whose pools and
// limits hold their tokens for ever then: all are counted anew (store.Recount).
type evictions struct {
	mu      sync.Mutex
	looked  bool
	keys    int64     // as last seen; fewer: the server started anew
	recount bool      // what is held is to be counted
	last    time.Time // when more were seen; zero: never
}

// saw hears how many keys were evicted so far and whether more may be, and reports whether there are more. The
// first look cannot tell when those were that it finds: they count as late ones where more may follow.
func (e *evictions) saw(keys int64, may bool) (more bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	more = keys > 0 && keys != e.keys
	if more && (e.looked || may) {
		e.last = time.Now()
	}
	e.keys, e.looked = keys, true
	e.recount = e.recount || more
	return more
}

// within reports whether keys were taken no longer ago than that.
func (e *evictions) within(life time.Duration) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return !e.last.IsZero() && time.Since(e.last) <= life
}

// want asks for a count.
func (e *evictions) want() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.recount = true
}

// due reports whether one is asked for, and notes that it is made.
func (e *evictions) due() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	due := e.recount
	e.recount = false
	return due
}

// recountPauses are those between counts of what is held while they are asked for again and again: pools are
// busy under load, and a server that is too small goes on evicting. Each walks over all keys several times.
func recountPauses() retry.Policy { return retry.Policy{First: 5 * time.Second, Most: 5 * time.Minute} }

// keepCounts counts what is held at the begin and whenever records of holds may be lost, until ctx ends.
func (s *Service) keepCounts(ctx context.Context) {
	pauses := recountPauses().Pauses()
	s.evictions.want() // a server that started anew does not tell what was evicted before
	for {
		if s.evictions.due() {
			freed, busy, err := s.store.Recount(ctx)
			if freed > 0 {
				s.log.LogAttrs(ctx, slog.LevelWarn, "redis lost records of holds: what they held is free again",
					slog.Int("pools_and_limits", freed), slog.Int("busy", busy))
			}
			if err != nil || busy > 0 {
				s.evictions.want()
			}
		} else {
			pauses.Reset()
		}
		if !retry.Pause(ctx, pauses.NextBackOff()) {
			return
		}
	}
}
