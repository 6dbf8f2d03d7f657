package ratelimit

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// evictions is what Redis took for want of memory. Among it may be records of holds, whose pools and
// limits hold their tokens for ever then: all are counted anew (store.Recount).
type evictions struct {
	mu      sync.Mutex
	keys    int64 // as last seen; fewer: the server started anew
	recount bool  // what is held is to be counted
}

// saw hears how many keys were evicted so far, and reports whether there are more.
func (e *evictions) saw(keys int64) (more bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	more = keys > e.keys
	e.keys = keys
	e.recount = e.recount || more
	return more
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

// recountEvery is the pause between two counts of what is held, where pools were busy or keys go on
// being evicted.
const recountEvery = 5 * time.Second

// keepCounts counts what is held at the begin and whenever records of holds may be lost, until ctx ends.
func (s *Service) keepCounts(ctx context.Context) {
	tick := time.NewTicker(recountEvery)
	defer tick.Stop()
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
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
