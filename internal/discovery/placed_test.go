package discovery

import (
	"slices"
	"strings"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/netaddr"
)

// TestPlaced: what Kubernetes says stands in place of the file, and beside what processes say of themselves.
func TestPlaced(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		tell func(*story)
		want string
	}{
		"pods in place of the file": {func(s *story) { s.places("10.0.0.1:1=serving", "10.0.0.2:1=serving") }, "10.0.0.1:1*1@k 10.0.0.2:1*1@k"},
		"one of them is of the file": {func(s *story) { s.places("127.0.0.1:1=serving", "10.0.0.2:1=serving") },
			"127.0.0.1:1*1@k 10.0.0.2:1*1@k"},
		"none is ready": {func(s *story) { s.places("10.0.0.1:1=unready") }, "127.0.0.1:1*1@ 127.0.0.1:2*1@"},
		"all end":       {func(s *story) { s.places("10.0.0.1:1=leaving") }, "127.0.0.1:1*1@ 127.0.0.1:2*1@"},
		"all are gone": {func(s *story) {
			s.places("10.0.0.1:1=serving")
			s.places()
		}, "127.0.0.1:1*1@ 127.0.0.1:2*1@"},
		"one ends": {func(s *story) { s.places("10.0.0.1:1=leaving", "10.0.0.2:1=serving") }, "10.0.0.2:1*1@k"},
		"it says itself that it ends": {func(s *story) {
			s.places("10.0.0.1:1=serving", "10.0.0.2:1=serving")
			s.says("ratelimit-2", "there", "10.0.0.1:1", Leaving)
		}, "10.0.0.2:1*1@k"},
		"it says itself what its weight is": {func(s *story) {
			s.places("10.0.0.1:1=serving")
			s.says("ratelimit-2", "there", "10.0.0.1:1", Serving)
		}, "10.0.0.1:1*3@b"},
		"an address that another had before": {func(s *story) {
			s.says("ratelimit-2", "there", "10.0.0.1:1", Serving)
			s.book.left(s.now, "ratelimit.there.ratelimit-2")
			s.places("10.0.0.1:1=serving")
		}, "10.0.0.1:1*1@k"},
		"NATS is away": {func(s *story) {
			s.places("10.0.0.1:1=serving")
			s.passes(lease, false)
		}, "10.0.0.1:1*1@k"},
		"a name, a socket and no port": {func(s *story) { s.places("pod.example:1=serving", "unix:/pod=serving", "10.0.0.1:0=serving") },
			"127.0.0.1:1*1@ 127.0.0.1:2*1@"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := tell(t, true)
			c.tell(s)
			if got := strings.Join(s.at("127.0.0.1:1", "127.0.0.1:2"), " "); got != c.want {
				t.Errorf("want %q, got %q", c.want, got)
			}
		})
	}
}

// TestPlacedIsShown, and is a change that Envoys get.
func TestPlacedIsShown(t *testing.T) {
	t.Parallel()
	s := tell(t, false)
	before := s.book.Number()
	s.places("10.0.0.1:1=unready", "10.0.0.2:1=serving")
	if got := s.book.List(); len(got) != 2 || got[0].Service != "ratelimit" || s.book.Number() == before {
		t.Errorf("%+v, change %d after %d", got, s.book.Number(), before)
	}
	at := s.book.At("ratelimit")
	if want := (netaddr.Addr{Network: "tcp", Host: "10.0.0.2", Port: 1}); len(at) != 1 || at[0].Addr != want {
		t.Errorf("want who serves, got %+v", at)
	}
	if slices.Contains(s.at("unix:/one"), "10.0.0.2:1*1@k") {
		t.Error("a pod stands beside a socket")
	}
}
