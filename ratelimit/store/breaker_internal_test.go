package store

import (
	"testing"
	"time"
	"unsafe"
)

// setBack is what time.Now gives after the host's clock was set back: another wall clock, and the same
// monotonic one. No function makes such a time, so this writes where package time keeps the seconds of
// the wall clock beside a monotonic one.
func setBack(t time.Time, seconds uint64) time.Time {
	*(*uint64)(unsafe.Pointer(&t)) -= seconds << 30
	return t
}

// TestAClockThatIsSetBackDoesNotKeepTheBreakerOpen for as long as it was set back.
func TestAClockThatIsSetBackDoesNotKeepTheBreakerOpen(t *testing.T) {
	t.Parallel()
	b, now := newBreaker(), time.Now()
	b.now = func() time.Time { return now }
	for range breakerFailures {
		if err := b.enter(); err != nil {
			t.Fatalf("want calls let through, got %v", err)
		}
		b.leave(false)
	}
	before := now
	now = setBack(now, 3600)
	if back := before.Unix() - now.Unix(); back != 3600 || now.Sub(before) != 0 {
		t.Fatalf("want the wall clock an hour behind and the other as it was, got %d s and %s", back, now.Sub(before))
	}
	if b.enter() == nil {
		t.Error("want calls to fail at once while it is open")
	}
	now = now.Add(breakerMost)
	if err := b.enter(); err != nil {
		t.Fatalf("want one call to try, got %v", err)
	}
	if b.enter() == nil {
		t.Error("want one alone to try")
	}
	b.leave(true)
	if err := b.enter(); err != nil {
		t.Errorf("want it closed, got %v", err)
	}
}
