package testenv

import (
	"testing"
	"time"
)

// patience is longer than anything takes on a slow machine; it expects nothing.
const patience = time.Minute

// Pauses between two looks: the longer it has been waited, the longer, so that who waits takes no
// time from what is waited for.
const (
	leastPause = 5 * time.Millisecond
	mostPause  = 100 * time.Millisecond
	pauses     = 20 // of what has been waited so far
)

// Eventually waits until ok says true, and fails the test if that does not come. Call it on
// the test's own goroutine.
func Eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	Within(tb, patience, what, ok)
}

// Within is Eventually for what must happen in a time. It looks once more when the time is over: the
// machine may have stood still since the last look.
func Within(tb testing.TB, limit time.Duration, what string, ok func() bool) {
	tb.Helper()
	begun, over := time.Now(), false
	for !ok() {
		if over {
			tb.Fatalf("not within %v: %s", limit, what)
		}
		<-time.After(min(max(time.Since(begun)/pauses, leastPause), mostPause))
		over = time.Since(begun) >= limit
	}
}
