package meter

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// ErrShared says that another meter reads the spool: each would delete and move files that the other has
// not read.
var ErrShared = errors.New("another meter reads this spool; each Envoy has a spool and a meter of its own (envoy.spool)")

// lockSpool makes the spool this process's until it is unlocked or the process ends.
func lockSpool(spool string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(filepath.Dir(spool), "meter.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if errors.Is(err, syscall.ENOSPC) { // a full disk must not keep the meter from reading
		return func() {}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("lock spool: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = ErrShared
		}
		return nil, fmt.Errorf("lock spool %s: %w", spool, err)
	}
	return func() { f.Close() }, nil
}
