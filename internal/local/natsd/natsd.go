// Package natsd is the message bus behind the request path when no NATS is given: the
// real nats-server in this process, JetStream on disk, on a loopback address.
//
// # When JetStream syncs
//
// JetStream acknowledges a message once it is written, not once it is synced to disk: with
// its default (every two minutes) a power cut takes back what was acknowledged since, as
// Jepsen's analysis of NATS 2.12.1 shows. Killing the process loses nothing either way.
// leaky serve nats syncs every second. Syncing before every acknowledgement
// (LEAKY_NATS_SYNC=always) costs about 90 µs more CPU per message (BenchmarkPublish, two
// cores: 100 to 140 µs against 14 to 21 µs), a fifth of what a whole request costs, and buys
// little for usage events: Envoy's spool, which they come from, is not synced at all, and a
// request whose line is lost is charged by the expiry of its hold. Who publishes from
// something that is synced keeps it for longer than the interval and publishes the end
// again after a start: the event's id makes the repeat harmless.
package natsd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

const (
	readyTimeout = 30 * time.Second // includes reading the stream back after a crash
	maxMemory    = 64 << 20         // bytes of JetStream's memory storage; our streams are on disk
	maxPayload   = 1 << 20          // bytes of one message
)

// Config is what a Server needs.
type Config struct {
	Listen string        // host:port; port 0 takes a free one
	Dir    string        // JetStream's folder
	Sync   time.Duration // longest an acknowledged message stays unsynced; 0: none does
	// Users are who may connect, the owner first; none: anyone who reaches the address.
	Users []User
	// MaxStore bounds JetStream's files, in bytes; 0: three quarters of what is free at the start.
	MaxStore int64
	// Look is how often it is tried whether the stream of events takes a message; 0: 30 s.
	Look time.Duration
	Log  *slog.Logger
}

// Server is an embedded NATS server.
type Server struct {
	config Config
	nats   *server.Server
	log    *logger
	ready  chan struct{}
}

// New checks the configuration; it neither listens nor reads the stream.
func New(c Config) (*Server, error) {
	host, text, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return nil, fmt.Errorf("nats address %q: write host:port: %w", c.Listen, err)
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("nats address %q: the port must be 0 to 65535", c.Listen)
	}
	if c.Dir == "" || c.Sync < 0 {
		return nil, errors.New("nats: the folder is not set, or the sync interval is negative")
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("nats: %w", err)
	}
	if c.Look <= 0 {
		c.Look = lookEvery
	}
	most := c.MaxStore
	if most <= 0 {
		most = -1
	}
	opts := &server.Options{ServerName: "leaky", Host: host, Port: int(port), JetStream: true, StoreDir: c.Dir,
		JetStreamMaxMemory: maxMemory, JetStreamMaxStore: most, MaxPayload: maxPayload, NoSigs: true,
		SyncInterval: c.Sync, SyncAlways: c.Sync == 0}
	for _, u := range c.Users {
		opts.Users = append(opts.Users, u.user())
	}
	if port == 0 {
		opts.Port = server.RANDOM_PORT
	}
	if c.Sync == 0 {
		opts.SyncInterval = 2 * time.Minute // of the index files, which can be made anew
	}
	nats, err := server.NewServer(opts)
	if err != nil {
		return nil, fmt.Errorf("nats: %w", err)
	}
	log := &logger{log: c.Log, fatal: make(chan error, 1), trouble: make(chan struct{}, 1)}
	nats.SetLoggerV2(log, false, false, false)
	return &Server{config: c, nats: nats, log: log, ready: make(chan struct{})}, nil
}

// Run serves until ctx ends, then writes everything out and closes.
func (s *Server) Run(ctx context.Context) error {
	started := make(chan struct{})
	go func() {
		defer close(started)
		s.nats.Start()
		s.await(ctx)
	}()
	var err error
	looking, stop := context.WithCancel(ctx)
	stuck := make(chan error, 1)
	var watching sync.WaitGroup
	watching.Go(func() { stuck <- s.watch(looking) })
	select {
	case <-ctx.Done():
	case err = <-s.log.fatal:
		err = fmt.Errorf("run nats: %w", err)
	case err = <-stuck: // nil where ctx ended
	}
	stop()
	watching.Wait()
	s.nats.Shutdown()
	s.nats.WaitForShutdown()
	<-started
	return err
}

// await closes ready once clients can connect.
func (s *Server) await(ctx context.Context) {
	for deadline := time.Now().Add(readyTimeout); ctx.Err() == nil && time.Now().Before(deadline); {
		if s.nats.ReadyForConnections(100 * time.Millisecond) {
			close(s.ready)
			return
		}
		if len(s.log.fatal) > 0 || !s.nats.Running() {
			break
		}
	}
	s.log.fail(fmt.Errorf("not ready after %v", readyTimeout))
}

// Ready is closed once clients can connect.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// URL is nats://host:port; the port is known once Ready.
func (s *Server) URL() string { return s.nats.ClientURL() }

// logger passes what nats-server says to slog. nats-server's own Fatalf ends the
// process; ours ends Run.
type logger struct {
	log     *slog.Logger
	fatal   chan error
	trouble chan struct{} // the server says that it did not store something
}

// tell passes a line on, and looks whether it says that something was not stored.
func (l *logger) tell(level slog.Level, text string) {
	l.log.Log(context.Background(), level, text)
	if !strings.Contains(text, "failed to store") && !strings.Contains(text, "resource limits exceeded") {
		return
	}
	select {
	case l.trouble <- struct{}{}:
	default:
	}
}

func (l *logger) fail(err error) {
	select {
	case l.fatal <- err:
	default: // the first one is the cause
	}
}

func (l *logger) Fatalf(format string, v ...any) { l.fail(fmt.Errorf(format, v...)) }
func (l *logger) Errorf(format string, v ...any) {
	l.tell(slog.LevelError, fmt.Sprintf(format, v...))
}
func (l *logger) Warnf(format string, v ...any)   { l.tell(slog.LevelWarn, fmt.Sprintf(format, v...)) }
func (l *logger) Noticef(format string, v ...any) { l.log.Debug(fmt.Sprintf(format, v...)) }
func (l *logger) Debugf(string, ...any)           {}
func (l *logger) Tracef(string, ...any)           {}
