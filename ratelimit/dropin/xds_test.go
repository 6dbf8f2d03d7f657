package dropin

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"
	rlsconf "github.com/envoyproxy/go-control-plane/ratelimit/config/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

const node = "envoy-ratelimit"

// control is an xDS server of go-control-plane's, as Envoy Gateway has one.
type control struct {
	snapshots cache.SnapshotCache
	addr      string
	version   int

	mu     sync.Mutex
	refuse []string // what was said against a configuration
	tokens []string // headers of streams
}

func startControl(t *testing.T, addr string, options ...grpc.ServerOption) (*control, func()) {
	t.Helper()
	c := &control{snapshots: cache.NewSnapshotCache(false, cache.IDHash{}, nil)}
	ctx, cancel := context.WithCancel(context.Background())
	xds := server.NewServer(ctx, c.snapshots, server.CallbackFuncs{
		StreamOpenFunc: func(ctx context.Context, _ int64, _ string) error {
			md, _ := metadata.FromIncomingContext(ctx)
			c.mu.Lock()
			c.tokens = append(c.tokens, md.Get("x-token")...)
			c.mu.Unlock()
			return nil
		},
		StreamRequestFunc: func(_ int64, r *discovery.DiscoveryRequest) error {
			if r.GetErrorDetail() != nil {
				c.mu.Lock()
				c.refuse = append(c.refuse, r.GetErrorDetail().GetMessage())
				c.mu.Unlock()
			}
			return nil
		},
	})
	s := grpc.NewServer(options...)
	discovery.RegisterAggregatedDiscoveryServiceServer(s, xds)
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	c.addr = ln.Addr().String()
	go s.Serve(ln)
	stop := sync.OnceFunc(func() { cancel(); s.Stop() })
	t.Cleanup(stop)
	return c, stop
}

// publish makes these resources the configuration.
func (c *control) publish(t *testing.T, all ...types.Resource) {
	t.Helper()
	c.version++
	snapshot, err := cache.NewSnapshot(strconv.Itoa(c.version)+" of "+c.addr, map[resource.Type][]types.Resource{resource.RateLimitConfigType: all})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.snapshots.SetSnapshot(t.Context(), node, snapshot); err != nil {
		t.Fatal(err)
	}
}

// refused are the messages of NACKs so far.
func (c *control) refused() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string(nil), c.refuse...)
}

// route is a resource as Envoy Gateway makes it of a policy: the listener's domain, a
// descriptor of the route, in it one for each match of a rule.
func route(domain string, requests uint32, unit rlsconf.RateLimitUnit) *rlsconf.RateLimitConfig {
	limit := &rlsconf.RateLimitPolicy{RequestsPerUnit: requests, Unit: unit}
	return &rlsconf.RateLimitConfig{Name: domain, Domain: domain, Descriptors: []*rlsconf.RateLimitDescriptor{{
		Key: "httproute/default/shop/rule/0", Value: "httproute/default/shop/rule/0",
		Descriptors: []*rlsconf.RateLimitDescriptor{
			{Key: "rule-0-match-0", RateLimit: limit},
			{Key: "rule-0-match-0", Value: "gold", RateLimit: &rlsconf.RateLimitPolicy{Unlimited: true}},
			{Key: "rule-1-match-0", Value: "rule-1-match-0", Descriptors: []*rlsconf.RateLimitDescriptor{{Key: "masked_remote_address",
				Value: "0.0.0.0/0", RateLimit: limit}}},
		},
	}}}
}

// ofRoute is the limit of a request through that route; 0: none.
func (r *running) ofRoute(t *testing.T, domain, customer string) (uint32, *rls.RateLimitResponse) {
	t.Helper()
	answer, err := r.envoy.ShouldRateLimit(t.Context(), &rls.RateLimitRequest{Domain: domain, Descriptors: []*common.RateLimitDescriptor{{
		Entries: []*common.RateLimitDescriptor_Entry{{Key: "httproute/default/shop/rule/0", Value: "httproute/default/shop/rule/0"},
			{Key: "rule-0-match-0", Value: customer}}}}}, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	return answer.GetStatuses()[0].GetCurrentLimit().GetRequestsPerUnit(), answer
}

func fromXDS(c *control) func(*Settings) {
	return func(s *Settings) {
		s.ConfigType = xdsConfig
		s.XDS = XDSSettings{URL: c.addr, NodeID: node, Retry: 200 * time.Millisecond, Headers: "x-token:abc"}
	}
}

// TestXDS follows a server's rules: from the first ones, through changes, a mistake and an
// outage of the server, while every request is answered.
func TestXDS(t *testing.T) {
	t.Parallel()
	c, stopFirst := startControl(t, "127.0.0.1:0")
	const listener = "eg/first-listener"
	shop := func(requests uint32) *rlsconf.RateLimitConfig {
		return &rlsconf.RateLimitConfig{Name: "shop", Domain: "shop", Descriptors: []*rlsconf.RateLimitDescriptor{{Key: "k",
			RateLimit: &rlsconf.RateLimitPolicy{RequestsPerUnit: requests, Unit: rlsconf.RateLimitUnit_HOUR}}}}
	}
	c.publish(t, shop(1_000_000), route(listener, 2, rlsconf.RateLimitUnit_MONTH))
	r := begin(t, nil, fromXDS(c))
	for i, want := range []bool{false, false, true} {
		if limit, a := r.ofRoute(t, listener, "ann"); limit != 2 || (a.GetOverallCode() == rls.RateLimitResponse_OVER_LIMIT) != want ||
			a.GetStatuses()[0].GetCurrentLimit().GetUnit() != rls.RateLimitResponse_RateLimit_MONTH {
			t.Errorf("request %d: want refused %t, got %v", i+1, want, a)
		}
	}
	if limit, a := r.ofRoute(t, listener, "gold"); limit != 0 || a.GetOverallCode() != rls.RateLimitResponse_OK {
		t.Errorf("unlimited: got %v", a)
	}
	stop := r.load(t)
	for n := uint32(3); n < 23; n++ { // changes in a row, each at once
		c.publish(t, shop(1_000_000), route(listener, n, rlsconf.RateLimitUnit_HOUR))
		testenv.Within(t, 15*time.Second, "a change decides", func() bool { limit, _ := r.ofRoute(t, listener, "bob"); return limit == n })
	}
	begun := time.Now()
	c.publish(t, shop(1_000_000), route(listener, 1, rlsconf.RateLimitUnit_UNKNOWN))
	testenv.Eventually(t, "a mistake is refused", func() bool { return len(c.refused()) > 0 })
	if why := c.refused()[0]; !strings.Contains(why, "xds:"+listener) || !strings.Contains(why, "unknown unit") {
		t.Errorf("refused with %q", why)
	}
	c.publish(t, shop(1_000_000), route(listener, 23, rlsconf.RateLimitUnit_HOUR))
	testenv.Within(t, 15*time.Second, "a mistake that is mended decides", func() bool { limit, _ := r.ofRoute(t, listener, "bob"); return limit == 23 })
	if n := len(c.refused()); n > 2+int(time.Since(begun)/againPause) {
		t.Errorf("refused %d times in a row without a pause", n)
	}
	stopFirst()
	if limit, _ := r.ofRoute(t, listener, "bob"); limit != 23 {
		t.Errorf("without the server: want the last limit, got %d", limit)
	}
	again, _ := startControl(t, c.addr)
	again.publish(t, shop(1_000_000), route(listener, 77, rlsconf.RateLimitUnit_HOUR))
	testenv.Eventually(t, "a server that comes back is heard", func() bool { limit, _ := r.ofRoute(t, listener, "bob"); return limit == 77 })
	stop()
	if again.mu.Lock(); len(again.tokens) == 0 || again.tokens[0] != "abc" {
		t.Errorf("additional headers: got %v", again.tokens)
	}
	again.mu.Unlock()
}

// TestXDSSaysWhatFilesSay: everything that a resource can say has the effect of the file.
func TestXDSSaysWhatFilesSay(t *testing.T) {
	t.Parallel()
	c, _ := startControl(t, "127.0.0.1:0")
	own, err := structpb.NewStruct(map[string]any{"rate_limit_policy": map[string]any{"algorithm": "leaky_bucket", "burst": 9},
		"service": map[string]any{"name": "a\"b<c>\u2028"}})
	if err != nil {
		t.Fatal(err)
	}
	hour := &rlsconf.RateLimitPolicy{RequestsPerUnit: 0, Unit: rlsconf.RateLimitUnit_HOUR, Name: "closed"}
	c.publish(t, &rlsconf.RateLimitConfig{Name: "all", Domain: "all", Descriptors: []*rlsconf.RateLimitDescriptor{
		{Key: "shadow", RateLimit: hour, ShadowMode: true},
		{Key: "quota", RateLimit: &rlsconf.RateLimitPolicy{RequestsPerUnit: 5, Unit: rlsconf.RateLimitUnit_HOUR}, QuotaMode: true, Metadata: own},
		{Key: "replacing", RateLimit: &rlsconf.RateLimitPolicy{Unlimited: true, Replaces: []*rlsconf.RateLimitReplace{{Name: "other"}}}},
		{Key: "odd \"\\\n\u2028 key: *", Value: "-x: {y}", RateLimit: hour},
	}})
	r := begin(t, nil, fromXDS(c))
	if a, err := r.ask(t.Context(), "all", "shadow", "x"); err != nil || a.GetOverallCode() != rls.RateLimitResponse_OK {
		t.Errorf("shadow: %v, %v", a, err)
	}
	a, err := r.ask(t.Context(), "all", "quota", "x")
	if err != nil || a.GetStatuses()[0].GetLimitRemaining() != 8 || a.GetDynamicMetadata().GetFields()["metadata"].GetStructValue().GetFields()["service"].
		GetStructValue().GetFields()["name"].GetStringValue() != "a\"b<c>\u2028" {
		t.Errorf("a leaky bucket with metadata: %v, %v", a, err)
	}
	if a, err := r.ask(t.Context(), "all", "odd \"\\\n\u2028 key: anything", "-x: {y}"); err != nil || a.GetOverallCode() != rls.RateLimitResponse_OVER_LIMIT {
		t.Errorf("odd characters: %v, %v", a, err)
	}
}

// TestStartWithoutRules serves at once when it is told to, and says that nothing is there.
func TestStartWithoutRules(t *testing.T) {
	t.Parallel()
	c, _ := startControl(t, "127.0.0.1:0")
	r := begin(t, nil, func(s *Settings) { fromXDS(c)(s); s.ForceStart, s.HealthyLoaded = true, true })
	if _, err := r.ask(t.Context(), "shop", "k", "v"); status.Code(err) != codes.InvalidArgument {
		t.Errorf("before the first rules: want an error, got %v", err)
	}
	if code, _ := page(t, r.web+"/healthcheck"); code != 500 {
		t.Errorf("before the first rules: want it unhealthy, got %d", code)
	}
	c.publish(t, route("shop", 1, rlsconf.RateLimitUnit_SECOND))
	testenv.Eventually(t, "healthy with rules", func() bool { code, _ := page(t, r.web+"/healthcheck"); return code == 200 })
}

// certificate writes a certificate that issues itself and its key.
func certificate(t *testing.T, name string) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	made := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, IsCA: true,
		BasicConstraintsValid: true, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, made, made, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	for path, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: pkcs}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// TestTLSBothWays is Envoy Gateway's way: one certificate for the xDS client and the server.
func TestTLSBothWays(t *testing.T) {
	t.Parallel()
	cert, key := certificate(t, "ratelimit.test")
	s := Settings{ServerCert: cert, ServerKey: key, ClientCA: cert}
	security, err := s.serverTLS()
	if err != nil {
		t.Fatal(err)
	}
	c, _ := startControl(t, "127.0.0.1:0", grpc.Creds(credentials.NewTLS(security)))
	c.publish(t, route("shop", 3, rlsconf.RateLimitUnit_HOUR))
	change := func(s *Settings) {
		fromXDS(c)(s)
		s.ServerTLS, s.ServerCert, s.ServerKey, s.ClientCA, s.ClientSAN = true, cert, key, cert, "ratelimit.test"
		s.XDS.TLS, s.XDS.Cert, s.XDS.Key, s.XDS.CA, s.XDS.SAN = true, cert, key, cert, "ratelimit.test"
	}
	if limit, a := begin(t, nil, change).ofRoute(t, "shop", "ann"); limit != 3 {
		t.Errorf("got %v", a)
	}
	stranger := begin(t, nil, func(s *Settings) { change(s); s.ClientSAN = "another.test" })
	// The server may close the connection before its reason is read; then the next try hears it.
	testenv.Eventually(t, "a certificate of another name is refused", func() bool {
		a, err := stranger.envoy.ShouldRateLimit(t.Context(), &rls.RateLimitRequest{Domain: "shop"})
		if err == nil {
			t.Fatalf("a certificate of another name: answered %v", a)
		}
		return status.Code(err) == codes.Unavailable && strings.Contains(err.Error(), "tls: bad certificate")
	})
}

// TestRedisForms counts in a cluster, and in the server that a Sentinel names.
func TestRedisForms(t *testing.T) {
	t.Parallel()
	for form, address := range map[string]func(*testing.T) string{
		redisCluster: func(t *testing.T) string {
			t.Helper()
			return strings.TrimPrefix(testenv.RedisCluster(t).URL(), "redis://")
		},
		redisSentinel: func(t *testing.T) string {
			t.Helper()
			sentinel, master, _ := strings.Cut(strings.TrimPrefix(testenv.RedisBySentinel(t), "redis+sentinel://"), "/")
			return master + "," + sentinel
		},
	} {
		t.Run(form, func(t *testing.T) {
			t.Parallel()
			r := begin(t, map[string]string{"shop.yaml": rule("shop", "k", "1")}, func(s *Settings) {
				s.Redis.Type, s.Redis.URL = form, address(t)
			})
			for i, want := range []rls.RateLimitResponse_Code{rls.RateLimitResponse_OK, rls.RateLimitResponse_OVER_LIMIT} {
				if a, err := r.ask(t.Context(), "shop", "k", "v"); err != nil || a.GetOverallCode() != want {
					t.Errorf("request %d: want %v, got %v, %v", i+1, want, a, err)
				}
			}
		})
	}
}
