package testenv

import (
	"path/filepath"
	"runtime"
	"testing"
)

// A lock whose release nobody keeps stays: the sweep of another process must not take the
// folder of one that lives.
func TestLockOutlivesTheCollector(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "alive")
	if _, err := lockFile(path, false); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		runtime.GC()
	}
	if unlock, err := lockFile(path, false); err == nil {
		unlock()
		t.Fatal("a second lock was given: the first was lost with its file")
	}
}
