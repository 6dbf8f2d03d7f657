package testenv

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/natsd"
)

// NATS gives the URL of a NATS server with JetStream that only this test uses.
func NATS(tb testing.TB) string {
	tb.Helper()
	return NATSServer(tb).URL()
}

// NATSServer gives a NATS server, in this process, that the test can stop and start.
func NATSServer(tb testing.TB) *NATSProcess {
	tb.Helper()
	s := &NATSProcess{tb: tb, dir: tb.TempDir(), listen: "127.0.0.1:0"}
	s.Start()
	tb.Cleanup(s.Stop)
	return s
}

// NATSProcess is a NATS server of its own. Its address stays the same when it restarts.
type NATSProcess struct {
	tb     testing.TB
	dir    string
	listen string
	stop   context.CancelFunc
	ended  chan error
}

// URL is nats://host:port.
func (s *NATSProcess) URL() string { return "nats://" + s.listen }

// Start starts the server on its data and address and returns when it is ready.
func (s *NATSProcess) Start() {
	s.tb.Helper()
	// Synced now and then, since tests do not cut the power and the disk is shared.
	server := must[*natsd.Server](s.tb, "nats")(natsd.New(natsd.Config{Listen: s.listen, Dir: s.dir, Sync: time.Minute, Log: slog.New(slog.DiscardHandler)}))
	ctx, cancel := context.WithCancel(context.Background())
	s.stop, s.ended = cancel, make(chan error, 1)
	go func() { s.ended <- server.Run(ctx) }()
	select {
	case <-server.Ready():
		s.listen = strings.TrimPrefix(server.URL(), "nats://")
	case err := <-s.ended:
		s.stop = nil
		s.tb.Fatalf("testenv: nats: %v", err)
	}
}

// Stop ends the server and drops its connections; the data stays.
func (s *NATSProcess) Stop() {
	if s.stop == nil {
		return
	}
	s.stop()
	s.stop = nil
	if err := <-s.ended; err != nil {
		s.tb.Errorf("testenv: nats: %v", err)
	}
}
