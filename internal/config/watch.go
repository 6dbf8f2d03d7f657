package config

import (
	"context"
	"crypto/sha256"
	"maps"
	"time"
)

// watchEvery is how often a file is looked at when nothing else is said.
const watchEvery = time.Second

// confirmations is how much sooner than usual the look comes that confirms a change.
const confirmations = 4

// Watcher notices that files changed. It looks instead of asking the kernel, which tells
// nothing about a file that is replaced, mounted or on another machine.
type Watcher struct {
	Files  func() []string // asked before each look; empty names are left out
	Every  time.Duration   // default 1s
	Reload <-chan struct{} // counts as a change; may be nil
	Known  bool            // what the files hold at the begin is known; else it may be newer than what was read before
}

// Run calls changed once at its begin, unless that is Known, and after each change until ctx
// ends. A file that goes away has changed, and again when it is back. A change counts once two
// looks in a row see the same: in between a file may be half-written.
func (w Watcher) Run(ctx context.Context, changed func()) {
	setDefault(&w.Every, watchEvery)
	tick := time.NewTicker(w.Every)
	defer tick.Stop()
	seen := w.look() // before it is read: what changes meanwhile is seen by the next look
	before := seen
	if !w.Known {
		changed()
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.Reload:
			seen = w.look()
			changed()
		case <-tick.C:
			now := w.look()
			stands := maps.Equal(before, now)
			if before = now; maps.Equal(seen, now) {
				tick.Reset(w.Every)
				continue
			}
			if !stands {
				tick.Reset(w.Every / confirmations)
				continue
			}
			seen = now
			changed()
			tick.Reset(w.Every)
		}
	}
}

// look gives what stands for each file's content: its hash, or why it cannot be read. A time
// stamp would not do: two writes within one tick of the file system's clock have the same.
func (w Watcher) look() map[string]string {
	found := map[string]string{}
	for _, path := range w.Files() {
		if path == "" {
			continue
		}
		text, err := ReadFile(path)
		if err != nil {
			found[path] = err.Error()
			continue
		}
		sum := sha256.Sum256(text)
		found[path] = string(sum[:])
	}
	return found
}
