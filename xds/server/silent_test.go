package server_test

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/xds/server"
)

// changing is a server whose changes come one after the other, as fast as an Envoy takes them.
type changing struct {
	server *server.Server
	quick  *fakeEnvoy
	newer  chan struct{} // closed by the next change
}

// newChanging has one Envoy that answers, and as many as are asked for that take everything and never
// answer. For those each change would be waited for for an hour.
func newChanging(t *testing.T, silent int) *changing {
	t.Helper()
	s, err := server.New(server.Config{Log: slog.New(slog.DiscardHandler), Patience: time.Hour, Linger: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	publish(t, s, snap(t, "table-0", "cluster-0"))
	at := serve(t, s)
	c := &changing{server: s, quick: connect(t, at, "quick"), newer: make(chan struct{})}
	go c.quick.run()
	c.quick.next(t)
	c.quick.next(t)
	for i := range silent {
		e := connect(t, at, fmt.Sprint("silent-", i))
		if _, err := e.stream.Recv(); err != nil {
			t.Fatal(err)
		}
		go func() {
			for {
				if _, err := e.stream.Recv(); err != nil {
					return
				}
			}
		}()
	}
	return c
}

// change makes the nth one and gives the time until the Envoy that answers has all of it.
func (c *changing) change(t *testing.T, n int) time.Duration {
	t.Helper()
	next, begun := snap(t, fmt.Sprint("table-", n), fmt.Sprint("cluster-", n)), time.Now()
	close(c.newer)
	c.newer = make(chan struct{})
	go func(newer <-chan struct{}) { _ = c.server.Publish(t.Context(), next, newer) }(c.newer)
	told := drain(t, c.quick, "RouteConfiguration +gateway")
	if !slices.ContainsFunc(told, func(s string) bool { return strings.Contains(s, fmt.Sprintf("+cluster-%d", n)) }) {
		t.Errorf("change %d: want its cluster before its routes, got %q", n, told)
	}
	return time.Since(begun)
}

// TestSilentEnvoysCostTheOthersLittle: of twenty changes each reaches the Envoy that answers while the
// silent ones are still waited for, and half of them within 100 ms of when it had them without those,
// measured in turn.
func TestSilentEnvoysCostTheOthersLittle(t *testing.T) {
	t.Parallel()
	alone, beside := newChanging(t, 0), newChanging(t, 3)
	const changes = 20
	var longer []time.Duration
	for n := 1; n <= changes; n++ {
		without := alone.change(t, n)
		longer = append(longer, beside.change(t, n)-without)
	}
	slices.Sort(longer)
	t.Logf("with silent ones: median %v later, at most %v", longer[changes/2], longer[changes-1])
	if longer[changes/2] >= 100*time.Millisecond {
		t.Errorf("want a median below 100 ms beside the same without, got %v", longer[changes/2])
	}
}
