// Package envoytest gives tests and benchmarks a real Envoy: on free ports, ready in a
// fraction of a second, gone with the test, its log shown only when the test fails.
package envoytest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/envoy"
	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/local/binaries"
	"github.com/leaky-tokens/leaky-tokens/internal/netaddr"
)

// startTimeout bounds the start; a busy machine is slow, and an Envoy that ends is noticed at once.
const startTimeout = 30 * time.Second

// fetchTimeout bounds the fetching of the binary on a machine that has none.
const fetchTimeout = 10 * time.Minute

// Config is one Envoy. Either XDS or Bootstrap is set.
type Config struct {
	XDS         netaddr.Addr // asks there for everything
	TLS         *envoy.TLS   // with this certificate; nil: in the clear
	Bootstrap   []byte       // or runs this, JSON; its admin address should have port 0
	NodeID      string       // default the test's name
	Concurrency int          // worker threads, default 1
	LogLevel    string       // default warning
	Bounds      envoy.Bounds // of one that asks xds
}

// Envoy is a running Envoy.
type Envoy struct {
	Admin string // base URL of its admin
	PID   int

	log  string
	done chan struct{}
	err  error // how it ended; read after done
}

// Binary is the Envoy to run: LEAKY_ENVOY_BIN, else the pinned part, fetched when missing.
func Binary(ctx context.Context) (string, error) {
	store, err := binaries.New(binaries.Config{CacheDir: config.CacheDir(os.Getenv), Progress: os.Stderr})
	if err != nil {
		return "", err
	}
	if os.Getenv("LEAKY_ENVOY_BIN") == "" {
		if err := store.Ensure(ctx, binaries.Envoy); err != nil {
			return "", err
		}
	}
	return store.EnvoyBin()
}

// Start starts an Envoy and waits until it is ready, which means that it has its first
// configuration. It is killed when the test ends, and when the test process dies.
func Start(tb testing.TB, c Config) *Envoy {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), fetchTimeout)
	defer cancel()
	bin, err := Binary(ctx)
	if err != nil {
		tb.Fatalf("envoytest: find the binary: %v", err)
	}
	dir := tb.TempDir()
	bootstrap, adminFile := filepath.Join(dir, "bootstrap.json"), filepath.Join(dir, "admin")
	if err := writeBootstrap(bootstrap, tb.Name(), c); err != nil {
		tb.Fatalf("envoytest: %v", err)
	}
	cmd := exec.Command(bin, envoy.Args(envoy.ArgsConfig{Bootstrap: bootstrap, Concurrency: max(c.Concurrency, 1), AdminPath: adminFile,
		LogLevel: c.LogLevel})...)
	cmd.Dir = dir
	e := &Envoy{log: filepath.Join(dir, "envoy.log"), done: make(chan struct{})}
	if err := e.start(cmd); err != nil {
		tb.Fatalf("envoytest: start: %v", err)
	}
	tb.Cleanup(func() {
		e.Kill()
		if tb.Failed() {
			tb.Logf("envoy's log:\n%s", e.Log())
		}
	})
	if err := e.ready(adminFile); err != nil {
		tb.Fatalf("envoytest: %v", err)
	}
	return e
}

func writeBootstrap(path, name string, c Config) error {
	text := c.Bootstrap
	if text == nil {
		if c.NodeID == "" {
			c.NodeID = name
		}
		var err error
		text, err = envoy.Bootstrap(envoy.BootstrapConfig{XDS: c.XDS, Admin: netaddr.Addr{Network: "tcp", Host: "127.0.0.1"}, NodeID: c.NodeID,
			TLS: c.TLS, Bounds: c.Bounds})
		if err != nil {
			return err
		}
	}
	return os.WriteFile(path, text, 0o600)
}

// start runs the command. The death signal is tied to the thread that forked, so one
// goroutine keeps its thread for as long as Envoy lives.
func (e *Envoy) start(cmd *exec.Cmd) error {
	out, err := os.Create(e.log)
	if err != nil {
		return err
	}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer out.Close()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		e.err = cmd.Wait()
		close(e.done)
	}()
	if err := <-started; err != nil {
		return err
	}
	e.PID = cmd.Process.Pid
	return nil
}

// ready polls: first for the admin's address, then for the state LIVE.
func (e *Envoy) ready(adminFile string) error {
	return e.poll(func() error {
		if e.Admin == "" {
			text, err := os.ReadFile(adminFile)
			if err != nil || len(text) == 0 {
				return errors.New("the admin does not listen yet")
			}
			e.Admin = "http://" + strings.TrimSpace(string(text))
		}
		_, err := e.Get("/ready")
		return err
	})
}

func (e *Envoy) poll(try func() error) error {
	deadline := time.NewTimer(startTimeout)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-e.done:
			return fmt.Errorf("envoy ended: %w\n%s", e.err, e.Log())
		case <-deadline.C:
			return fmt.Errorf("envoy is not ready after %v: %w", startTimeout, err)
		case <-tick.C:
		}
	}
}

// Get reads a page of the admin.
func (e *Envoy) Get(path string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, e.Admin+path, http.NoBody)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("admin %s: %s: %s", path, resp.Status, body)
	}
	return string(body), nil
}

// URL waits for the listener and returns its base URL, e.g. http://127.0.0.1:41234.
func (e *Envoy) URL(tb testing.TB, listener string) string {
	tb.Helper()
	var url string
	err := e.poll(func() error {
		text, err := e.Get("/listeners?format=json")
		if err != nil {
			return err
		}
		var page struct {
			Statuses []struct {
				Name    string `json:"name"`
				Address struct {
					Socket struct {
						Address string `json:"address"`
						Port    int    `json:"port_value"`
					} `json:"socket_address"`
				} `json:"local_address"`
			} `json:"listener_statuses"`
		}
		if err := json.Unmarshal([]byte(text), &page); err != nil {
			return err
		}
		for _, l := range page.Statuses {
			if l.Name == listener && l.Address.Socket.Port != 0 {
				url = "http://" + netaddr.Addr{Network: "tcp", Host: l.Address.Socket.Address, Port: l.Address.Socket.Port}.String()
				return nil
			}
		}
		return fmt.Errorf("no listener %q", listener)
	})
	if err != nil {
		tb.Fatalf("envoytest: %v", err)
	}
	return url
}

// Stat is the value of one counter or gauge, 0 when there is none of this name.
func (e *Envoy) Stat(tb testing.TB, name string) int {
	tb.Helper()
	text, err := e.Get("/stats?filter=^" + strings.ReplaceAll(name, ".", "\\.") + "$")
	if err != nil {
		tb.Fatalf("envoytest: %v", err)
	}
	_, value, ok := strings.Cut(strings.TrimSpace(text), ": ")
	if !ok {
		return 0
	}
	n, err := strconv.Atoi(value)
	if err != nil {
		tb.Fatalf("envoytest: stat %s: %v", name, err)
	}
	return n
}

// Log is what Envoy has said so far.
func (e *Envoy) Log() string {
	text, err := os.ReadFile(e.log)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// Kill ends Envoy at once and waits for it.
func (e *Envoy) Kill() {
	_ = syscall.Kill(-e.PID, syscall.SIGKILL) // gone already is fine
	<-e.done
}
