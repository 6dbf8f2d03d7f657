package outbox_test

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/migrations"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/outbox"
)

// world is an outbox and the stream that it goes to.
type world struct {
	tb   testing.TB
	db   *pgxpool.Pool
	nats *testenv.NATSProcess
	js   jetstream.JetStream
}

func newWorld(tb testing.TB) *world {
	tb.Helper()
	w := &world{tb: tb, db: testenv.Postgres(tb), nats: testenv.NATSServer(tb)}
	if err := migrations.Up(tb.Context(), w.db); err != nil {
		tb.Fatal(err)
	}
	js, err := jetstream.New(w.connect())
	if err != nil {
		tb.Fatal(err)
	}
	w.js = js
	if _, err := usage.EnsureStream(tb.Context(), js); err != nil {
		tb.Fatal(err)
	}
	return w
}

func (w *world) connect() *nats.Conn {
	w.tb.Helper()
	nc, err := nats.Connect(w.nats.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.ReconnectBufSize(-1))
	if err != nil {
		w.tb.Fatal(err)
	}
	w.tb.Cleanup(nc.Close)
	return nc
}

// relay makes a replica.
func (w *world) relay(change func(*outbox.Config)) (*outbox.Relay, *prometheus.Registry) {
	w.tb.Helper()
	// Connections of its own: a test that kills a relay's must not hit a writer, to whom the
	// pool has meanwhile given the connection.
	own, err := pgxpool.NewWithConfig(w.tb.Context(), w.db.Config().Copy())
	if err != nil {
		w.tb.Fatal(err)
	}
	w.tb.Cleanup(own.Close)
	registry := prometheus.NewRegistry()
	cfg := outbox.Config{DB: own, NATS: w.connect(), PollEvery: 100 * time.Millisecond, Metrics: registry, Log: slog.New(slog.DiscardHandler)}
	if change != nil {
		change(&cfg)
	}
	r, err := outbox.New(cfg)
	if err != nil {
		w.tb.Fatal(err)
	}
	return r, registry
}

// add writes events in one transaction.
func (w *world) add(events ...outbox.Event) {
	w.tb.Helper()
	if err := pgx.BeginFunc(w.tb.Context(), w.db, func(tx pgx.Tx) error { return outbox.AddAll(w.tb.Context(), tx, events) }); err != nil {
		w.tb.Fatal(err)
	}
}

func (w *world) count(where string) (n int) {
	w.tb.Helper()
	if err := w.db.QueryRow(w.tb.Context(), `SELECT count(*) FROM token_outbox WHERE `+where).Scan(&n); err != nil {
		w.tb.Fatal(err)
	}
	return n
}

// stored reads everything that the stream has, in its order.
func (w *world) stored() []*jetstream.RawStreamMsg {
	w.tb.Helper()
	stream, err := w.js.Stream(w.tb.Context(), usage.Stream)
	if err != nil {
		w.tb.Fatal(err)
	}
	var all []*jetstream.RawStreamMsg
	state := stream.CachedInfo().State
	for seq := state.FirstSeq; seq <= state.LastSeq && state.Msgs > 0; seq++ {
		msg, err := stream.GetMsg(w.tb.Context(), seq)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue // a probe's
		}
		if err != nil {
			w.tb.Fatal(err)
		}
		if msg.Subject == usage.SubjectProbe {
			continue // the server was stopped before it was taken out again
		}
		all = append(all, msg)
	}
	return all
}

// busy keeps so many threads of another process busy until the test ends.
func busy(t *testing.T, loops int) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestBusyProcess$")
	cmd.Env = append(os.Environ(), fmt.Sprintf("LEAKY_TEST_BUSY=%d", loops), fmt.Sprintf("GOMAXPROCS=%d", loops))
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		_ = cmd.Wait()
	})
}

// TestBusyProcess is no test: it is the process that busy starts.
func TestBusyProcess(t *testing.T) {
	loops, err := strconv.Atoi(os.Getenv("LEAKY_TEST_BUSY"))
	if err != nil {
		return
	}
	for range loops {
		go func() {
			for { //nolint:staticcheck // busy on purpose
			}
		}()
	}
	_, _ = io.Copy(io.Discard, os.Stdin) // ends with the test, however that ends
}
