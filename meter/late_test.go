package meter

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// TestWhatIsSaidAfterTheSweeper: a settlement after the sweep is a correction with the time of the
// sweeper's event, and so is a count of a call whose hold may be forgotten since.
func TestWhatIsSaidAfterTheSweeper(t *testing.T) {
	t.Parallel()
	m, err := New(Config{Spool: "unused", Limiter: &listener{}, Publisher: &stuck{}, HoldLife: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().UTC().Truncate(time.Microsecond)
	taken := now.Add(-time.Hour)
	for name, tc := range map[string]struct {
		source    usage.Source
		began     time.Time
		books     *limitpb.Settled
		published bool
		version   int64
		charged   int64
		at        time.Time
	}{
		"corrected": {usage.FromProvider, now, &limitpb.Settled{Status: limitpb.Settled_LATE, Held: 10_080, Charged: 690, TakenUs: taken.UnixMicro()},
			true, 1, 690, taken},
		"corrected before, by another estimate": {usage.FromEstimate, now, &limitpb.Settled{Status: limitpb.Settled_LATE, Charged: 680, TakenUs: taken.UnixMicro()},
			true, 1, 680, taken},
		"the sweeper's charge is forgotten": {usage.FromProvider, now, &limitpb.Settled{Status: limitpb.Settled_LATE, Charged: 10_080}, false, 0, 690, now},
		"settled in time":                   {usage.FromProvider, now, &limitpb.Settled{Status: limitpb.Settled_SETTLED, Charged: 690}, true, 0, 690, now},
		"no hold, just now":                 {usage.FromProvider, now, &limitpb.Settled{Status: limitpb.Settled_UNKNOWN}, true, 0, 690, now},
		"no hold, long ago":                 {usage.FromProvider, taken, &limitpb.Settled{Status: limitpb.Settled_UNKNOWN}, true, 1, 690, taken},
		"no hold, long ago, an estimate":    {usage.FromEstimate, taken, &limitpb.Settled{Status: limitpb.Settled_UNKNOWN}, true, 0, 690, taken},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := verdict{settle: true, publish: true, event: usage.Event{RequestID: "r", Source: tc.source, Input: 600, Output: 90, Charged: 690,
				Timestamp: tc.began}}
			published := m.outcome(&v, tc.books)
			if e := v.event; published != tc.published || e.Version != tc.version || e.Charged != tc.charged || e.Input+e.Output != tc.charged ||
				!e.Timestamp.Equal(tc.at) {
				t.Errorf("want published %t, version %d and %d at %s, got %t and %+v", tc.published, tc.version, tc.charged, tc.at, published, e)
			}
		})
	}
}

// TestAMeterIsBehindUntilItsEventsAreStored: what is settled and not published is not done. The books
// do not know it, and where Redis loses what it knew nobody else does.
func TestAMeterIsBehindUntilItsEventsAreStored(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.add(20)
	publisher := &gated{Publisher: r.publisher()}
	r.start(func(c *Config) { c.Publisher = publisher })
	testenv.Eventually(t, "all settled", func() bool { return r.limiter.count(limitpb.Settled_SETTLED) == 20 })
	before := r.limiter.heard()
	testenv.Eventually(t, "the meter tells how it is", func() bool { return r.limiter.heard() > before+3 })
	if got := r.limiter.late(); got >= 0 {
		t.Errorf("want nothing done while no event is stored, got all of %dus ago", got)
	}
	publisher.open.Store(true)
	testenv.Eventually(t, "all is done", func() bool { return r.limiter.late() >= 0 })
}

// gated stores nothing until it is open.
type gated struct {
	Publisher
	open atomic.Bool
}

func (g *gated) Publish(ctx context.Context, messages []usage.Message) ([]usage.Unstored, error) {
	if !g.open.Load() {
		return unstored(messages, errors.New("no room"))
	}
	return g.Publisher.Publish(ctx, messages)
}

// TestProgressIsWhatWasWrittenBefore: a meter is behind until it has read what the spool had when it
// looked, over rotations and deletions.
func TestProgressIsWhatWasWrittenBefore(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "usage.jsonl")
	tail := newTail(path)
	defer tail.close()
	if end, err := tail.end(); err != nil || !tail.reached(end) {
		t.Errorf("no file: want nothing to read, got %+v, %v", end, err)
	}
	write(t, path, "one\ntwo\n")
	end, err := tail.end()
	if err != nil || tail.reached(end) {
		t.Errorf("before reading: want it not reached, got %+v, %v", end, err)
	}
	readAll := func(lines int) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); lines > 0 && time.Now().Before(deadline); {
			b, err := tail.next(1)
			if err != nil {
				t.Fatal(err)
			}
			lines -= len(b.lines)
		}
	}
	readAll(1)
	if tail.reached(end) {
		t.Error("half of it: want it not reached")
	}
	readAll(1)
	write(t, path, "three\n")
	if !tail.reached(end) {
		t.Error("all that was there then: want it reached")
	}
	if end, err = tail.end(); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	write(t, path, "four\n")
	if tail.reached(end) {
		t.Error("rotated and not read: want it not reached")
	}
	readAll(2)
	if !tail.reached(end) {
		t.Error("in the next file: want it reached")
	}
	if err := os.Remove(path + ".1"); err != nil {
		t.Fatal(err)
	}
	tail.finished = nil
	if !tail.reached(end) {
		t.Error("deleted when it was done: want it reached")
	}
}
