// Package filelock is beside the request path: a file that one process holds, and that says who.
//
// gofrs/flock would take the lock, but cannot say whether somebody holds one without taking it, and
// whoever takes it in that moment is refused.
package filelock

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// Locks of an open file (fcntl(2), "open file description locks"): unlike POSIX locks they
// hold between two opens of one process and do not vanish when another open is closed.
const (
	ofdGetLock = 36 // F_OFD_GETLK
	ofdSetLock = 37 // F_OFD_SETLK
)

// mostText bounds what a holder says, in bytes.
const mostText = 8 << 10

// ErrHeld says that somebody holds the file.
var ErrHeld = errors.New("another process holds it")

// Lock is a file that is held until Release, or until the process ends: the kernel drops it then.
type Lock struct{ file *os.File }

// Take makes the file, if need be, and holds it; ErrHeld: somebody else does.
func Take(path string) (*Lock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	err = syscall.FcntlFlock(f.Fd(), ofdSetLock, &syscall.Flock_t{Type: syscall.F_WRLCK})
	if err == nil {
		return &Lock{file: f}, nil
	}
	f.Close()
	if errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EACCES) {
		err = ErrHeld
	}
	return nil, fmt.Errorf("lock %s: %w", path, err)
}

// Say writes who holds it.
func (l *Lock) Say(text string) error {
	_, err := l.file.WriteAt([]byte(text), 0)
	if err == nil {
		err = l.file.Truncate(int64(len(text)))
	}
	if err != nil {
		_ = l.file.Truncate(0) // what stands there is not whole, or of the holder before
		return fmt.Errorf("say who holds it: %w", err)
	}
	return nil
}

// Release lets it go. The file stays: another may just be taking it.
func (l *Lock) Release() { l.file.Close() }

// Holder is what the holder of a file says, which may be nothing yet; held is false when there is none.
func Holder(path string) (text string, held bool, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", false, nil
	}
	if err != nil {
		return "", false, fmt.Errorf("read lock: %w", err)
	}
	defer f.Close()
	other := &syscall.Flock_t{Type: syscall.F_WRLCK}
	if err := syscall.FcntlFlock(f.Fd(), ofdGetLock, other); err != nil {
		return "", false, fmt.Errorf("read lock %s: %w", path, err)
	}
	if other.Type == syscall.F_UNLCK {
		return "", false, nil
	}
	said, err := io.ReadAll(io.LimitReader(f, mostText))
	if err != nil {
		return "", true, fmt.Errorf("read lock: %w", err)
	}
	return string(said), true, nil
}
