package testenv

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/local/binaries"
)

// Clock is the wall clock of a Valkey that a stack starts by itself: Env, in the environment of the
// commands of the stack, has it started through a wrapper, and Set moves its clock while it runs and
// after it is started again. The clock that it measures pauses by goes on as it should (libfaketime).
type Clock struct {
	folder string
}

// RedisClock makes one in a folder that other users can pass through. It needs Linux.
func RedisClock(tb testing.TB, folder string) *Clock {
	tb.Helper()
	store := must[*binaries.Store](tb, "redis")(ensure(binaries.Redis))
	server := must[string](tb, "redis")(store.RedisServer(tb.Context()))
	library := debianFile(tb, "faketime", "usr/lib/*/faketime/libfaketime.so.1", "libfaketime")
	c := &Clock{folder: filepath.Join(folder, "clock")}
	if err := os.Mkdir(c.folder, 0o755); err != nil {
		tb.Fatal(err)
	}
	if err := c.Set(0); err != nil {
		tb.Fatal(err)
	}
	text := fmt.Sprintf("#!/bin/sh\necho $$ >>'%s'\nexport LD_PRELOAD='%s' FAKETIME_TIMESTAMP_FILE='%s' FAKETIME_NO_CACHE=1 "+
		"FAKETIME_DONT_FAKE_MONOTONIC=1 NO_FAKE_STAT=1\nexec '%s' \"$@\"\n", c.started(), library, c.file(), server)
	if err := os.WriteFile(filepath.Join(c.folder, "valkey-server"), []byte(text), 0o755); err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(c.started(), nil, 0o666); err != nil {
		tb.Fatal(err)
	}
	if err := os.Chmod(c.started(), 0o666); err != nil { // Redis may be another user
		tb.Fatal(err)
	}
	tb.Cleanup(c.clear)
	return c
}

// started lists the servers that were started, by their process ids.
func (c *Clock) started() string { return filepath.Join(c.folder, "started") }

// clear removes the memory that the library shares by process id, and leaves behind where one is killed.
func (c *Clock) clear() {
	text, err := os.ReadFile(c.started())
	if err != nil {
		return
	}
	for _, pid := range strings.Fields(string(text)) {
		_ = os.Remove("/dev/shm/faketime_shm_" + pid) // there is none where the server ended by itself
		_ = os.Remove("/dev/shm/sem.faketime_sem_" + pid)
	}
}

func (c *Clock) file() string { return filepath.Join(c.folder, "ahead") }

// Env are the variables that have the stack take the wrapper.
func (c *Clock) Env() []string {
	return []string{"LEAKY_USE_SYSTEM_REDIS=1", "PATH=" + c.folder + string(os.PathListSeparator) + os.Getenv("PATH")}
}

// Set sets the clock ahead, or behind, by whole seconds.
func (c *Clock) Set(ahead time.Duration) error {
	next := c.file() + ".next" // it is read at any time
	if err := os.WriteFile(next, fmt.Appendf(nil, "%+d\n", int64(ahead.Seconds())), 0o644); err != nil {
		return err
	}
	return os.Rename(next, c.file())
}
