// Package testenv gives tests the real parts that requests pass through: Postgres, Redis
// (Valkey), NATS with JetStream, and the ClickHouse engine. No test needs a TestMain, a
// container or a running server.
//
// One server of each kind is started per test process, when the first test asks for it,
// and it dies with the process however that ends (the kernel's parent-death signal).
// Every test gets a database, key prefix or store of its own, so tests can run in
// parallel. Parts that are missing are fetched by internal/local/binaries; folders that a killed
// process left behind are removed by the next one.
package testenv

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/local/binaries"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/ports"
)

// startTimeout bounds the start of a server. It is generous: a machine that runs every
// package's tests at once is slow, and a start that fails is noticed by its exit.
const startTimeout = 60 * time.Second

// fetchTimeout bounds the fetching of a part on a machine that has none.
const fetchTimeout = 10 * time.Minute

// ensure makes sure the parts are there and gives the store that knows where.
func ensure(names ...string) (*binaries.Store, error) {
	ctx, cancel := context.WithTimeout(context.Background(), fetchTimeout)
	defer cancel()
	store, err := binaries.New(binaries.Config{CacheDir: config.CacheDir(os.Getenv), Progress: os.Stderr})
	if err != nil {
		return nil, err
	}
	return store, store.Ensure(ctx, names...)
}

// processDir is this process's own folder below the temporary one. Its lock file says
// that the process lives; the kernel drops the lock when it does not.
//
//nolint:gochecknoglobals // one folder per test process, made on first use
var processDir = sync.OnceValues(func() (string, error) {
	base := filepath.Join(os.TempDir(), "leaky-testenv-"+strconv.Itoa(os.Geteuid()))
	if len(base) > 60 {
		base = filepath.Join("/tmp", filepath.Base(base)) // a Unix socket's path has 107 bytes
	}
	if err := openFolder(base); err != nil {
		return "", err
	}
	unlock, err := lockFile(filepath.Join(base, "lock"), true)
	if err != nil {
		return "", err
	}
	defer unlock()
	sweep(base)
	dir := filepath.Join(base, fmt.Sprintf("%d-%s", os.Getpid(), strings.ToLower(rand.Text()[:6])))
	if _, err := lockFile(dir+".alive", false); err != nil { // held until the process ends
		return "", err
	}
	return dir, openFolder(dir)
})

// openFolder makes a folder that the unprivileged user of Postgres can pass through.
func openFolder(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.Chmod(dir, 0o755) // whatever the umask
}

// sweep removes the folders of processes that are gone. The caller holds the base lock.
func sweep(base string) {
	folders, err := filepath.Glob(filepath.Join(base, "*-*"))
	if err != nil {
		return
	}
	for _, folder := range folders {
		if strings.HasSuffix(folder, ".alive") {
			continue
		}
		alive := folder + ".alive"
		if unlock, err := lockFile(alive, false); err == nil { // else its process lives
			os.RemoveAll(folder) // what a dying server still writes goes the next time
			if missing(folder) {
				os.Remove(alive)
			}
			unlock()
		}
	}
}

// lockFile takes an exclusive lock; without wait it fails when another process has it. The
// lock belongs to a bare descriptor, not to an *os.File: the collector closes a file that
// nobody refers to, and the lock of a living process would go with it.
func lockFile(path string, wait bool) (unlock func(), err error) {
	fd, err := syscall.Open(path, syscall.O_CREAT|syscall.O_RDWR|syscall.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	how := syscall.LOCK_EX
	if !wait {
		how |= syscall.LOCK_NB
	}
	for {
		err := syscall.Flock(fd, how)
		if err == nil {
			return func() { _ = syscall.Close(fd) }, nil
		}
		if !errors.Is(err, syscall.EINTR) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), syscall.Close(fd))
		}
	}
}

// poll calls try until it succeeds, the process is gone, or the time is over.
func poll(p *process, try func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s ended while starting: %w\n%s", p.name, p.err, p.logTail())
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready after %v: %w\n%s", p.name, startTimeout, err, p.logTail())
		case <-tick.C:
		}
	}
}

// must ends the test when a part can't be had.
func must[T any](tb testing.TB, what string) func(T, error) T {
	return func(value T, err error) T {
		tb.Helper()
		if err != nil {
			tb.Fatalf("testenv: %s: %v", what, err)
		}
		return value
	}
}

// missing reports whether a path does not exist.
func missing(path string) bool {
	_, err := os.Stat(path)
	return errors.Is(err, fs.ErrNotExist)
}

// onFreePort starts a server at a loopback address that the system gives to nobody while the server is
// down (see ports.Free). Between finding the port and binding it another process may take it, so it
// tries again.
func onFreePort(start func(addr string) error) error {
	var err error
	for range 5 {
		var free []string
		if free, err = ports.Free(1); err != nil {
			return err
		}
		if err = start(free[0]); err == nil {
			return nil
		}
	}
	return err
}

// freeAddresses are loopback addresses for what must be told where to listen.
func freeAddresses(tb testing.TB, what string, n int) []string {
	tb.Helper()
	return must[[]string](tb, what)(ports.Free(n))
}
