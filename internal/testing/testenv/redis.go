package testenv

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/leaky-tokens/leaky-tokens/internal/local/binaries"
)

// Redis gives a client of the process's shared Valkey and a prefix such as "t7:" that
// this test puts before each of its keys. A test that flushes, kills or scans the whole
// server takes RedisServer instead.
func Redis(tb testing.TB) (client *redis.Client, prefix string) {
	tb.Helper()
	shared := must[*sharedServer](tb, "redis")(sharedRedis())
	client = newRedisClient(shared.server.addr)
	tb.Cleanup(func() { client.Close() })
	return client, "t" + strconv.FormatInt(shared.prefixes.Add(1), 10) + ":"
}

// RedisServer gives a Valkey that only this test uses and can break. It keeps an
// append-only file, as the stack does, synced at every write, so that Kill loses nothing.
func RedisServer(tb testing.TB) *RedisProcess {
	tb.Helper()
	server := must[*RedisProcess](tb, "redis")(startRedis(tb.TempDir(), "--appendonly", "yes", "--appendfsync", "always"))
	tb.Cleanup(server.process.kill)
	server.tb = tb
	return server
}

// RedisProcess is a Valkey server of its own. Its address stays the same when it restarts.
type RedisProcess struct {
	tb      testing.TB
	addr    string
	dir     string
	args    []string
	process *process
}

// URL is redis://host:port.
func (s *RedisProcess) URL() string { return "redis://" + s.addr }

// Client connects to the server; it is closed when the test ends.
func (s *RedisProcess) Client() *redis.Client {
	client := newRedisClient(s.addr)
	s.tb.Cleanup(func() { client.Close() })
	return client
}

// newRedisClient fails at once when the server is down: a test that wants patience says so. Who asks a
// frozen one says how long.
func newRedisClient(addr string) *redis.Client {
	return redis.NewClient(&redis.Options{Addr: addr, MaxRetries: -1, DialerRetries: 1, ContextTimeoutEnabled: true,
		DialTimeout: patience, ReadTimeout: patience, WriteTimeout: patience})
}

// Kill ends the server at once, as a crash would.
func (s *RedisProcess) Kill() { s.process.kill() }

// Freeze stops the server without closing a connection, as a hanging machine would.
func (s *RedisProcess) Freeze() { s.process.signal(syscall.SIGSTOP) }

// Thaw lets a frozen server go on.
func (s *RedisProcess) Thaw() { s.process.signal(syscall.SIGCONT) }

// Restart kills the server if it runs and starts it again on its data and address.
func (s *RedisProcess) Restart() {
	s.tb.Helper()
	s.process.kill()
	if err := s.run(); err != nil {
		s.tb.Fatalf("testenv: restart redis: %v", err)
	}
	s.tb.Cleanup(s.process.kill)
}

// Snapshot copies the server's data as they are; restore starts the server with that copy in place
// of what it has by then, as who falls back to a backup does.
func (s *RedisProcess) Snapshot() (restore func()) {
	s.tb.Helper()
	const data = "appendonlydir"
	kept := s.tb.TempDir()
	if err := os.CopyFS(kept, os.DirFS(filepath.Join(s.dir, data))); err != nil {
		s.tb.Fatalf("testenv: copy redis' data: %v", err)
	}
	return func() {
		s.tb.Helper()
		s.process.kill()
		if err := errors.Join(os.RemoveAll(filepath.Join(s.dir, data)), os.CopyFS(filepath.Join(s.dir, data), os.DirFS(kept))); err != nil {
			s.tb.Fatalf("testenv: restore redis' data: %v", err)
		}
		s.Restart()
	}
}

type sharedServer struct {
	server   *RedisProcess
	prefixes atomic.Int64
}

//nolint:gochecknoglobals // one server per test process, started on first use
var sharedRedis = sync.OnceValues(func() (*sharedServer, error) {
	dir, err := processDir()
	if err != nil {
		return nil, err
	}
	dir = filepath.Join(dir, "redis")
	if err := openFolder(dir); err != nil {
		return nil, err
	}
	server, err := startRedis(dir)
	return &sharedServer{server: server}, err
})

func startRedis(dir string, args ...string) (*RedisProcess, error) {
	s := &RedisProcess{dir: dir, args: args}
	return s, onFreePort(func(addr string) error {
		s.addr = addr
		return s.run()
	})
}

func (s *RedisProcess) run() error {
	store, err := ensure(binaries.Redis)
	if err != nil {
		return err
	}
	bin, err := store.RedisServer(context.Background())
	if err != nil {
		return err
	}
	_, port, err := net.SplitHostPort(s.addr)
	if err != nil {
		return err
	}
	cmd := exec.Command(bin, append([]string{"--port", port, "--bind", "127.0.0.1", "--dir", s.dir, "--save", "", "--daemonize", "no",
		"--enable-debug-command", "yes", "--maxclients", "2000", "--loglevel", "notice"}, s.args...)...)
	s.process, err = startProcess("valkey-server", cmd, filepath.Join(s.dir, "server.log"), syscall.SIGKILL)
	if err != nil {
		return err
	}
	client := newRedisClient(s.addr)
	defer client.Close()
	err = poll(s.process, func(ctx context.Context) error { return s.isOurs(ctx, client) })
	if err != nil {
		s.process.kill()
	}
	return err
}

var errOtherServer = errors.New("another server answers on the port")

// isOurs makes sure that the process which answers is the one just started.
func (s *RedisProcess) isOurs(ctx context.Context, client *redis.Client) error {
	info, err := client.Info(ctx, "server").Result()
	if err != nil {
		return err
	}
	if !strings.Contains(info, fmt.Sprintf("process_id:%d\r\n", s.process.cmd.Process.Pid)) {
		return errOtherServer
	}
	return client.Ping(ctx).Err() // LOADING until the data is read
}
