package xds_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// storm is how much there is of each in a run of pushUnderLoad, at least.
type storm struct {
	pushes         int
	calls, streams int64
	clients        int // that call, and as many again that stream
	longest        int // of the streams, in chunks of a tenth of a second
}

// TestPushesUnderLoadLoseNothing is the small one of its kind; push_long_test.go has the large.
func TestPushesUnderLoadLoseNothing(t *testing.T) {
	t.Parallel()
	pushUnderLoad(t, storm{pushes: 15, calls: 300, streams: 8, clients: 4, longest: 65})
}

// pushUnderLoad changes all that a running gateway can change, again and again, while clients call
// and stream without a pause: nothing fails and nothing is cut.
func pushUnderLoad(t *testing.T, s storm) {
	t.Helper()
	l := newLayout(t)
	load := l.load(s)
	kinds := l.changes(t)
	made := map[string]int{}
	for n := range s.pushes {
		kind := kinds[n%len(kinds)]
		made[kind.name]++
		part := float64(n+1) / float64(s.pushes)
		load.await(t, int64(part*float64(s.calls)), int64(part*float64(s.streams)))
		before := l.g.status(t)
		kind.change()
		testenv.Eventually(t, kind.name+" is live", func() bool {
			now := l.g.status(t)
			if now.Refused != nil && now.Refused.Content != "" && now.Refused.At.After(before.Since) {
				t.Fatalf("%s: refused: %s", kind.name, now.Refused.Reason)
			}
			return now.Version != before.Version
		})
	}
	failed := load.stop()
	t.Logf("%d pushes %v; %d JSON calls and %d streams, %d failed; answers of %v", total(made), made, load.calls.Load(), load.streams.Load(),
		len(failed), load.answered())
	if len(failed) > 0 {
		t.Errorf("want nothing failed and nothing cut, got %d, the first: %q", len(failed), failed[:min(len(failed), 5)])
	}
	if len(load.answered()) != 3 {
		t.Errorf("want answers of every provider, got %v", load.answered())
	}
}

func total(counts map[string]int) (sum int) {
	for n := range maps.Values(counts) {
		sum += n
	}
	return sum
}

// layout is what leaky.yaml says at a time.
type layout struct {
	g    *gateway
	path string
	pair [2]string // URLs of the provider that moves
	last string    // URL of the other one

	moved    int // which of pair
	other    bool
	bodies   int // gateway.max_body_bytes beyond the usual
	renewed  int // certificates so far
	replicas map[string]*instance
}

// instance is a second process of a service, in so far as Envoy sees one.
type instance struct {
	server *grpc.Server
	socket string
	count  int
}

// newLayout starts a gateway with TLS, two providers and two processes of each service that is asked
// for every call.
func newLayout(t *testing.T) *layout {
	t.Helper()
	l := &layout{replicas: map[string]*instance{"extauthz": {}, "ratelimit": {}}}
	l.pair, l.last = [2]string{chunked(t, "one"), chunked(t, "two")}, chunked(t, "three")
	l.g, l.path = fromFile(t, nowhere)
	l.g.limit.set(nil)
	l.renew(t)
	l.restart(t, "extauthz")
	l.restart(t, "ratelimit")
	l.write(t)
	testenv.Eventually(t, "the first of all is live", func() bool {
		_, err := shown(l.g)
		return err == nil
	})
	l.g.url = "https" + strings.TrimPrefix(l.g.url, "http")
	return l
}

// chunked is a provider that answers with its name, at once or in pieces.
func chunked(t *testing.T, name string) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var pieces int
		if _, err := fmt.Sscan(r.Header.Get("X-Stub-Pieces"), &pieces); err != nil {
			w.Header().Set("Content-Type", "application/json")
			time.Sleep(time.Millisecond) // some calls are always under way
			fmt.Fprintf(w, `{"from":%q}`, name)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range pieces {
			fmt.Fprintf(w, "data: {\"piece\":%d}\n\n", i)
			w.(http.Flusher).Flush()
			time.Sleep(100 * time.Millisecond)
		}
		fmt.Fprintf(w, "data: {\"from\":%q}\n\ndata: [DONE]\n\n", name)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func (l *layout) write(t *testing.T) {
	t.Helper()
	provider := "openai"
	if l.other {
		provider = "second"
	}
	rewrite(t, l.path, fmt.Sprintf(`gateway: {listen: "127.0.0.1:0", max_body_bytes: %d, tls: {certificate: tls.crt, key: tls.key}}
auth: {check_timeout: 10s}
limits: {timeout: 10s}
services:
  extauthz: {grpc: "unix:%[2]s/a.sock", replicas: [{http: "127.0.0.1:7001", grpc: "unix:%[3]s"}]}
  ratelimit: {grpc: "unix:%[2]s/r.sock", replicas: [{http: "127.0.0.1:7002", grpc: "unix:%[4]s"}]}
providers:
  openai: {protocol: openai, url: "%[5]s"}
  second: {protocol: openai, url: "%[6]s"}
models:
  - {name: gpt-4o, provider: %[7]s}
`, 1<<20+l.bodies, l.g.dir, l.replicas["extauthz"].socket, l.replicas["ratelimit"].socket, l.pair[l.moved], l.last, provider))
}

// renew puts another certificate into the files.
func (l *layout) renew(t *testing.T) {
	t.Helper()
	l.renewed++
	certificate(t, filepath.Join(l.g.dir, "tls.crt"), filepath.Join(l.g.dir, "tls.key"), fmt.Sprintf("host%d.example", l.renewed),
		time.Now().Add(time.Hour))
}

// restart kills the second process of a service and starts another one elsewhere.
func (l *layout) restart(t *testing.T, service string) {
	t.Helper()
	one := l.replicas[service]
	if one.server != nil {
		one.server.Stop() // its connections end at once, with what is asked on them
	}
	one.count++
	one.socket = filepath.Join(l.g.dir, fmt.Sprintf("%.1s%d.sock", service, one.count))
	ln, err := net.Listen("unix", one.socket)
	if err != nil {
		t.Fatal(err)
	}
	one.server = grpc.NewServer()
	if service == "extauthz" {
		authv3.RegisterAuthorizationServer(one.server, l.g.auth)
	} else {
		rlsv3.RegisterRateLimitServiceServer(one.server, l.g.limit)
	}
	go one.server.Serve(ln)
	t.Cleanup(one.server.Stop)
}

// kind is one way to change a gateway.
type kind struct {
	name   string
	change func()
}

func (l *layout) changes(t *testing.T) []kind {
	t.Helper()
	return []kind{
		{"cluster", func() { l.moved = 1 - l.moved; l.write(t) }},
		{"route", func() { l.other = !l.other; l.write(t) }},
		{"certificate", func() { l.renew(t) }},
		{"ratelimit", func() { l.restart(t, "ratelimit"); l.write(t) }},
		{"extauthz", func() { l.restart(t, "extauthz"); l.write(t) }},
		{"listener", func() { l.bodies = 1 - l.bodies; l.write(t) }},
	}
}

// load are clients that go on until they are stopped.
type load struct {
	url            string
	calls, streams atomic.Int64

	end     chan struct{}
	clients sync.WaitGroup

	mu     sync.Mutex
	failed []string
	from   map[string]int
}

func (l *layout) load(s storm) *load {
	d := &load{url: l.g.url + chatPath, end: make(chan struct{}), from: map[string]int{}}
	for i := range s.clients {
		// HTTP/2, HTTP/1.1, and a connection for each call.
		c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // certificates change
			ForceAttemptHTTP2: i%3 == 0, DisableKeepAlives: i%3 == 2}}
		d.run(c, func() { d.call(c) })
		d.run(c, func() {
			pieces := s.longest
			if i > 0 {
				pieces = 1 + (i*17+int(d.streams.Load())*7)%s.longest
			}
			d.stream(c, pieces)
		})
	}
	return d
}

func (d *load) run(c *http.Client, once func()) {
	d.clients.Go(func() {
		defer c.CloseIdleConnections()
		for {
			select {
			case <-d.end:
				return
			default:
				once()
			}
		}
	})
}

// await waits until so much was done.
func (d *load) await(t *testing.T, calls, streams int64) {
	t.Helper()
	for d.calls.Load() < calls || d.streams.Load() < streams {
		select {
		case <-t.Context().Done():
			t.Fatal("the load does not come to its end")
		case <-time.After(time.Millisecond):
		}
	}
}

// stop ends the load, once what is under way has come to its end, and tells what failed.
func (d *load) stop() []string {
	close(d.end)
	d.clients.Wait()
	return d.failed
}

func (d *load) answered() map[string]int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.from)
}

// count notes who answered; whoever did not end with its name has failed.
func (d *load) count(text string, status int, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, after, _ := strings.Cut(text, `{"from":"`)
	name, _, whole := strings.Cut(after, `"}`)
	if err != nil || status != http.StatusOK || !whole {
		d.failed = append(d.failed, fmt.Sprintf("%d %.300s %v", status, text, err))
		return
	}
	d.from[name]++
}

func (d *load) call(c *http.Client) {
	text, status, err := d.post(c, false, "")
	d.count(text, status, err)
	d.calls.Add(1)
}

// stream takes an answer of so many pieces, all of which must come.
func (d *load) stream(c *http.Client, pieces int) {
	text, status, err := d.post(c, true, fmt.Sprint(pieces))
	if got := strings.Count(text, `"piece"`); err == nil && (got != pieces || !strings.HasSuffix(text, "data: [DONE]\n\n")) {
		err = fmt.Errorf("cut: %d of %d pieces", got, pieces)
	}
	d.count(text, status, err)
	d.streams.Add(1)
}

func (d *load) post(c *http.Client, stream bool, pieces string) (string, int, error) {
	req, err := http.NewRequest("POST", d.url, strings.NewReader(fmt.Sprintf(`{"model":"gpt-4o","stream":%t,"messages":[]}`, stream)))
	if err != nil {
		return "", 0, err
	}
	req.Header.Set("Authorization", goodKey)
	req.Header.Set("Content-Type", "application/json")
	if pieces != "" {
		req.Header.Set("X-Stub-Pieces", pieces)
	}
	resp, err := c.Do(req)
	if err != nil {
		return "", 0, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return string(text), resp.StatusCode, err
}
