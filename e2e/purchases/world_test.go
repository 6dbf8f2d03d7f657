package purchases

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	stub "github.com/leaky-tokens/leaky-tokens/stubs/payment"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/migrations"
)

// patience bounds every wait; it says nothing about speed.
const patience = 60 * time.Second

// world is what survives the workers: the stores and the payment provider.
type world struct {
	postgres *testenv.PostgresProcess
	nats     *testenv.NATSProcess
	pool     *pgxpool.Pool
	payment  *stub.Server
	url      string // of the payment
	dir      string // of the workers' sockets
	stripe   bool
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{postgres: testenv.PostgresServer(t), nats: testenv.NATSServer(t)}
	var err error
	if w.pool, err = pgxpool.New(context.Background(), w.postgres.URL()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.pool.Close)
	if err := migrations.Up(t.Context(), w.pool); err != nil {
		t.Fatal(err)
	}
	nc, err := nats.Connect(w.nats.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := usage.EnsureStream(t.Context(), js); err != nil {
		t.Fatal(err)
	}
	if w.payment, err = stub.New(stub.Config{Log: slog.New(slog.DiscardHandler)}); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(w.payment.Handler())
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	server.Start()
	t.Cleanup(server.Close)
	w.url = server.URL
	if w.dir, err = os.MkdirTemp("", "pf"); err != nil { // a socket's path is short
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(w.dir) })
	return w
}

// slot is one replica: whenever its process ends, it is started again, without the kill.
type slot struct {
	w      *world
	socket string
	wanted []workerConfig // of the next starts; then plain ones
	mu     sync.Mutex
	cmd    *exec.Cmd
	starts int
}

// keep runs processes until ctx ends; the last one is killed then.
func (s *slot) keep(ctx context.Context, t *testing.T) {
	for ctx.Err() == nil {
		cfg := workerConfig{}
		if len(s.wanted) > 0 {
			cfg, s.wanted = s.wanted[0], s.wanted[1:]
		}
		cfg.Postgres, cfg.NATS, cfg.Payment, cfg.Socket, cfg.Stripe = s.w.postgres.URL(), s.w.nats.URL(), s.w.url, s.socket, s.w.stripe
		text, err := json.Marshal(cfg)
		if err != nil {
			t.Error(err)
			return
		}
		cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestWorkerProcess$", "-test.timeout=10m")
		cmd.Env = append(os.Environ(), "LEAKY_TEST_WORKER="+string(text), "GOMAXPROCS=2")
		cmd.Stderr = os.Stderr
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Error(err)
			return
		}
		s.mu.Lock()
		err = cmd.Start()
		s.cmd = cmd
		s.starts++
		s.mu.Unlock()
		if err != nil {
			if ctx.Err() == nil { // else the schedule ended just now
				t.Errorf("start worker: %v", err)
			}
			return
		}
		if err := cmd.Wait(); err == nil && ctx.Err() == nil {
			t.Error("a worker ended by itself")
			return
		}
		stdin.Close()
	}
}

// started is how often a process was started.
func (s *slot) started() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.starts
}

// kill ends the process that runs now.
func (s *slot) kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd != nil && s.cmd.Process != nil {
		_ = s.cmd.Process.Kill() // gone already: as well
	}
}

// post sends an order to one replica and then the other, again and again with its key,
// until one answers: what a careful client does.
func (w *world) post(ctx context.Context, sockets []string, user, key, body string) (string, error) {
	for i := 0; ; i++ {
		answer, err := send(ctx, sockets[i%len(sockets)], user, key, body)
		if err == nil {
			return answer, nil
		}
		if ctx.Err() != nil {
			return "", err
		}
		pause(ctx, 10*time.Millisecond)
	}
}

var errAgain = errors.New("to be asked again")

func send(ctx context.Context, socket, user, key, body string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://worker/api/v1/tokens/purchase", strings.NewReader(body))
	if err != nil {
		return "", err
	}
	r.Header.Set("X-Test-User", user)
	r.Header.Set("Idempotency-Key", key)
	r.Header.Set("Content-Type", "application/json")
	res, err := client(socket).Do(r)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusAccepted {
		err = fmt.Errorf("%w: %d %s", errAgain, res.StatusCode, text)
	}
	return string(text), err
}

// client calls a replica over its socket.
func client(socket string) *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

func (w *world) socket(n int) string { return filepath.Join(w.dir, fmt.Sprintf("%d.sock", n)) }
