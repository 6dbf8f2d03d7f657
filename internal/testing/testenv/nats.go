package testenv

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/leaky-tokens/leaky-tokens/internal/local/natsd"
)

// NATS gives the URL of a NATS server with JetStream that only this test uses.
func NATS(tb testing.TB) string {
	tb.Helper()
	return NATSServer(tb).URL()
}

// NATSServer gives a NATS server, in this process, that the test can stop and start.
func NATSServer(tb testing.TB) *NATSProcess {
	tb.Helper()
	s := &NATSProcess{tb: tb, dir: tb.TempDir()}
	err := onFreePort(func(addr string) error {
		s.listen = addr
		return s.start()
	})
	if err != nil {
		tb.Fatalf("testenv: nats: %v", err)
	}
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
	if err := s.start(); err != nil {
		s.tb.Fatalf("testenv: nats: %v", err)
	}
}

func (s *NATSProcess) start() error {
	// Synced now and then, since tests do not cut the power and the disk is shared.
	server, err := natsd.New(natsd.Config{Listen: s.listen, Dir: s.dir, Sync: time.Minute, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	select {
	case <-server.Ready():
		s.listen, s.stop, s.ended = strings.TrimPrefix(server.URL(), "nats://"), cancel, ended
		return nil
	case err := <-ended:
		cancel()
		return err
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

// Messages is how many a stream has of some subjects. All that it has may be one more: the server stores
// one of its own now and then, and takes it out again.
func Messages(tb testing.TB, stream jetstream.Stream, subjects string) (n uint64) {
	tb.Helper()
	info, err := stream.Info(tb.Context(), jetstream.WithSubjectFilter(subjects))
	if err != nil {
		tb.Fatal(err)
	}
	for _, of := range info.State.Subjects {
		n += of
	}
	return n
}

// Snapshot keeps the server's data as they are, for which it ends and starts; restore starts it with
// them in place of what it has by then, as after a power cut that took back what was not synced.
func (s *NATSProcess) Snapshot() (restore func()) {
	s.tb.Helper()
	kept := filepath.Join(s.tb.TempDir(), "kept")
	s.Stop()
	if err := copyTree(s.dir, kept, nil); err != nil {
		s.tb.Fatalf("testenv: copy nats' data: %v", err)
	}
	s.Start()
	return func() {
		s.tb.Helper()
		s.Stop()
		if err := errors.Join(os.RemoveAll(s.dir), copyTree(kept, s.dir, nil)); err != nil {
			s.tb.Fatalf("testenv: restore nats' data: %v", err)
		}
		s.Start()
	}
}
