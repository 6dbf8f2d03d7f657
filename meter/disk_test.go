package meter

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/spoolfolder"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// TestEnvoysFailedWritesAreAnOutage, until a later write succeeds.
func TestEnvoysFailedWritesAreAnOutage(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		looks   []writeCounts
		failing bool
	}{
		"at the first look nobody knows when": {[]writeCounts{{failed: 3}}, false},
		"none":                                {[]writeCounts{{completed: 1}, {completed: 9}}, false},
		"one":                                 {[]writeCounts{{}, {failed: 1}}, true},
		"nothing is written since":            {[]writeCounts{{}, {failed: 1}, {failed: 1}}, true},
		"a later one succeeds":                {[]writeCounts{{}, {failed: 1}, {failed: 1, completed: 1}}, false},
		"some fail and some do not":           {[]writeCounts{{}, {failed: 1}, {failed: 2, completed: 1}}, true},
		"a new file cannot be opened":         {[]writeCounts{{}, {unopened: 1}}, true},
		"a new envoy":                         {[]writeCounts{{completed: 9, failed: 9}, {completed: 1}}, false},
		"a new envoy that fails":              {[]writeCounts{{completed: 9}, {failed: 1}}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var d disk
			for _, look := range tc.looks {
				d.compare(look)
			}
			if d.failing != tc.failing {
				t.Errorf("want failing %t, got %t", tc.failing, d.failing)
			}
		})
	}
}

func TestParseCounts(t *testing.T) {
	t.Parallel()
	got := parseCounts("filesystem.flushed_by_timer: 7\nfilesystem.reopen_failed: 1\nfilesystem.write_completed: 20\nfilesystem.write_failed: 3\nfilesystem.write_total_buffered: 0\nodd\n")
	if want := (writeCounts{failed: 3, completed: 20, unopened: 1}); got != want {
		t.Errorf("want %+v, got %+v", want, got)
	}
}

// TestSizesFitSmallDisks: what is kept free is a part of a small disk, and has a bound on a large one.
func TestSizesFitSmallDisks(t *testing.T) {
	t.Parallel()
	for total, want := range map[int64][2]int64{1 << 20: {64 << 10, 64 << 10}, 8 << 20: {8 << 20 / 20, 512 << 10}, 1 << 40: {64 << 20, 4 << 20}} {
		if reserve, ballast := sizes(total); reserve != want[0] || ballast != want[1] {
			t.Errorf("%d bytes: want %v, got %d and %d", total, want, reserve, ballast)
		}
	}
}

// TestTheBallastGivesRoomWhenTheDiskIsFull: the room of a small disk is told by a function, so that
// the test needs no mount.
func TestTheBallastGivesRoomWhenTheDiskIsFull(t *testing.T) {
	t.Parallel()
	const total = 8 << 20
	dir := t.TempDir()
	used := int64(0)
	d := &disk{spool: filepath.Join(dir, "usage.jsonl"), room: func(string) (int64, int64, error) {
		free := total - used
		if info, err := os.Stat(filepath.Join(dir, "meter.ballast")); err == nil {
			free -= info.Size()
		}
		return free, total, nil
	}}
	reserve, ballast := sizes(total)
	there := func() bool {
		info, err := os.Stat(d.ballast())
		return err == nil && info.Size() == ballast
	}
	if label, _ := d.look(); label != "" || !there() {
		t.Fatalf("room enough: want a ballast, got %q, %t", label, there())
	}
	used = total - ballast - reserve + 1
	if label, problem := d.look(); label != unwritableFull || problem == "" || there() {
		t.Fatalf("nearly full: want the ballast dropped and it told, got %q, %q, %t", label, problem, there())
	}
	used -= ballast / 2
	if label, _ := d.look(); label != unwritableFull || there() {
		t.Errorf("a little room: want it full still, got %q, %t", label, there())
	}
	used = total / 2
	if label, _ := d.look(); label != "" || !there() {
		t.Errorf("room again: want a ballast again, got %q, %t", label, there())
	}
}

// TestTheMeterSaysThatTheSpoolCannotBeWritten asks an Envoy whose writes begin to fail: readiness and
// the limiter hear of it, and that it is over.
func TestTheMeterSaysThatTheSpoolCannotBeWritten(t *testing.T) {
	t.Parallel()
	var failed, completed atomic.Int64
	admin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "filesystem.write_completed: %d\nfilesystem.write_failed: %d\n", completed.Load(), failed.Load())
	}))
	t.Cleanup(admin.Close)
	r := newRig(t)
	m, _ := r.start(func(c *Config) { c.StatsURL = admin.URL })
	testenv.Eventually(t, "the meter has looked", func() bool { return m.disk.looked.Load() })
	failed.Add(1)
	testenv.Eventually(t, "not ready", func() bool { return m.Ready(context.Background()) != nil })
	testenv.Eventually(t, "the limiter hears why", func() bool { return r.limiter.told() != "" })
	completed.Add(1)
	testenv.Eventually(t, "ready", func() bool { return m.Ready(context.Background()) == nil })
	testenv.Eventually(t, "the limiter hears that it is over", func() bool { return r.limiter.told() == "" })
}

// TestACheckpointThatCannotBeSavedStopsNothing: something is in its way for a while, in place of a
// disk without room.
func TestACheckpointThatCannotBeSavedStopsNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	checkpoint := filepath.Join(filepath.Dir(r.spool), "meter.checkpoint")
	r.add(1)
	r.start(nil)
	testenv.Eventually(t, "the checkpoint", r.caughtUp)
	if err := errors.Join(os.Remove(checkpoint), os.MkdirAll(filepath.Join(checkpoint, "in the way"), 0o700)); err != nil {
		t.Fatal(err)
	}
	r.add(3)
	r.events(4)
	if err := os.RemoveAll(checkpoint); err != nil {
		t.Fatal(err)
	}
	r.add(1)
	r.events(5)
	testenv.Eventually(t, "the checkpoint", r.caughtUp)
}

// TestRotationGoesOnAfterADeath: a meter died after it had moved the file away and before Envoy had
// opened a new one.
func TestRotationGoesOnAfterADeath(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var asked sync.Once
	reopened := make(chan struct{})
	admin := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Do(func() { close(reopened) }) }))
	t.Cleanup(admin.Close)
	r.add(5)
	if err := os.Rename(r.spool, r.spool+".1"); err != nil {
		t.Fatal(err)
	}
	r.start(func(c *Config) { c.ReopenURL = admin.URL })
	testenv.Eventually(t, "Envoy is asked for a new file", func() bool {
		select {
		case <-reopened:
			return true
		default:
			return false
		}
	})
	r.events(5)
}

// TestASpoolHasOneMeter, and the next once that has ended.
func TestASpoolHasOneMeter(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.add(1)
	_, stop := r.start(nil)
	r.events(1)
	for name, state := range map[string]string{"of the same stack": "", "of another": t.TempDir()} {
		second, err := New(Config{Spool: r.spool, StateDir: state, Limiter: r.client, Publisher: &stuck{}})
		if err != nil {
			t.Fatal(err)
		}
		if _, shared := errors.AsType[*spoolfolder.SharedError](second.Run(t.Context())); !shared {
			t.Errorf("a second meter %s runs", name)
		}
	}
	stop()
	r.add(1)
	r.start(nil)
	r.events(2)
}
