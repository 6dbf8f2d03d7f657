package peer_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/envoyproxy/go-control-plane/pkg/client/sotw/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	rlsconf "github.com/envoyproxy/go-control-plane/ratelimit/config/ratelimit/v3"
	upstream "github.com/envoyproxy/ratelimit/src/config"
	"github.com/envoyproxy/ratelimit/src/settings"
	"github.com/envoyproxy/ratelimit/src/stats"
	gostats "github.com/lyft/gostats"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	ownsettings "github.com/leaky-tokens/leaky-tokens/internal/settings"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/dropin"
	"github.com/leaky-tokens/leaky-tokens/xds"
)

// control is a control plane whose files give rules to limiters.
type control struct{ dir, socket string }

func startControl(t *testing.T) *control {
	t.Helper()
	dir, err := os.MkdirTemp("", "x") // short enough for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	c := &control{dir: dir, socket: filepath.Join(dir, "xds.sock")}
	c.write(t, "leaky.yaml", "limits: {domains: [shop.yaml]}\n")
	c.shop(t, 3)
	none := func(string) string { return "" }
	log := slog.New(slog.DiscardHandler)
	files := ownsettings.New(filepath.Join(dir, "leaky.yaml"), dir, none, log)
	first, err := files.Open()
	if err != nil {
		t.Fatal(err)
	}
	x, err := xds.New(xds.Config{Settings: first, Files: files, StateDir: dir, Getenv: none, Log: log, Poll: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("unix", c.socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- x.Run(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return c
}

func (c *control) write(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join(c.dir, name)
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// shop writes the rules of a domain: so many requests an hour for one key, and none for another.
func (c *control) shop(t *testing.T, requests int) {
	t.Helper()
	c.write(t, "shop.yaml", fmt.Sprintf(`domain: shop
descriptors:
  - {key: 7, value: 1, rate_limit: {unit: hour, requests_per_unit: %d}, metadata: {rate_limit_policy: {algorithm: fixed_window}, note: [a, 1]}}
  - key: user
    descriptors: [{key: path, value: /free, rate_limit: {unlimited: true}}, {key: path, rate_limit: {unit: day, requests_per_unit: 1}}]
`, requests))
}

// limiter tells which limit a request meets, and whether it passes.
type limiter func(entries ...string) (requests uint32, ok bool)

func descriptor(entries []string) *common.RateLimitDescriptor {
	d := &common.RateLimitDescriptor{}
	for i := 0; i < len(entries); i += 2 {
		d.Entries = append(d.Entries, &common.RateLimitDescriptor_Entry{Key: entries[i], Value: entries[i+1]})
	}
	return d
}

// ours is `leaky ratelimit` with its rules from a server.
func ours(t *testing.T, c *control) limiter {
	t.Helper()
	client, prefix := testenv.Redis(t)
	socket := filepath.Join(c.dir, "ours.sock")
	d, err := dropin.New(dropin.Settings{Host: "127.0.0.1", DebugHost: "127.0.0.1", GRPCUds: socket, ConfigType: "GRPC_XDS_SOTW", Backend: "redis",
		LogLevel: "error", LogFormat: "text", NearRatio: 0.8, KeyPrefix: prefix,
		XDS:     dropin.XDSSettings{URL: "unix:" + c.socket, NodeID: "ours", Retry: 200 * time.Millisecond},
		Redis:   dropin.RedisSettings{Socket: "tcp", Type: "SINGLE", URL: client.Options().Addr, PoolSize: 4, Timeout: 10 * time.Second},
		Metrics: dropin.MetricSettings{Prometheus: true, Addr: "127.0.0.1:0", Path: "/metrics"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	envoy := rls.NewRateLimitServiceClient(dial(t, "unix:"+socket))
	return func(entries ...string) (uint32, bool) {
		a, err := envoy.ShouldRateLimit(t.Context(), &rls.RateLimitRequest{Domain: "shop",
			Descriptors: []*common.RateLimitDescriptor{descriptor(entries)}}, grpc.WaitForReady(true))
		if err != nil || len(a.GetStatuses()) != 1 {
			return 0, false
		}
		return a.GetStatuses()[0].GetCurrentLimit().GetRequestsPerUnit(), a.GetOverallCode() == rls.RateLimitResponse_OK
	}
}

// theirs is what envoyproxy/ratelimit makes of the rules: its reader and its matcher, over the client
// that it uses. It counts nothing, so that everything passes that a rule does not stop altogether.
func theirs(t *testing.T, c *control) limiter {
	t.Helper()
	client := sotw.NewADSClient(t.Context(), &core.Node{Id: "theirs"}, resource.RateLimitConfigType)
	if err := client.InitConnect(dial(t, "unix:"+c.socket), grpc.WaitForReady(true)); err != nil {
		t.Fatal(err)
	}
	s := settings.Settings{}
	manager := stats.NewStatManager(gostats.NewStore(gostats.NewNullSink(), false), s)
	var now atomic.Pointer[upstream.RateLimitConfig]
	go func() {
		for {
			answer, err := client.Fetch()
			if err != nil {
				return // the test has ended
			}
			var files []upstream.RateLimitConfigToLoad
			for _, one := range answer.Resources {
				var rules rlsconf.RateLimitConfig
				if err := one.UnmarshalTo(&rules); err != nil {
					t.Errorf("read what came: %v", err)
					return
				}
				files = append(files, upstream.RateLimitConfigToLoad{Name: rules.GetName(), ConfigYaml: upstream.ConfigXdsProtoToYaml(&rules)})
			}
			read := upstream.NewRateLimitConfigImpl(files, manager, false) // it panics where rules make no sense
			now.Store(&read)
			if client.Ack() != nil {
				return
			}
		}
	}()
	return func(entries ...string) (uint32, bool) {
		read := now.Load()
		if read == nil {
			return 0, false
		}
		limit := (*read).GetLimit(t.Context(), "shop", descriptor(entries))
		if limit == nil || limit.Unlimited {
			return 0, true
		}
		return limit.Limit.GetRequestsPerUnit(), true
	}
}

func dial(t *testing.T, address string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// TestLimitersGetTheirRulesFromTheControlPlane: ours, and envoyproxy/ratelimit, follow the files of xds
// from the first rules through a change.
func TestLimitersGetTheirRulesFromTheControlPlane(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(*testing.T, *control) limiter{"ours": ours, "envoyproxy/ratelimit": theirs} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := startControl(t)
			ask := start(t, c)
			testenv.Eventually(t, "the first rules decide", func() bool { limit, _ := ask("7", "1"); return limit == 3 })
			if limit, ok := ask("user", "ann", "path", "/x"); limit != 1 || !ok {
				t.Errorf("want one a day, got %d %v", limit, ok)
			}
			if _, ok := ask("user", "ann", "path", "/x"); ok == (name == "ours") {
				t.Errorf("want the second refused by who counts, got %v", ok)
			}
			if limit, ok := ask("user", "ann", "path", "/free"); limit != 0 || !ok {
				t.Errorf("want what is not limited admitted, got %d %v", limit, ok)
			}
			c.shop(t, 40)
			testenv.Eventually(t, "a change decides", func() bool { limit, _ := ask("7", "1"); return limit == 40 })
		})
	}
}

// TestNothingElseIsGivenAsAWhole: secrets of providers are among what Envoys get.
func TestNothingElseIsGivenAsAWhole(t *testing.T) {
	t.Parallel()
	c := startControl(t)
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(dial(t, "unix:"+c.socket)).StreamAggregatedResources(t.Context(), grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&discoveryv3.DiscoveryRequest{TypeUrl: resource.SecretType}); err != nil {
		t.Fatal(err)
	}
	if got, err := stream.Recv(); status.Code(err) != codes.InvalidArgument {
		t.Errorf("want it refused, got %v %v", got, err)
	}
}
