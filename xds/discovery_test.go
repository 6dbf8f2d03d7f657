package xds_test

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/nats-io/nats.go"
	"google.golang.org/grpc"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/discovery"
	"github.com/leaky-tokens/leaky-tokens/internal/natsconn"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/xds"
)

const quotaPath = "/api/v1/tokens/quota"

// discovering is a gateway whose xds follows a registry.
func discovering(t *testing.T) (g *gateway, nats *testenv.NATSProcess) {
	t.Helper()
	nats = testenv.NATSServer(t)
	g = startWith(t, func(g *gateway, _ *config.Config) {
		conn := toNATS(t, nats, "xds")
		g.processes = discovery.NewTracker(discovery.TrackerConfig{Conn: conn, Site: "here", Log: slog.New(slog.DiscardHandler)})
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- g.processes.Run(ctx) }()
		t.Cleanup(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}, nil)
	return g, nats
}

func toNATS(t *testing.T, server *testenv.NATSProcess, name string) *nats.Conn {
	t.Helper()
	conn, err := natsconn.Connect(natsconn.Config{URL: server.URL(), Name: name, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn
}

// registers is a process that says where it is until leave returns, or kill has it say nothing any more.
func registers(t *testing.T, server *testenv.NATSProcess, i discovery.Instance) (leave, kill func()) {
	t.Helper()
	i.Site, i.Lease = "here", cmp.Or(i.Lease, 20*time.Second) // the machine may have much else to do
	i.Weight = max(1, i.Weight)
	conn := toNATS(t, server, i.Service)
	r, err := discovery.NewRegistrar(discovery.RegistrarConfig{Conn: conn, Instance: i, Routed: true, LeaveTimeout: time.Minute,
		Log: slog.New(slog.DiscardHandler), Ready: func(context.Context) error { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(context.Background())
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		r.Run(ctx)
	}()
	leave = func() {
		end()
		<-gone
	}
	t.Cleanup(func() {
		conn.Close()
		leave()
	})
	return leave, conn.Close
}

// furtherLimiter serves beside the one of the file.
func furtherLimiter(t *testing.T, g *gateway) (*limiter, string) {
	t.Helper()
	path := filepath.Join(g.dir, "r3.sock")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	l, server := &limiter{}, grpc.NewServer()
	rlsv3.RegisterRateLimitServiceServer(server, l)
	go server.Serve(ln)
	t.Cleanup(server.Stop)
	return l, "unix:" + path
}

// calls makes some and fails the test if one does.
func (g *gateway) calls(t *testing.T, n int) {
	t.Helper()
	for i := range n {
		if a := g.do(t, "POST", chatPath, body("")); a.status != 200 {
			t.Fatalf("call %d: want 200, got %d %s", i, a.status, a.body)
		}
	}
}

// TestAProcessThatIsNotHeardIsAskedNothing although it would answer: what hangs accepts connections as
// well. It needs no line of the file, and NATS being away changes nothing.
func TestAProcessThatIsNotHeardIsAskedNothing(t *testing.T) {
	t.Parallel()
	g, server := discovering(t)
	further, at := furtherLimiter(t, g)
	g.calls(t, 5)
	version := g.status(t).Version
	_, kill := registers(t, server, discovery.Instance{Service: "ratelimit", Part: "ratelimit-3", Address: at, Lease: time.Second})
	asked := func() bool {
		before := further.count()
		g.calls(t, 10)
		return further.count() > before
	}
	testenv.Eventually(t, "it is asked", asked)
	kill()
	testenv.Eventually(t, "it is asked nothing", func() bool { return !asked() })
	before := further.count()
	g.calls(t, 100)
	if n := further.count() - before; n > 0 {
		t.Errorf("want nothing asked of who is lost, got %d", n)
	}
	testenv.Eventually(t, "all is as before", func() bool { return g.status(t).Version == version })
	registers(t, server, discovery.Instance{Service: "ratelimit", Part: "ratelimit-3", Address: at})
	testenv.Eventually(t, "it is asked again", asked)
	number := g.processes.Number()
	server.Stop()
	testenv.Eventually(t, "xds knows that NATS is away", func() bool { return g.processes.Number() > number })
	testenv.Eventually(t, "it is asked still", asked)
	if s := g.status(t); s.Refused != nil {
		t.Errorf("want the files left alone, got %+v", s.Refused)
	}
}

// TestAProcessThatLeavesFailsNoCall: it ends when xds says that nobody calls it, and a stream that it
// has begun is whole.
func TestAProcessThatLeavesFailsNoCall(t *testing.T) {
	t.Parallel()
	g, server := discovering(t)
	var asked atomic.Int64
	begun, finish := make(chan struct{}), make(chan struct{})
	further := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.URL.RawQuery == "slow" {
			fmt.Fprint(w, "first,")
			w.(http.Flusher).Flush()
			close(begun)
			<-finish
		}
		fmt.Fprint(w, "further")
	}))
	t.Cleanup(further.Close)
	leave, _ := registers(t, server, discovery.Instance{Service: "tokensvc", Part: "tokensvc-2", Weight: 2,
		Address: strings.TrimPrefix(further.URL, "http://")})
	testenv.Eventually(t, "it is called", func() bool { return g.do(t, "GET", quotaPath, "").body == "further" })
	var clients sync.WaitGroup
	slow := make(chan answer, 1)
	clients.Go(func() {
		for {
			a := g.do(t, "GET", quotaPath+"?slow", "")
			if strings.HasPrefix(a.body, "first,") {
				slow <- a
				return
			}
		}
	})
	<-begun
	stop := make(chan struct{})
	var failed, made atomic.Int64
	for range 8 {
		clients.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if a := g.do(t, "GET", quotaPath, ""); a.status != 200 {
					failed.Add(1)
					t.Logf("%d %s", a.status, a.body)
				}
				made.Add(1)
			}
		})
	}
	enough := func(n int64) func() bool { return func() bool { return made.Load() > n } }
	testenv.Eventually(t, "calls are under way", enough(100))
	leave()
	ended := make(chan error, 1)
	go func() { ended <- further.Config.Shutdown(context.Background()) }()
	testenv.Eventually(t, "calls go on", enough(made.Load()+200))
	close(finish)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	close(stop)
	clients.Wait()
	if a := <-slow; a.body != "first,further" {
		t.Errorf("want the stream whole, got %d %q", a.status, a.body)
	}
	if failed.Load() > 0 || asked.Load() < 20 {
		t.Errorf("of %d calls, %d of them there: want none failed, got %d", made.Load(), asked.Load(), failed.Load())
	}
}

// TestTheRegistryIsShown with what processes say of themselves.
func TestTheRegistryIsShown(t *testing.T) {
	t.Parallel()
	g, server := discovering(t)
	_, at := furtherLimiter(t, g)
	registers(t, server, discovery.Instance{Service: "ratelimit", Part: "ratelimit-3", Address: at, Weight: 7, Zone: "eu-1"})
	registers(t, server, discovery.Instance{Service: "meter", Part: "meter", Address: "127.0.0.1:8086"})
	find := func(part string) xds.Service {
		var page struct{ Services []xds.Service }
		g.page(t, "/v1/services", &page)
		for _, s := range page.Services {
			if s.Part == part {
				return s
			}
		}
		return xds.Service{}
	}
	var s xds.Service
	testenv.Eventually(t, "both are shown", func() bool {
		s = find("ratelimit-3")
		return s.Healthy && find("meter").Healthy
	})
	if s.Name != "ratelimit" || s.Address != at || s.Weight != 7 || s.Zone != "eu-1" || s.State != discovery.Serving {
		t.Errorf("want what it says of itself, got %+v", s)
	}
	testenv.Eventually(t, "Envoy has its weight and zone", func() bool {
		text, err := g.envoy.Get("/clusters")
		return err == nil && strings.Contains(text, at[len("unix:"):]+"::weight::7") && strings.Contains(text, at[len("unix:"):]+"::zone::eu-1")
	})
}
