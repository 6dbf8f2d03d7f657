package lease

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
)

// said is a log that a test reads.
type said struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write implements io.Writer.
func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *said) has(text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Contains(s.text.String(), text)
}

// kept is a keeper that runs on a Redis of its own.
type kept struct {
	*Keeper
	server *testenv.RedisProcess
	log    *said
	stop   func()
}

// keep starts a keeper on the server, which it finds at the address and waits for so long.
func keep(t *testing.T, server *testenv.RedisProcess, address string, patience time.Duration) *kept {
	t.Helper()
	s, err := store.New(store.Config{URL: address, Lifetime: time.Hour, SettledKept: time.Hour, Timeout: patience, DialTimeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	testenv.Eventually(t, "redis", func() bool { return s.Ping(t.Context()) == nil }) // and a connection is there
	k := &kept{server: server, log: &said{}}
	k.Keeper = New(Config{Store: s, Tokens: 200, Requests: 32, Idle: time.Hour, Timeout: 10 * time.Second,
		Log: slog.New(slog.NewTextHandler(k.log, nil)), Metrics: prometheus.NewRegistry()})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		k.Run(ctx)
	}()
	k.stop = func() { cancel(); <-ended }
	t.Cleanup(k.stop)
	return k
}

// call is one of Ann's, under a limit of tokens and one of requests.
func call() *store.Take {
	return &store.Take{Account: "user:ann", ID: uuid.NewString(), Requests: 1, Output: 10, Buckets: []bucket.Bucket{
		{Limit: bucket.NewLimit(bucket.Tokens, bucket.Params{Capacity: 1000}), Key: "{user:ann}:b:tokens"},
		{Limit: bucket.NewLimit(bucket.Requests, bucket.Params{Capacity: 1000}), Key: "{user:ann}:b:requests"}}}
}

// holds reports whether this is held in Redis.
func (k *kept) holds(t *testing.T, tokens, requests float64) bool {
	t.Helper()
	seen, err := k.store.ReadState(t.Context(), "user:ann", nil, call().Buckets)
	return err == nil && seen.States[0].Held == tokens && seen.States[1].Held == requests
}

// books waits until Redis answers and this is held there.
func (k *kept) books(t *testing.T, tokens, requests float64) {
	t.Helper()
	testenv.Eventually(t, fmt.Sprintf("%g tokens and %g requests held", tokens, requests), func() bool { return k.holds(t, tokens, requests) })
}

// ready reports whether calls of this kind have a lease that is ready; is tells whether there is one at all.
func (k *kept) ready(t *store.Take) (is, ready bool) {
	k.leases.mu.Lock()
	defer k.leases.mu.Unlock()
	one := k.leases.byKey[keyOf(t)]
	return one != nil, one != nil && one.ready
}

// leased waits until a lease for such calls is ready.
func (k *kept) leased(t *testing.T, of *store.Take) {
	t.Helper()
	testenv.Eventually(t, "a lease", func() bool { _, ready := k.ready(of); return ready })
}

// losing relays connections to a Redis, and cuts them instead of passing on one answer. It gives the
// address, and what arms it: the answers that pass before.
func losing(t *testing.T, server *testenv.RedisProcess) (address string, lose func(after int64)) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var passes atomic.Int64
	var group sync.WaitGroup
	t.Cleanup(func() { ln.Close(); group.Wait() })
	passes.Store(-1)
	relay := func(client, redis net.Conn) {
		defer client.Close()
		defer redis.Close()
		group.Go(func() { // ends with the client's connection, and ends the other
			defer redis.Close()
			_, _ = io.Copy(redis, client)
		})
		answer := make([]byte, 64<<10)
		for {
			n, err := redis.Read(answer)
			if err != nil || passes.Load() >= 0 && passes.Add(-1) == -1 {
				return
			}
			if _, err := client.Write(answer[:n]); err != nil {
				return
			}
		}
	}
	group.Go(func() {
		for {
			client, err := ln.Accept()
			if err != nil {
				return
			}
			redis, err := net.Dial("tcp", strings.TrimPrefix(server.URL(), "redis://"))
			if err != nil {
				client.Close()
				continue
			}
			group.Go(func() { relay(client, redis) })
		}
	})
	return "redis://" + ln.Addr().String(), passes.Store
}

// TestALeaseWhoseAnswerIsLostIsUsed: the second try finds what the first took.
func TestALeaseWhoseAnswerIsLostIsUsed(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		after        int64
		unrecorded   bool
		tokens       float64
		leasedTokens float64
	}{
		"of the tokens":          {after: 0, tokens: 200, leasedTokens: 200},
		"of the requests":        {after: 1, tokens: 200, leasedTokens: 200},
		"of requests that count": {after: 0, unrecorded: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := testenv.RedisServer(t)
			address, lose := losing(t, server)
			k := keep(t, server, address, 10*time.Second)
			one := call()
			if tc.unrecorded { // of another Envoy's: only its requests are counted
				one.ID, one.Buckets = "", one.Buckets[1:]
			}
			lose(tc.after)
			k.Observe(one, store.Admitted)
			k.leased(t, one)
			k.books(t, tc.tokens, 32)
			if got := k.leases.leasedTokens(); got != tc.leasedTokens {
				t.Errorf("want %g tokens leased, got %g", tc.leasedTokens, got)
			}
			if _, ok := k.Admit(config.OutageLease, *one); !ok {
				t.Error("want a call admitted of the lease")
			}
			k.stop()
			left := 0.0 // the call that was admitted is written down, and holds its own
			if !tc.unrecorded {
				left = 10
			}
			k.books(t, left, 0)
		})
	}
}

// TestALeaseThatAFrozenRedisTookIsGivenBack: no try had an answer, and what lay in the server's sockets
// is executed when it goes on.
func TestALeaseThatAFrozenRedisTookIsGivenBack(t *testing.T) {
	t.Parallel()
	server := testenv.RedisServer(t)
	k := keep(t, server, server.URL(), 200*time.Millisecond)
	client := server.Client()
	server.Freeze()
	one := call()
	k.Observe(one, store.Admitted)
	testenv.Eventually(t, "the lease given up", func() bool { is, _ := k.ready(one); return !is })
	server.Thaw()
	testenv.Eventually(t, "the command executed", func() bool {
		info, err := client.Info(t.Context(), "commandstats").Result()
		return err == nil && strings.Contains(info, "cmdstat_evalsha:")
	})
	k.books(t, 0, 0)
	testenv.Eventually(t, "a new lease", func() bool {
		k.Observe(one, store.Admitted)
		_, ready := k.ready(one)
		return ready
	})
	k.books(t, 200, 32)
}

// TestALeaseThatCouldNotBeGivenBackIsTriedAgain until Redis has answered, at last when the service ends.
func TestALeaseThatCouldNotBeGivenBackIsTriedAgain(t *testing.T) {
	t.Parallel()
	for name, ends := range map[string]bool{"while it runs": false, "when it ends": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := testenv.RedisServer(t)
			k := keep(t, server, server.URL(), 10*time.Second)
			one := call()
			k.Observe(one, store.Admitted)
			k.leased(t, one)
			k.books(t, 200, 32)
			server.Kill()
			k.Observe(one, store.Refused)
			testenv.Eventually(t, "Redis missed", func() bool { return k.log.has("not given back") })
			server.Restart()
			if ends {
				testenv.Eventually(t, "redis", func() bool { return k.holds(t, 200, 32) || k.holds(t, 0, 0) })
				k.stop()
			}
			k.books(t, 0, 0)
		})
	}
}

// TestWhatWaitsToBeGivenBackIsBounded while Redis is away.
func TestWhatWaitsToBeGivenBackIsBounded(t *testing.T) {
	t.Parallel()
	s, err := store.New(store.Config{URL: "redis://127.0.0.1:1", Lifetime: time.Hour, SettledKept: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var log said
	k := New(Config{Store: s, Timeout: time.Second, Log: slog.New(slog.NewTextHandler(&log, nil)), Metrics: prometheus.NewRegistry()})
	k.owed = make([]store.Revocation, mostOwed-1)
	k.revoke(t.Context(), make([]store.Revocation, 2))
	if len(k.owed) != mostOwed || !log.has("too many") {
		t.Errorf("want %d and word of what is left out, got %d", mostOwed, len(k.owed))
	}
	k.owed = k.owed[:3*atOnce+1]
	k.giveBackOwed(t.Context())
	if len(k.owed) != 3*atOnce+1 {
		t.Errorf("want all kept for the next try, got %d", len(k.owed))
	}
}
