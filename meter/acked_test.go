package meter

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// TestTheCheckpointTrails: what NATS acknowledged just now is not done, neither is a file that was moved
// away deleted, nor does a meter that starts go on behind it.
func TestTheCheckpointTrails(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	moved := r.spool + ".1"
	never := func(c *Config) { c.Trail = time.Hour }
	r.add(20)
	_, stop := r.start(never)
	r.events(20)
	if err := os.Rename(r.spool, moved); err != nil {
		t.Fatal(err)
	}
	r.add(5)
	r.events(25)
	before := r.limiter.heard()
	testenv.Eventually(t, "the meter has looked after its files", func() bool { return r.limiter.heard() > before+1 })
	stop()
	if _, err := os.Stat(filepath.Join(filepath.Dir(r.spool), "meter.checkpoint")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("want no checkpoint yet, got %v", err)
	}
	if _, err := os.Stat(moved); err != nil {
		t.Errorf("what a start would read again is gone: %v", err)
	}
	r.start(nil)
	testenv.Eventually(t, "the checkpoint", r.caughtUp)
	testenv.Eventually(t, "the finished file goes", func() bool {
		_, err := os.Stat(moved)
		return errors.Is(err, fs.ErrNotExist)
	})
	r.events(25)
}

// TestTheCheckpointIsSavedNowAndThen: not with each batch.
func TestTheCheckpointIsSavedNowAndThen(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	_, stop := r.start(func(c *Config) { c.SaveEvery = time.Hour })
	for i := range 3 {
		r.add(5)
		r.events(5 * (i + 1))
	}
	stop()
	if _, err := os.Stat(filepath.Join(filepath.Dir(r.spool), "meter.checkpoint")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("want no checkpoint before it is time, got %v", err)
	}
}

// TestNATSForgetsWhatItAcknowledged: a power cut takes back the end of the stream. The server is set
// back to what it had before, which is what is left of one that had synced no more.
func TestNATSForgetsWhatItAcknowledged(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		trail time.Duration
		meter bool // dies, too
	}{
		"within the trail":                      {time.Hour, false},
		"within the trail, as the meter died":   {time.Hour, true},
		"behind the checkpoint":                 {5 * time.Millisecond, false},
		"behind the checkpoint, the meter died": {5 * time.Millisecond, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			trail := func(c *Config) { c.Trail = tc.trail }
			_, stop := r.start(trail)
			r.add(20)
			r.events(20)
			restore := r.nats.Snapshot()
			r.add(30)
			r.events(50)
			if tc.trail < time.Second {
				testenv.Eventually(t, "the checkpoint", r.caughtUp)
			}
			if tc.meter {
				stop()
			}
			restore()
			if tc.meter {
				r.events(20)
				r.start(trail)
			}
			r.add(1)
			r.events(51)
		})
	}
}
