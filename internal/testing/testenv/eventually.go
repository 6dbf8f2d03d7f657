package testenv

import (
	"testing"
	"time"
)

// patience is longer than anything takes on a slow machine; it expects nothing.
const patience = time.Minute

// Eventually waits until ok says true, and fails the test if that does not come. Call it on
// the test's own goroutine.
func Eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	Within(tb, patience, what, ok)
}

// Within is Eventually for what must happen in a time.
func Within(tb testing.TB, limit time.Duration, what string, ok func() bool) {
	tb.Helper()
	deadline, tick := time.NewTimer(limit), time.NewTicker(5*time.Millisecond)
	defer deadline.Stop()
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			tb.Fatalf("not within %v: %s", limit, what)
		case <-tick.C:
		}
	}
}
