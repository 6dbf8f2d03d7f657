package discovery

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/netaddr"
)

const lease = 5 * time.Second

// story is a book and what becomes of its processes.
type story struct {
	t    *testing.T
	book book
	now  time.Time
}

func tell(t *testing.T, far bool) *story {
	t.Helper()
	return &story{t, newBook(TrackerConfig{Site: "here", Far: far, Log: slog.New(slog.DiscardHandler)}), time.Unix(1e9, 0)}
}

func (s *story) says(part, site, address string, state State) {
	s.t.Helper()
	text, err := json.Marshal(Instance{Address: address, Weight: 3, Zone: "b", State: state, Lease: lease})
	if err != nil {
		s.t.Fatal(err)
	}
	s.book.take(s.now, "ratelimit."+site+"."+part, text, false)
}

func (s *story) passes(d time.Duration, connected bool) {
	s.now = s.now.Add(d)
	s.book.look(s.now, connected)
}

// places has another say who serves the service: ADDRESS=STATE each.
func (s *story) places(all ...string) {
	var instances []Instance
	for _, text := range all {
		address, state, _ := strings.Cut(text, "=")
		instances = append(instances, Instance{Site: Kubernetes, Part: "pod", Address: address, Weight: 1, Zone: "k", State: State(state)})
	}
	s.book.Place("ratelimit", instances)
}

// at are the endpoints beside the file's, as ADDRESS*WEIGHT@ZONE.
func (s *story) at(file ...string) []string {
	s.t.Helper()
	var addrs []netaddr.Addr
	for _, text := range file {
		a, err := netaddr.Parse(text)
		if err != nil {
			s.t.Fatal(err)
		}
		addrs = append(addrs, a)
	}
	var all []string
	for _, e := range s.book.Endpoints("ratelimit", addrs) {
		all = append(all, fmt.Sprintf("%s*%d@%s", strings.TrimPrefix(e.Addr.String(), "unix:/"), e.Weight, e.Zone))
	}
	return all
}

func TestEndpoints(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		tell func(*story)
		want string
	}{
		"nobody said anything": {func(*story) {}, "one*1@ two*1@"},
		"one of the file":      {func(s *story) { s.says("ratelimit-2", "here", "unix:/two", Serving) }, "one*1@ two*3@b"},
		"one that the file does not name": {func(s *story) { s.says("ratelimit-3", "here", "unix:/three", Serving) },
			"one*1@ two*1@ three*3@b"},
		"of another service's name": {func(s *story) { s.says("identity-3", "here", "unix:/three", Serving) }, "one*1@ two*1@"},
		"at another machine":        {func(s *story) { s.says("ratelimit-3", "there", "unix:/three", Serving) }, "one*1@ two*1@"},
		"on a port beside sockets":  {func(s *story) { s.says("ratelimit-3", "here", "127.0.0.1:9", Serving) }, "one*1@ two*1@"},
		"nonsense":                  {func(s *story) { s.says("ratelimit-2", "here", "unix:two", Leaving) }, "one*1@ two*1@"},
		"leaving": {func(s *story) {
			s.says("ratelimit-2", "here", "unix:/two", Serving)
			s.says("ratelimit-2", "here", "unix:/two", Leaving)
		}, "one*1@"},
		"left, and its lease is over": {func(s *story) {
			s.says("ratelimit-2", "here", "unix:/two", Serving)
			s.book.left(s.now, "ratelimit.here.ratelimit-2")
			s.passes(time.Hour, true)
			s.passes(time.Hour, true)
		}, "one*1@"},
		"and back": {func(s *story) {
			s.says("ratelimit-2", "here", "unix:/two", Leaving)
			s.says("ratelimit-2", "here", "unix:/two", Serving)
		}, "one*1@ two*3@b"},
		"not heard for less than its lease": {func(s *story) {
			s.says("ratelimit-2", "here", "unix:/two", Serving)
			s.passes(lease-1, true)
		}, "one*1@ two*3@b"},
		"not heard for its lease": {func(s *story) {
			s.says("ratelimit-2", "here", "unix:/two", Serving)
			s.passes(lease, true)
		}, "one*1@"},
		"at another address after a restart": {func(s *story) {
			s.says("ratelimit-3", "here", "unix:/three", Serving)
			s.says("ratelimit-3", "here", "unix:/four", Serving)
		}, "one*1@ two*1@ four*3@b"},
		"unready beside one that serves": {func(s *story) { s.says("ratelimit-2", "here", "unix:/two", Unready) }, "one*1@"},
		"nobody is ready": {func(s *story) {
			s.says("ratelimit", "here", "unix:/one", Unready)
			s.says("ratelimit-2", "here", "unix:/two", Unready)
			s.says("ratelimit-3", "here", "unix:/three", Leaving)
		}, "one*3@b two*3@b"},
		"nobody is heard": {func(s *story) {
			s.says("ratelimit", "here", "unix:/one", Serving)
			s.says("ratelimit-2", "here", "unix:/two", Leaving)
			s.says("ratelimit-3", "here", "unix:/three", Serving)
			s.passes(time.Hour, true)
		}, "one*3@b three*3@b"},
		"all leave": {func(s *story) {
			s.says("ratelimit", "here", "unix:/one", Leaving)
			s.says("ratelimit-2", "here", "unix:/two", Leaving)
		}, "one*1@ two*1@"},
		"NATS is away": {func(s *story) {
			s.says("ratelimit-2", "here", "unix:/two", Serving)
			s.says("ratelimit-3", "here", "unix:/three", Serving)
			s.passes(time.Hour, false)
		}, "one*1@ two*3@b three*3@b"},
		"NATS is away, and who was lost may be back": {func(s *story) {
			s.says("ratelimit-2", "here", "unix:/two", Serving)
			s.passes(lease, true)
			s.passes(time.Hour, false)
		}, "one*1@ two*3@b"},
		"NATS is back": {func(s *story) {
			s.says("ratelimit-2", "here", "unix:/two", Serving)
			s.passes(time.Hour, false)
			s.passes(0, true)
			s.passes(lease+returning-1, true)
		}, "one*1@ two*3@b"},
		"NATS is back, and somebody is not": {func(s *story) {
			s.says("ratelimit-2", "here", "unix:/two", Serving)
			s.passes(time.Hour, false)
			s.passes(0, true)
			s.passes(lease+returning, true)
		}, "one*1@"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := tell(t, false)
			c.tell(s)
			if got := strings.Join(s.at("unix:/one", "unix:/two"), " "); got != c.want {
				t.Errorf("want %s, got %s", c.want, got)
			}
		})
	}
}

// TestWhoIsLostTogetherIsOneLine: where NATS hangs, all are.
func TestWhoIsLostTogetherIsOneLine(t *testing.T) {
	t.Parallel()
	s, log := tell(t, false), &strings.Builder{}
	s.book.log = slog.New(slog.NewTextHandler(log, nil))
	for _, part := range []string{"ratelimit-3", "ratelimit", "ratelimit-2"} {
		s.says(part, "here", "unix:/"+part, Serving)
		s.now = s.now.Add(together / 4)
	}
	log.Reset()
	for range 50 {
		s.passes(lease/25, true)
	}
	if n := strings.Count(log.String(), "\n"); n != 1 || !strings.Contains(log.String(), `parts="[ratelimit of here ratelimit-2 of here ratelimit-3 of here]"`) {
		t.Errorf("want one line that names three, got %d:\n%s", n, log)
	}
}

// TestOtherMachinesMustShowACertificate: else whoever reaches NATS could have requests sent anywhere.
func TestOtherMachinesMustShowACertificate(t *testing.T) {
	t.Parallel()
	for far, want := range map[bool]string{false: "127.0.0.1:1*3@b", true: "127.0.0.1:1*3@b 10.0.0.9:1*3@b"} {
		s := tell(t, far)
		s.says("ratelimit-2", "there", "10.0.0.9:1", Serving)
		s.says("ratelimit-3", "there", "127.0.0.1:9", Serving)
		for i := range 2 * maxElsewhere {
			s.says("ratelimit", fmt.Sprint("site-", i), "10.0.0.9:1", Serving)
		}
		s.says("ratelimit", "here", "127.0.0.1:1", Unready)
		s.says("ratelimit", "here", "127.0.0.1:1", Serving)
		if n := len(s.book.List()); n > maxElsewhere+1 {
			t.Errorf("far %v: want no more than %d remembered, got %d", far, maxElsewhere+1, n)
		}
		if got := strings.Join(s.at("127.0.0.1:1"), " "); got != want {
			t.Errorf("far %v: want %s, got %s", far, want, got)
		}
	}
}

// TestWhoLeavesWaitsForEnvoys and for nothing else.
func TestWhoLeavesWaitsForEnvoys(t *testing.T) {
	t.Parallel()
	s := tell(t, false)
	var told []string
	asks := func(part string) {
		s.book.leave("ratelimit.here."+part, func() { told = append(told, part) })
	}
	asks("ratelimit-9")
	s.says("ratelimit-2", "here", "unix:/two", Serving)
	before := s.book.Number()
	asks("ratelimit-2")
	s.book.Published(before)
	if !slices.Equal(told, []string{"ratelimit-9"}) {
		t.Fatalf("want only who is not known told, got %v", told)
	}
	s.book.Published(s.book.Number())
	s.says("ratelimit-3", "here", "unix:/three", Leaving)
	s.book.Published(s.book.Number())
	asks("ratelimit-3")
	if !slices.Equal(told, []string{"ratelimit-9", "ratelimit-2", "ratelimit-3"}) {
		t.Errorf("want each told once Envoys know, got %v", told)
	}
}

// FuzzParse: whatever stands in the bucket, an address that is taken is one that an Envoy takes.
func FuzzParse(f *testing.F) {
	f.Add("ratelimit.here.ratelimit-2", []byte(`{"address":"unix:/a","weight":1,"state":"serving","leaseNanos":5000000000}`))
	f.Add("identity.here.identity", []byte(`{"address":"[::1]:80","weight":100,"zone":"eu-1","state":"leaving","leaseNanos":1000000000}`))
	f.Add("ratelimit.here.identity", []byte(`{"address":"host:80","service":"identity"}`))
	f.Fuzz(func(t *testing.T, key string, value []byte) {
		i, err := parse(key, value)
		if err != nil {
			return
		}
		a, err := i.addr()
		if err != nil || a.Named() || a.Network == "tcp" && (a.Port < 1 || a.Port > 65535) || a.Network == "unix" && len(a.Path) > 107 {
			t.Errorf("took %+v: %v", i, err)
		}
		if i.Service == "" || i.key() != key || i.Weight == 0 || i.Lease <= 0 || len(i.Zone) > 64 {
			t.Errorf("took %+v of key %q", i, key)
		}
	})
}
