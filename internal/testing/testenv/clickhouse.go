package testenv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/local/binaries"
)

// ClickHouse gives the URL, http://host:port/database, of an empty database that only
// this test uses, on the engine that the process's tests share.
func ClickHouse(tb testing.TB) string {
	tb.Helper()
	server := must[*ClickHouseProcess](tb, "clickhouse")(sharedClickHouse())
	return server.database(tb)
}

// ClickHouseServer gives an engine that only this test uses and can break.
func ClickHouseServer(tb testing.TB) *ClickHouseProcess {
	tb.Helper()
	server := must[*ClickHouseProcess](tb, "clickhouse")(startClickHouse(tb.TempDir()))
	server.tb = tb
	tb.Cleanup(func() { server.process.kill() })
	server.url = server.database(tb)
	return server
}

// ClickHouseProcess is an engine of its own. Its address stays the same when it restarts.
type ClickHouseProcess struct {
	tb        testing.TB
	dir       string
	addr      string
	url       string
	process   *process
	databases atomic.Int64
}

// URL is http://host:port/database.
func (s *ClickHouseProcess) URL() string { return s.url }

// Kill ends the engine at once, as a crash would.
func (s *ClickHouseProcess) Kill() { s.process.kill() }

// Stop ends the engine in good order.
func (s *ClickHouseProcess) Stop() { s.process.stop() }

// Restart kills the engine if it runs and starts it again on its data and address.
func (s *ClickHouseProcess) Restart() {
	s.tb.Helper()
	s.process.kill()
	if err := s.run(s.addr); err != nil {
		s.tb.Fatalf("testenv: restart clickhouse: %v", err)
	}
}

func (s *ClickHouseProcess) database(tb testing.TB) string {
	tb.Helper()
	name := "t" + strconv.FormatInt(s.databases.Add(1), 10)
	if err := s.statement(tb.Context(), "CREATE DATABASE "+name); err != nil {
		tb.Fatalf("testenv: create database: %v", err)
	}
	tb.Cleanup(func() {
		// The engine may be one that the test has stopped.
		_ = s.statement(context.WithoutCancel(tb.Context()), "DROP DATABASE IF EXISTS "+name)
	})
	return "http://" + s.addr + "/" + name
}

func (s *ClickHouseProcess) statement(ctx context.Context, text string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+s.addr+"/?query="+url.QueryEscape(text), nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, 4096))
	if err == nil && res.StatusCode != http.StatusOK {
		err = errors.New(strings.TrimSpace(string(answer)))
	}
	return err
}

//nolint:gochecknoglobals // one engine per test process, started on first use
var sharedClickHouse = sync.OnceValues(func() (*ClickHouseProcess, error) {
	dir, err := processDir()
	if err != nil {
		return nil, err
	}
	dir = filepath.Join(dir, "clickhouse")
	if err := openFolder(dir); err != nil {
		return nil, err
	}
	return startClickHouse(dir)
})

func startClickHouse(dir string) (*ClickHouseProcess, error) {
	s := &ClickHouseProcess{dir: dir}
	return s, onFreePort(s.run)
}

var listening = regexp.MustCompile(`(?m)^listening on (\S+)$`)

func (s *ClickHouseProcess) run(listen string) error {
	store, err := ensure(binaries.ClickHouse)
	if err != nil {
		return err
	}
	lib, err := store.CHDBLib()
	if err != nil {
		return err
	}
	bin, err := engineBinary()
	if err != nil {
		return err
	}
	log := filepath.Join(s.dir, "engine.log")
	if err := os.WriteFile(log, nil, 0o644); err != nil { // it says where this one listens
		return err
	}
	cmd := exec.Command(bin, "-lib", lib, "-path", filepath.Join(s.dir, "data"), "-listen", listen)
	if s.process, err = startProcess("clickhouse engine", cmd, log, syscall.SIGKILL); err != nil {
		return err
	}
	err = poll(s.process, func(context.Context) error {
		text, err := os.ReadFile(log)
		if err != nil {
			return err
		}
		m := listening.FindSubmatch(text)
		if m == nil {
			return errors.New("it does not listen yet")
		}
		s.addr = string(m[1])
		return nil
	})
	if err != nil {
		s.process.kill()
	}
	return err
}

// engineBinary builds the program that holds the engine, as the Go command builds the
// tests: what has not changed costs a quarter of a second.
//
//nolint:gochecknoglobals // once per test process
var engineBinary = sync.OnceValues(func() (string, error) {
	const program = "github.com/leaky-tokens/leaky-tokens/internal/testing/testenv/chdbd"
	ctx, cancel := context.WithTimeout(context.Background(), fetchTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}")
	module, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	tree := fnv.New64a() // one program per source tree: two may share the cache folder
	tree.Write(bytes.TrimSpace(module))
	base := filepath.Join(config.CacheDir(os.Getenv), "testenv")
	if err := openFolder(base); err != nil {
		return "", err
	}
	bin := filepath.Join(base, fmt.Sprintf("chdbd-%x", tree.Sum64()))
	unlock, err := lockFile(bin+".lock", true)
	if err != nil {
		return "", err
	}
	defer unlock()
	build := exec.CommandContext(ctx, "go", "build", "-o", bin, program)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", program, err, out)
	}
	return bin, nil
})
