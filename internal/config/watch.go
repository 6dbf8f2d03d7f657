package config

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"time"
)

// watchEvery is how often a file is looked at when nothing else is said.
const watchEvery = time.Second

// Watch follows leaky.yaml at path until ctx ends and calls taken with each new content
// that is good. A bad one is left alone: the last good one stays, and xds says where the
// mistake is. An empty path is the built-in file, which never changes.
func Watch(ctx context.Context, path string, getenv func(string) string, taken func(*Config)) {
	w := Watcher{Files: func() []string { return []string{path} }}
	w.Run(ctx, func() {
		if c, err := Load(path, getenv); err == nil {
			taken(c)
		}
	})
}

// Watcher notices that files changed. It looks instead of asking the kernel, which tells
// nothing about a file that is replaced, mounted or on another machine.
type Watcher struct {
	Files  func() []string // asked before each look; empty names are left out
	Every  time.Duration   // default 1s
	Reload <-chan struct{} // counts as a change; may be nil
}

// Run calls changed after each change until ctx ends. A file that goes away has changed,
// and again when it is back.
func (w Watcher) Run(ctx context.Context, changed func()) {
	setDefault(&w.Every, watchEvery)
	tick := time.NewTicker(w.Every)
	defer tick.Stop()
	seen := w.stamps()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.Reload:
			seen = w.stamps() // before it is read: what changes meanwhile is seen by the next look
			changed()
		case <-tick.C:
			if now := w.stamps(); !same(seen, now) {
				seen = now
				changed()
			}
		}
	}
}

// stamps are the files that are there; nil stands for one that is being replaced. One
// that stays away is reported by who reads it.
func (w Watcher) stamps() map[string]fs.FileInfo {
	found := map[string]fs.FileInfo{}
	for _, path := range w.Files() {
		if path == "" {
			continue
		}
		info, err := os.Stat(path)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			found[path] = info
		}
	}
	return found
}

func same(a, b map[string]fs.FileInfo) bool {
	return maps.EqualFunc(a, b, func(x, y fs.FileInfo) bool {
		if x == nil || y == nil {
			return x == nil && y == nil
		}
		return os.SameFile(x, y) && x.Size() == y.Size() && x.ModTime().Equal(y.ModTime())
	})
}
