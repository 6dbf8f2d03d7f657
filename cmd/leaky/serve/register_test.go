package serve

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/discovery"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
	"github.com/leaky-tokens/leaky-tokens/internal/storeuser"
	"github.com/leaky-tokens/leaky-tokens/internal/telemetry"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// TestAProcessIsRegisteredWhileItServes, as the users that a part and xds have at NATS, and ends once
// Envoys know.
func TestAProcessIsRegisteredWhileItServes(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	conn, refused := b.as(topology.XDS)
	tracker := discovery.NewTracker(discovery.TrackerConfig{Conn: conn, Site: discovery.SiteOf("/state"), Log: slog.New(slog.DiscardHandler)})
	following, stop := context.WithCancel(context.Background())
	followed := make(chan error, 1)
	go func() { followed <- tracker.Run(following) }()
	state := func() discovery.State {
		i := slices.IndexFunc(tracker.List(), func(i discovery.Instance) bool { return i.Part == "identity-3" })
		if i < 0 {
			return ""
		}
		return tracker.List()[i].State
	}
	url, err := storeuser.URL(b.url, topology.NATS, topology.Identity)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	registry, metrics := telemetry.Registry(topology.Identity)
	cfg := &config.Config{Stores: config.Stores{NATS: url}, Discovery: config.Discovery{Lease: time.Minute},
		Services: config.Services{Identity: config.Endpoint{HTTP: ln.Addr().String()}}}
	s := service{name: topology.Identity, part: "identity-3", cfg: cfg, dir: "/state", log: slog.New(slog.DiscardHandler), registry: registry,
		stores: telemetry.NewStores(metrics)}
	ctx, end := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- registered(ctx, s, func(ctx context.Context, s service) error {
			common := s.common(nil)
			common.Warn = nil
			return httpapi.Serve(ctx, ln, common.Wrap(http.NotFoundHandler()))
		})
	}()
	testenv.Eventually(t, "it is registered", func() bool { return state() == discovery.Serving })
	end()
	testenv.Eventually(t, "it leaves", func() bool { return state() == discovery.Leaving })
	res, err := http.Get("http://" + ln.Addr().String() + "/healthz")
	if err != nil || res.StatusCode != http.StatusOK {
		t.Errorf("want it served until Envoys know, got %v", err)
	} else {
		res.Body.Close()
	}
	tracker.Published(tracker.Number())
	if err := <-ended; err != nil {
		t.Error(err)
	}
	testenv.Eventually(t, "it has left", func() bool { return state() == discovery.Left })
	stop()
	if err := <-followed; err != nil || len(refused()) > 0 {
		t.Errorf("want nothing refused, got %v %v", err, refused())
	}
}

func TestAProcessThatTheFileDoesNotName(t *testing.T) {
	c, err := config.Parse([]byte("services: {ratelimit: {replicas: [{http: '127.0.0.1:9084', grpc: 'unix:run/ratelimit-2.sock'}]}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		part, port, second string
		want               config.Endpoint // empty: an error
	}{
		"the first":           {"ratelimit", "", "", config.Endpoint{HTTP: "127.0.0.1:8084", GRPC: "unix:run/ratelimit.sock"}},
		"of the file":         {"ratelimit-2", "", "", config.Endpoint{HTTP: "127.0.0.1:9084", GRPC: "unix:run/ratelimit-2.sock"}},
		"further":             {"ratelimit-3", "7000", "7001", config.Endpoint{HTTP: "127.0.0.1:7000", GRPC: "unix:run/ratelimit-3.sock"}},
		"further, by sockets": {"identity-5", "7000", "", config.Endpoint{HTTP: "127.0.0.1:7000", Inner: "unix:run/identity-5.sock"}},
		"without a port":      {"ratelimit-3", "", "", config.Endpoint{}},
		"with another":        {"ratelimit-3", "70000", "", config.Endpoint{}},
		"of one that is one":  {"meter-2", "7000", "", config.Endpoint{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("LEAKY_PORT", tc.port)
			t.Setenv("LEAKY_SECOND_PORT", tc.second)
			service, _ := config.Instance(tc.part)
			got, err := servicesOf(c.Services, tc.part)
			own := got.Named(service)
			own.Replicas = nil
			if (err != nil) != (tc.want.HTTP == "") || err == nil && (own.HTTP != tc.want.HTTP || own.GRPC != tc.want.GRPC || own.Inner != tc.want.Inner) {
				t.Errorf("want %+v, got %+v %v", tc.want, own, err)
			}
		})
	}
	mutual, err := config.Parse([]byte("services: {ratelimit: {http: '127.0.0.1:1', grpc: '127.0.0.1:2'}}\ntls: {mode: mutual}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if own, ok := mutual.Services.Further("ratelimit-2", 7000, 7001); !ok || own.GRPC != "127.0.0.1:"+strconv.Itoa(7001) {
		t.Errorf("want a port where the first has one, got %+v", own)
	}
}
