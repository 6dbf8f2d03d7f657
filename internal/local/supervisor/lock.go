package supervisor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/leaky-tokens/leaky-tokens/internal/filelock"
)

const (
	lockName   = "supervisor.lock"
	socketName = "supervisor.sock"
)

// acquire makes sure that one supervisor runs per folder; the kernel drops the lock with the process.
func acquire(runDir string) (*filelock.Lock, error) {
	lock, err := filelock.Take(filepath.Join(runDir, lockName))
	if errors.Is(err, filelock.ErrHeld) {
		return nil, fmt.Errorf("lock %s: another supervisor is running", runDir)
	}
	if err != nil {
		return nil, err
	}
	if err := lock.Say(strconv.Itoa(os.Getpid()) + "\n"); err != nil {
		lock.Release()
		return nil, err
	}
	return lock, nil
}

// Holder is the pid of the supervisor that runs on this folder, 0 when there is none.
func Holder(runDir string) (int, error) {
	path := filepath.Join(runDir, lockName)
	text, held, err := filelock.Holder(path)
	if err != nil || !held {
		return 0, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(text))
	if err != nil || pid <= 0 {
		return 0, fmt.Errorf("read lock: %s is held by a process that is just starting", path)
	}
	return pid, nil
}
