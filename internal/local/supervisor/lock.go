package supervisor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

const (
	lockName   = "supervisor.lock"
	socketName = "supervisor.sock"
)

// gofrs/flock would take the lock, but cannot say who holds one, which `leaky ps` and `down` ask.
// Locks of an open file (fcntl(2), "open file description locks"): unlike POSIX locks they
// hold between two opens of one process and do not vanish when another open is closed.
const (
	ofdGetLock = 36 // F_OFD_GETLK
	ofdSetLock = 37 // F_OFD_SETLK
)

// lock makes sure that one supervisor runs per folder; the kernel drops it with the process.
type lock struct{ file *os.File }

func acquire(runDir string) (*lock, error) {
	f, err := os.OpenFile(filepath.Join(runDir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", runDir, err)
	}
	err = syscall.FcntlFlock(f.Fd(), ofdSetLock, &syscall.Flock_t{Type: syscall.F_WRLCK})
	switch {
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.EACCES):
		f.Close()
		return nil, fmt.Errorf("lock %s: another supervisor is running", runDir)
	case err == nil:
		err = errors.Join(f.Truncate(0), writePID(f))
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", runDir, err)
	}
	return &lock{file: f}, nil
}

func writePID(f *os.File) error {
	_, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}

func (l *lock) release() { l.file.Close() }

// Holder is the pid of the supervisor that runs on this folder, 0 when there is none.
func Holder(runDir string) (int, error) {
	f, err := os.OpenFile(filepath.Join(runDir, lockName), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read lock: %w", err)
	}
	defer f.Close()
	held := &syscall.Flock_t{Type: syscall.F_WRLCK}
	if err := syscall.FcntlFlock(f.Fd(), ofdGetLock, held); err != nil {
		return 0, fmt.Errorf("read lock: %w", err)
	}
	if held.Type == syscall.F_UNLCK {
		return 0, nil
	}
	text := make([]byte, 32)
	n, _ := f.ReadAt(text, 0) // io.EOF is usual; what counts is the number
	pid, err := strconv.Atoi(strings.TrimSpace(string(text[:n])))
	if err != nil || pid <= 0 {
		return 0, fmt.Errorf("read lock: %s is held by a process that is just starting", f.Name())
	}
	return pid, nil
}
