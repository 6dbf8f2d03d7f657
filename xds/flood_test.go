package xds_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/envoy"
	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// resident is how much memory Envoy has, in bytes.
func (g *gateway) resident(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile("/proc/" + strconv.Itoa(g.envoy.PID) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return kib << 10
}

// descriptors is how many file descriptors Envoy has open.
func (g *gateway) descriptors(t *testing.T) int {
	t.Helper()
	files, err := os.ReadDir("/proc/" + strconv.Itoa(g.envoy.PID) + "/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}

// unfinished is a body that says it has size bytes and never sends the last.
type unfinished struct {
	left int
	end  <-chan struct{}
}

func (u *unfinished) Read(p []byte) (int, error) {
	if u.left <= 1 {
		<-u.end
		return 0, io.ErrUnexpectedEOF
	}
	n := min(len(p), u.left-1)
	for i := range n {
		p[i] = ' '
	}
	u.left -= n
	return n, nil
}

// flood is a number of calls that never end, and what was answered to them.
type flood struct {
	mu       sync.Mutex
	statuses map[int]int
	stop     func()
}

func (f *flood) answered(status int) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.statuses[status]
}

// bodies sends n calls of a caller over one HTTP/2 connection, each with all but the last of size
// bytes.
func (g *gateway) bodies(t *testing.T, key string, n, size int) *flood {
	t.Helper()
	var h2 http.Protocols
	h2.SetUnencryptedHTTP2(true)
	client := &http.Client{Transport: &http.Transport{Protocols: &h2}}
	ctx, cancel := context.WithCancel(t.Context())
	f := &flood{statuses: map[int]int{}}
	var running sync.WaitGroup
	for range n {
		running.Go(func() {
			r, err := http.NewRequestWithContext(ctx, http.MethodPost, g.url+chatPath, &unfinished{left: size, end: ctx.Done()})
			if err != nil {
				t.Error(err)
				return
			}
			r.ContentLength = int64(size)
			r.Header.Set("Authorization", key)
			r.Header.Set("Content-Type", "application/json")
			resp, err := client.Do(r)
			if err != nil {
				return // ended by the test, or reset
			}
			resp.Body.Close()
			f.mu.Lock()
			f.statuses[resp.StatusCode]++
			f.mu.Unlock()
		})
	}
	f.stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		client.CloseIdleConnections()
	})
	t.Cleanup(f.stop)
	return f
}

// served wants each of n calls of another caller answered.
func (g *gateway) served(t *testing.T, n int) {
	t.Helper()
	for i := range n {
		if a := g.do(t, "POST", chatPath, body(""), "Authorization", otherKey+" one"); a.status != 200 {
			t.Fatalf("call %d of another caller: want 200, got %d %s", i, a.status, a.body)
		}
	}
}

// TestBodiesOfOneCallerAreBounded: a hundred unfinished bodies on one connection.
func TestBodiesOfOneCallerAreBounded(t *testing.T) {
	t.Parallel()
	const size, most = 4_190_000, 8
	g := start(t, func(c *config.Config) { c.Gateway.MaxBodyBytes, c.Gateway.InflightBytes = 4<<20, 0 }, nil)
	g.served(t, 20)
	quiet := g.resident(t)
	f := g.bodies(t, goodKey, 100, size)
	testenv.Eventually(t, "the calls above the bound are refused", func() bool { return f.answered(429) == 100-most })
	g.served(t, 100)
	if grown, bound := g.resident(t)-quiet, most*size+16<<20; grown > bound {
		t.Errorf("want Envoy to grow by at most %d bytes, got %d", bound, grown)
	}
	if a := g.do(t, "POST", chatPath, body(`,"x":"`+strings.Repeat("y", 1<<20)+`"`)); a.status != 429 || !strings.Contains(a.body, "parallel") ||
		a.header.Get("retry-after") == "" {
		t.Errorf("want the caller's next body refused, got %d %s", a.status, a.body)
	}
	f.stop() // nobody says so to the script that counts
	testenv.Eventually(t, "the bodies that were given up count no more", func() bool {
		return g.do(t, "POST", chatPath, body(`,"x":"`+strings.Repeat("y", 3<<20)+`"`)).status == 200
	})
}

// TestBodiesOfAllAreBounded: callers who each stay below their share are too many for the memory.
func TestBodiesOfAllAreBounded(t *testing.T) {
	t.Parallel()
	const heap, program = 200 << 20, 100 << 20
	g := startWith(t, func(g *gateway, c *config.Config) {
		g.bounds, c.Envoy.MaxHeap, c.Envoy.Concurrency = envoy.Bounds{Heap: heap}, heap, 1
	}, nil)
	g.served(t, 20)
	const callers, each, size = 24, 8, 4_190_000
	refused := func(floods []*flood) (n int) {
		for _, f := range floods {
			n += f.answered(429)
		}
		return n
	}
	var floods []*flood
	for i := range callers {
		floods = append(floods, g.bodies(t, otherKey+strconv.Itoa(i), each, size))
	}
	testenv.Eventually(t, "the bodies that are too many are refused", func() bool { return refused(floods) == callers*each-heap/2/size })
	g.served(t, 200)
	if got := g.resident(t); got > heap/2+program {
		t.Errorf("want at most %d bytes, got %d", heap/2+program, got)
	}
}

// TestAFullHeap: the streams that hold most are reset, and it is over when the flood is.
func TestAFullHeap(t *testing.T) {
	t.Parallel()
	g := startWith(t, func(g *gateway, c *config.Config) {
		g.bounds, c.Envoy.MaxHeap = envoy.Bounds{Heap: 100 << 20}, 1<<30 // as if something else filled the heap
	}, nil)
	g.served(t, 20)
	var floods []*flood
	for i := range 4 {
		floods = append(floods, g.bodies(t, otherKey+strconv.Itoa(i), 8, 4_190_000))
	}
	testenv.Eventually(t, "streams are reset", func() bool { return g.envoy.Stat(t, "envoy.overload_actions.reset_high_memory_stream.count") > 0 })
	for _, f := range floods {
		f.stop()
	}
	testenv.Eventually(t, "calls are taken again", func() bool {
		a := g.do(t, "POST", chatPath, body(""))
		if a.status != 200 {
			checkShape(t, a, "openai", "server_error", "", chatPath)
		}
		return a.status == 200
	})
}

// TestSilentConnections take no place for longer than the first byte may take.
func TestSilentConnections(t *testing.T) {
	t.Parallel()
	const most = 200
	g := startWith(t, func(g *gateway, _ *config.Config) { g.bounds = envoy.Bounds{Connections: most} }, nil) // and no bound on how fast
	g.served(t, 5)
	var silent []net.Conn
	for range 2 * most {
		conn, err := net.Dial("tcp", strings.TrimPrefix(g.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		silent = append(silent, conn)
	}
	g.served(t, 100) // on the connection that is open
	if files := g.descriptors(t); files > most+100 {
		t.Errorf("want clients to have %d descriptors at most, got %d with Envoy's own", most, files)
	}
	for i, conn := range silent {
		_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := conn.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
			t.Fatalf("connection %d: want it closed, got %v", i, err)
		}
	}
	g.client.CloseIdleConnections()
	g.served(t, 5)
}

// TestAFloodOfConnectionsLeavesPlaces: silent ones get half of them, whoever says something the rest.
func TestAFloodOfConnectionsLeavesPlaces(t *testing.T) {
	t.Parallel()
	const most = 400
	g := startWith(t, func(g *gateway, c *config.Config) {
		g.bounds, c.Envoy.Connections = envoy.Bounds{Connections: most}, most
	}, nil)
	g.served(t, 5)
	own := g.descriptors(t)
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	t.Cleanup(running.Wait)
	t.Cleanup(stop)
	for range 8 {
		running.Go(func() { floodConnections(ctx, g.url) })
	}
	testenv.Eventually(t, "connections are turned away", func() bool {
		return g.envoy.Stat(t, "listener_local_ratelimit.accepts.rate_limited") > 2*most
	})
	for range 20 {
		if open := g.descriptors(t) - own; open > most/2+most/8 {
			t.Errorf("want silent connections to take half of the %d places, got %d", most, open)
		}
		g.served(t, 5) // on the connection that is open
	}
	fresh := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	testenv.Eventually(t, "new connections come through meanwhile", func() bool {
		resp, err := fresh.Get(g.url + "/actuator/health")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

// floodConnections opens silent connections as fast as it can until ctx ends.
func floodConnections(ctx context.Context, url string) {
	var dialer net.Dialer
	for ctx.Err() == nil {
		conn, err := dialer.DialContext(ctx, "tcp", strings.TrimPrefix(url, "http://"))
		if err != nil {
			continue
		}
		context.AfterFunc(ctx, func() { conn.Close() })
		go func() {
			_, _ = conn.Read(make([]byte, 1)) // until Envoy ends it
			conn.Close()
		}()
	}
}

// TestIPv6AddressesCountByNetwork: who has one address of a /64 has them all.
func TestIPv6AddressesCountByNetwork(t *testing.T) {
	t.Parallel()
	g := start(t, func(c *config.Config) {
		c.Gateway.TrustedHops = 1
		c.Limits.File = limitsFile(t, "domain: leaky\ndescriptors:\n  - key: count\n    value: requests\n    descriptors:\n"+
			"      - {key: remote_address, rate_limit: {unit: minute, requests_per_unit: 5}}\n")
	}, nil)
	for sent, want := range map[string]string{
		"203.0.113.7":           "203.0.113.7",
		"2001:db8:1:2:3:4:5:6":  "2001:db8:1:2::/64",
		"2001:db8:1:2:ffff::99": "2001:db8:1:2::/64",
		"2001:db8:1:3::1":       "2001:db8:1:3::/64",
		"::ffff:203.0.113.7":    "::ffff:203.0.113.7",
		"::1":                   "::/64",
	} {
		if a := g.do(t, "GET", "/api/v1/me", "", "X-Forwarded-For", sent, "X-Leaky-Network", "forged"); a.status != 200 {
			t.Fatalf("%s: want 200, got %+v", sent, a)
		}
		if got := g.limit.last(); len(got) != 1 || got[0] != "count=requests,remote_address="+want {
			t.Errorf("%s: want %s, got %v", sent, want, got)
		}
	}
}
