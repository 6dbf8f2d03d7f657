package extauthz

import (
	"sync/atomic"
	"time"
)

// standing is how far what is remembered may be trusted at a moment.
type standing int

const (
	// stale: revocations may have been missed. Nothing that is remembered counts.
	stale standing = iota
	// offline: identity is silent on a link that works, so nobody can revoke either. What
	// is remembered counts for the grace, and identity need not be asked.
	offline
	// fresh: every revocation until a moment ago is known.
	fresh
)

// freshness tells the standing without a lock: checks read it, the follower writes it.
type freshness struct {
	base    time.Time    // moments are nanoseconds since, on the monotonic clock
	fresh   atomic.Int64 // until then
	offline atomic.Int64 // until then
	heard   atomic.Int64 // when all was known last
}

func newFreshness() *freshness { return &freshness{base: time.Now()} }

func (f *freshness) at(now time.Time) standing {
	moment := int64(now.Sub(f.base))
	switch {
	case moment < f.fresh.Load():
		return fresh
	case moment < f.offline.Load():
		return offline
	}
	return stale
}

// set says until when the standing lasts.
func (f *freshness) set(heard, freshUntil, offlineUntil time.Time) {
	f.heard.Store(f.moment(heard))
	f.fresh.Store(f.moment(freshUntil))
	f.offline.Store(f.moment(offlineUntil))
}

func (f *freshness) moment(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return int64(t.Sub(f.base))
}

// staleness is the seconds since all was known; since the start if never.
func (f *freshness) staleness() float64 {
	return (time.Since(f.base) - time.Duration(f.heard.Load())).Seconds()
}
