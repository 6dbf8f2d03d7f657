package meter

import (
	"path/filepath"
	"testing"

	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// away says whose server of the cluster does not answer, and whose does again.
func (l *limiter) away(is bool, ids ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range ids {
		if is {
			l.answers[id] = limitpb.Settled_AWAY
		} else {
			delete(l.answers, id)
		}
	}
}

// TestAServerThatIsAwayHoldsUpItsAccountsAlone: the meter settles and publishes what follows; its
// checkpoint and its word on how far it is stay, so that a restart loses nothing and charges nothing twice.
func TestAServerThatIsAwayHoldsUpItsAccountsAlone(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	small := func(c *Config) { c.BatchLines = 5 }
	ids := r.add(20)
	waits := ids[7]
	r.limiter.away(true, waits)
	_, stop := r.start(small)
	r.events(19)
	r.add(100)
	r.events(119)
	behind := func() {
		t.Helper()
		said := r.limiter.heard()
		testenv.Eventually(t, "its word", func() bool { return r.limiter.heard() >= said+3 })
		if r.limiter.late() >= 0 {
			t.Error("want nothing told of what was written before the call that waits")
		}
		at, err := loadCheckpoint(filepath.Join(filepath.Dir(r.spool), "meter.checkpoint"))
		if seventh := int64(8 * len(spoolLine(waits, 10))); err != nil || at.Offset > seventh {
			t.Errorf("want the checkpoint before the call that waits, at most at %d, got %+v, %v", seventh, at, err)
		}
	}
	behind()
	stop()
	r.start(small)
	testenv.Eventually(t, "the calls after the one that waits are read again", func() bool { return r.limiter.count(limitpb.Settled_DUPLICATE) >= 112 })
	behind()
	r.limiter.away(false, waits)
	if e := r.events(120)[waits]; e.Charged != 29 {
		t.Errorf("want the call that waited charged what it used, 29, got %+v", e)
	}
	testenv.Eventually(t, "the checkpoint", r.caughtUp)
	testenv.Eventually(t, "all is told", func() bool { return r.limiter.late() >= 0 })
	if n := r.limiter.count(limitpb.Settled_SETTLED); n != 120 {
		t.Errorf("want each call settled once, got %d", n)
	}
}

// TestMoreAwayThanIsKept: the rest is read again when the server is back.
func TestMoreAwayThanIsKept(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ids := r.add(60)
	r.limiter.away(true, ids[10:30]...)
	r.start(func(c *Config) { c.BatchLines, c.MaxAway = 5, 3 })
	r.events(40)
	if r.caughtUp() {
		t.Error("the checkpoint passed what is not settled")
	}
	r.limiter.away(false, ids[10:30]...)
	r.events(60)
	testenv.Eventually(t, "the checkpoint", r.caughtUp)
	if n := r.limiter.count(limitpb.Settled_SETTLED); n != 60 {
		t.Errorf("want each call settled once, got %d", n)
	}
}

// TestAwayWhileNATSIsDown: events that are not kept while NATS is down long are made again, also that of a
// call whose server comes back meanwhile.
func TestAwayWhileNATSIsDown(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ids := r.add(20)
	r.limiter.away(true, ids[3], ids[5])
	r.start(func(c *Config) { c.MaxWaiting, c.BatchLines = 100, 50 })
	r.events(18)
	r.nats.Stop()
	for i := range 5 {
		r.add(60)
		testenv.Eventually(t, "settlements without NATS", func() bool { return r.limiter.count(limitpb.Settled_SETTLED) >= 18+60*(i+1) })
		r.limiter.away(false, ids[3])
	}
	r.nats.Start()
	r.limiter.away(false, ids[5])
	r.events(320)
	testenv.Eventually(t, "the checkpoint", r.caughtUp)
}
