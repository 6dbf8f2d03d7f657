package natsconn_test

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"

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
