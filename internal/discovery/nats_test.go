package discovery_test

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/leaky-tokens/leaky-tokens/internal/discovery"
	"github.com/leaky-tokens/leaky-tokens/internal/natsconn"
	"github.com/leaky-tokens/leaky-tokens/internal/netaddr"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

func connect(t *testing.T, url, name string) *nats.Conn {
	t.Helper()
	conn, err := natsconn.Connect(natsconn.Config{URL: url, Name: name, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn
}

// follow runs a tracker until the test ends.
func follow(t *testing.T, url string) *discovery.Tracker {
	t.Helper()
	tracker := discovery.NewTracker(discovery.TrackerConfig{Conn: connect(t, url, "xds"), Site: "here", Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- tracker.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return tracker
}

// process is one that registers.
type process struct {
	conn  *nats.Conn
	ready atomic.Bool
	leave context.CancelFunc
	gone  chan struct{}
}

func start(t *testing.T, url, part, address string) *process {
	t.Helper()
	return startLeased(t, url, part, address, time.Second)
}

// startLeased has one register that counts as gone when nothing was heard of it for so long.
func startLeased(t *testing.T, url, part, address string, lease time.Duration) *process {
	t.Helper()
	p := &process{conn: connect(t, url, "ratelimit"), gone: make(chan struct{})}
	p.ready.Store(true)
	r, err := discovery.NewRegistrar(discovery.RegistrarConfig{Conn: p.conn, Routed: true, LeaveTimeout: time.Minute,
		Log:      slog.New(slog.DiscardHandler),
		Instance: discovery.Instance{Service: "ratelimit", Site: "here", Part: part, Address: address, Weight: 1, Lease: lease},
		Ready: func(context.Context) error {
			if !p.ready.Load() {
				return errors.New("not now")
			}
			return nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	var ctx context.Context
	ctx, p.leave = context.WithCancel(context.Background())
	go func() {
		defer close(p.gone)
		r.Run(ctx)
	}()
	t.Cleanup(func() {
		p.conn.Close()
		p.leave()
		<-p.gone
	})
	return p
}

// become waits until the service is called at so many addresses.
func become(t *testing.T, tracker *discovery.Tracker, n int, about string) {
	t.Helper()
	file := []netaddr.Addr{{Network: "unix", Path: "/file"}}
	testenv.Eventually(t, about, func() bool { return len(tracker.Endpoints("ratelimit", file)) == n })
}

func TestProcessesComeAndGo(t *testing.T) {
	t.Parallel()
	url := testenv.NATS(t)
	early := start(t, url, "ratelimit-2", "unix:/two") // before there is a bucket
	tracker := follow(t, url)
	become(t, tracker, 2, "who was there before is found")
	killed := start(t, url, "ratelimit-3", "unix:/three")
	become(t, tracker, 3, "who comes is found")
	early.ready.Store(false)
	become(t, tracker, 2, "who cannot work is left out")
	early.ready.Store(true)
	become(t, tracker, 3, "and called again")
	killed.conn.Close()
	become(t, tracker, 2, "who is not heard is left out")
	late := follow(t, url)
	become(t, late, 2, "another tracker finds who is there")
	early.leave()
	become(t, tracker, 1, "who leaves is left out")
	select {
	case <-early.gone:
		t.Error("it ended before Envoys knew")
	default:
	}
	tracker.Published(tracker.Number())
	<-early.gone
	testenv.Eventually(t, "it has left", func() bool {
		for _, i := range tracker.List() {
			if i.Part == "ratelimit-2" {
				return i.State == discovery.Left
			}
		}
		return false
	})
}

// TestNobodyIsLostWhileNATSIsAway, nor when it is back with an empty memory.
func TestNobodyIsLostWhileNATSIsAway(t *testing.T) {
	t.Parallel()
	server := testenv.NATSServer(t)
	tracker := follow(t, server.URL())
	there := startLeased(t, server.URL(), "ratelimit-2", "unix:/two", 20*time.Second)
	become(t, tracker, 2, "it is found")
	number := tracker.Number()
	server.Stop()
	testenv.Eventually(t, "the tracker knows", func() bool { return tracker.Number() > number })
	number = tracker.Number()
	server.Start()
	testenv.Eventually(t, "the tracker knows", func() bool { return tracker.Number() > number })
	number = tracker.Number()
	late := follow(t, server.URL())
	become(t, late, 2, "a new tracker finds it in the new bucket")
	if got := tracker.Number(); got != number {
		t.Errorf("want it heard again before its time was over, got %d changes", got-number)
	}
	// Alone, with nobody to answer, it ends at once.
	server.Stop()
	testenv.Eventually(t, "the process knows", func() bool { return !there.conn.IsConnected() })
	there.leave()
	<-there.gone
}

func TestARegistrarChecksWhatItSays(t *testing.T) {
	t.Parallel()
	good := discovery.Instance{Service: "ratelimit", Site: "here", Part: "ratelimit", Address: "127.0.0.1:1", Weight: 1, Lease: time.Second}
	for name, edit := range map[string]func(*discovery.Instance){
		"a name for an address": func(i *discovery.Instance) { i.Address = "host:1" },
		"any address":           func(i *discovery.Instance) { i.Address = "0.0.0.0:1" },
		"no port":               func(i *discovery.Instance) { i.Address = "127.0.0.1:0" },
		"a relative socket":     func(i *discovery.Instance) { i.Address = "unix:run/x.sock" },
		"no weight":             func(i *discovery.Instance) { i.Weight = 0 },
		"too much weight":       func(i *discovery.Instance) { i.Weight = 101 },
		"a zone with a space":   func(i *discovery.Instance) { i.Zone = "eu 1" },
		"no lease":              func(i *discovery.Instance) { i.Lease = 0 },
		"no such service":       func(i *discovery.Instance) { i.Service, i.Part = "ratelimiter", "ratelimiter" },
		"another's part":        func(i *discovery.Instance) { i.Part = "meter" },
	} {
		i := good
		edit(&i)
		if _, err := discovery.NewRegistrar(discovery.RegistrarConfig{Instance: i}); err == nil {
			t.Errorf("%s: want an error", name)
		}
	}
	if _, err := discovery.NewRegistrar(discovery.RegistrarConfig{Instance: good}); err != nil {
		t.Error(err)
	}
}
