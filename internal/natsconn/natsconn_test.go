package natsconn_test

import (
	"bytes"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/leaky-tokens/leaky-tokens/internal/natsconn"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// journal is a log that a test reads while it is written.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) has(text string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Contains(j.text.String(), text)
}

func TestConnectOutlivesTheServer(t *testing.T) {
	t.Parallel()
	server := testenv.NATSServer(t)
	server.Stop()
	var log journal
	conn, err := natsconn.Connect(natsconn.Config{URL: server.URL(), Name: "test", Log: slog.New(slog.NewTextHandler(&log, nil)), Unbuffered: true})
	if err != nil {
		t.Fatalf("without a server: want a connection that waits, got %v", err)
	}
	defer conn.Close()
	if err := conn.Publish("x", nil); err == nil {
		t.Error("unbuffered and not connected: want an error, got none")
	}
	if !log.has("link to NATS lost") {
		t.Error("want it in the log that there is no link yet")
	}
	server.Start()
	testenv.Eventually(t, "the link is in the log", func() bool { return conn.IsConnected() && log.has("link to NATS is back") })
	server.Stop()
	testenv.Eventually(t, "it is lost", func() bool { return !conn.IsConnected() })
	server.Start()
	testenv.Eventually(t, "it connects again", conn.IsConnected)
	if got := conn.Opts.Name; got != "leaky-test" {
		t.Errorf("name: want leaky-test, got %s", got)
	}
}

func TestConnectSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	_, err := natsconn.Connect(natsconn.Config{Name: "test", Log: slog.New(slog.DiscardHandler)})
	if err == nil || !strings.Contains(err.Error(), "LEAKY_NATS_URL") {
		t.Errorf("want an error that names LEAKY_NATS_URL, got %v", err)
	}
}

// dials counts how often a connection is tried.
type dials struct{ atomic.Int64 }

func (d *dials) Dial(network, address string) (net.Conn, error) {
	d.Add(1)
	return net.DialTimeout(network, address, 10*time.Second)
}

// TestAPasswordThatIsRefusedForATime: a user that a server forgot, and has again after a while, as when
// passwords are changed there first.
func TestAPasswordThatIsRefusedForATime(t *testing.T) {
	t.Parallel()
	options := server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, Username: "leaky", Password: "right", NoSigs: true, NoLog: true}
	s, err := server.NewServer(&options)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	testenv.Eventually(t, "the server listens", func() bool { return s.Addr() != nil })
	var log journal
	var tried dials
	conn, err := natsconn.Connect(natsconn.Config{URL: "nats://leaky:right@" + s.Addr().String(), Name: "test",
		Log: slog.New(slog.NewTextHandler(&log, nil))}, nats.SetCustomDialer(&tried))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	testenv.Eventually(t, "it connects", conn.IsConnected)
	password := func(to string) {
		t.Helper()
		other := options
		other.Port, other.Password = s.Addr().(*net.TCPAddr).Port, to
		if err := s.ReloadOptions(&other); err != nil {
			t.Fatal(err)
		}
	}
	before := tried.Load()
	password("another")
	const refusals = 4 // the client gives up at the second of its own accord
	testenv.Eventually(t, "it is refused", func() bool { return tried.Load() >= before+refusals || conn.IsClosed() })
	password("right")
	testenv.Eventually(t, "it connects again", conn.IsConnected)
}
