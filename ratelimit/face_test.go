package ratelimit_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"

	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/mtls"
	"github.com/leaky-tokens/leaky-tokens/ratelimit"
)

// others has the service listen for other Envoys on loopback, behind what wrap puts in front.
func others(t *testing.T, s *ratelimit.Service, wrap func(net.Listener) net.Listener) (addr string, stop context.CancelFunc) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.ListenOthers(ctx, wrap(ln)) }()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return ln.Addr().String(), stop
}

func bare(ln net.Listener) net.Listener { return ln }

func connect(t *testing.T, addr string, c credentials.TransportCredentials) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(c))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func inDomain(domain string, ds ...*common.RateLimitDescriptor) *rls.RateLimitRequest {
	return &rls.RateLimitRequest{Domain: domain, Descriptors: ds}
}

// TestOtherEnvoysAskAndNothingElse is the port for Envoys that are not ours.
func TestOtherEnvoysAskAndNothingElse(t *testing.T) {
	t.Parallel()
	e, _ := foreignEnv(t, shop)
	addr, _ := others(t, e.service, bare)
	conn := connect(t, addr, insecure.NewCredentials())
	envoy := rls.NewRateLimitServiceClient(conn)
	if r, err := envoy.ShouldRateLimit(t.Context(), inDomain("shop", of("window", "x", 30))); err != nil || len(r.GetStatuses()) != 1 ||
		r.GetStatuses()[0].GetLimitRemaining() != 70 {
		t.Errorf("want it admitted with 70 left, got %v, %v", r, err)
	}
	if r, err := envoy.ShouldRateLimit(t.Context(), inDomain("shop", of("window", "x", 30)), grpc.UseCompressor(gzip.Name)); err != nil ||
		r.GetStatuses()[0].GetLimitRemaining() != 40 {
		t.Errorf("compressed: want 40 left, got %v, %v", r, err)
	}
	if _, err := envoy.ShouldRateLimit(t.Context(), inDomain("leaky", of("count", "requests", -1))); status.Code(err) != codes.PermissionDenied {
		t.Errorf("our own domain: want PermissionDenied, got %v", err)
	}
	for _, m := range limitpb.Limiter_ServiceDesc.Methods {
		err := conn.Invoke(t.Context(), "/"+limitpb.Limiter_ServiceDesc.ServiceName+"/"+m.MethodName, &limitpb.HoldRequest{}, &limitpb.HoldResponse{})
		if status.Code(err) != codes.Unimplemented {
			t.Errorf("%s: want Unimplemented, got %v", m.MethodName, err)
		}
	}
}

// TestNamedEnvoysNeedTheirCertificate is the same port in TLS mode mutual.
func TestNamedEnvoysNeedTheirCertificate(t *testing.T) {
	t.Parallel()
	e, _ := foreignEnv(t, shop)
	dir := t.TempDir()
	if _, err := mtls.NewAuthority(dir, time.Hour, slog.New(slog.DiscardHandler), "shop", "former"); err != nil {
		t.Fatal(err)
	}
	addr, _ := others(t, e.service, func(ln net.Listener) net.Listener {
		return tls.NewListener(ln, mtls.Server(dir, "ratelimit", mtls.Other("shop")))
	})
	ask := func(c credentials.TransportCredentials) error {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		_, err := rls.NewRateLimitServiceClient(connect(t, addr, c)).ShouldRateLimit(ctx, inDomain("shop", of("window", "x", 1)))
		return err
	}
	if err := ask(credentials.NewTLS(mtls.Client(dir, mtls.Other("shop"), "ratelimit"))); err != nil {
		t.Errorf("the named Envoy: %v", err)
	}
	for name, c := range map[string]credentials.TransportCredentials{
		"an Envoy that is not named": credentials.NewTLS(mtls.Client(dir, mtls.Other("former"), "ratelimit")),
		"another part":               credentials.NewTLS(mtls.Client(dir, "meter", "ratelimit")),
		"no certificate":             credentials.NewTLS(&tls.Config{InsecureSkipVerify: true}), // what is tested
		"no TLS":                     insecure.NewCredentials(),
	} {
		if err := ask(c); err == nil {
			t.Errorf("%s was served", name)
		}
	}
}

// TestProbes asks what health checks of Envoy and Kubernetes ask, until the service stops.
func TestProbes(t *testing.T) {
	t.Parallel()
	e, _ := foreignEnv(t, shop)
	addr, stop := others(t, e.service, bare)
	conn := connect(t, addr, insecure.NewCredentials())
	client := healthpb.NewHealthClient(conn)
	for _, name := range []string{"", ratelimit.HealthName} {
		if r, err := client.Check(t.Context(), &healthpb.HealthCheckRequest{Service: name}); err != nil ||
			r.GetStatus() != healthpb.HealthCheckResponse_SERVING {
			t.Errorf("service %q: %v, %v", name, r, err)
		}
	}
	watch, err := client.Watch(t.Context(), &healthpb.HealthCheckRequest{Service: ratelimit.HealthName})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []healthpb.HealthCheckResponse_ServingStatus{healthpb.HealthCheckResponse_SERVING,
		healthpb.HealthCheckResponse_NOT_SERVING} {
		if r, err := watch.Recv(); err != nil || r.GetStatus() != want {
			t.Errorf("watch: want %v, got %v, %v", want, r, err)
		}
		stop()
	}
	if r := httpGet(t, e, "/healthcheck"); r.Code != http.StatusInternalServerError {
		t.Errorf("/healthcheck of a service that stops: %d %s", r.Code, r.Body)
	}
}

// TestReflectionDescribes finds the service as grpcurl does.
func TestReflectionDescribes(t *testing.T) {
	t.Parallel()
	e, _ := foreignEnv(t, shop)
	addr, _ := others(t, e.service, bare)
	stream, err := reflectpb.NewServerReflectionClient(connect(t, addr, insecure.NewCredentials())).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const name = "envoy.service.ratelimit.v3.RateLimitService"
	if err := stream.Send(&reflectpb.ServerReflectionRequest{MessageRequest: &reflectpb.ServerReflectionRequest_FileContainingSymbol{
		FileContainingSymbol: name}}); err != nil {
		t.Fatal(err)
	}
	r, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	var services []string
	for _, text := range r.GetFileDescriptorResponse().GetFileDescriptorProto() {
		var file descriptorpb.FileDescriptorProto
		if err := proto.Unmarshal(text, &file); err != nil {
			t.Fatal(err)
		}
		for _, one := range file.GetService() {
			services = append(services, file.GetPackage()+"."+one.GetName())
		}
	}
	if !slices.Contains(services, name) {
		t.Errorf("want %s described, got %v", name, services)
	}
}

func httpGet(t *testing.T, e *env, path string) *httptest.ResponseRecorder {
	t.Helper()
	return overHTTP(e, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, http.NoBody))
}

func overHTTP(e *env, r *http.Request) *httptest.ResponseRecorder {
	mux := http.NewServeMux()
	e.service.Routes(mux)
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, r)
	return w
}

// TestJSON asks as Lua and curl do. The cases share limits and run in order.
func TestJSON(t *testing.T) {
	t.Parallel()
	e, _ := foreignEnv(t, shop)
	one := `{"domain":"shop","descriptors":[{"entries":[{"key":"narrow","value":"ann"}]}]}`
	for _, tc := range []struct {
		name, method string
		body         io.Reader
		code         int
		contains     string
	}{
		{"admitted", "POST", strings.NewReader(one), 200, `"limitRemaining":1`},
		{"at the limit", "POST", strings.NewReader(one), 200, `"overallCode":"OK"`},
		{"refused", "POST", strings.NewReader(one), 429, `"overallCode":"OVER_LIMIT"`},
		{"with hits", "POST", strings.NewReader(`{"domain":"shop","hits_addend":3,"descriptors":[{"entries":[{"key":"narrow","value":"bob"}]}]}`), 429,
			`"code":"OVER_LIMIT"`},
		{"no JSON", "POST", strings.NewReader("domain: shop"), 400, "no RateLimitRequest in JSON"},
		{"unknown member", "POST", strings.NewReader(`{"domaine":"shop"}`), 400, "no RateLimitRequest in JSON"},
		{"no domain", "POST", strings.NewReader(`{}`), 400, "domain must not be empty"},
		{"no descriptors", "POST", strings.NewReader(`{"domain":"shop"}`), 400, "descriptor list must not be empty"},
		{"unknown domain", "POST", strings.NewReader(`{"domain":"none","descriptors":[{}]}`), 400, `domain \"none\" is not served here`},
		{"our own domain", "POST", strings.NewReader(`{"domain":"leaky","descriptors":[{}]}`), 403, "our own Envoy's"},
		{"too large", "POST", bytes.NewReader(make([]byte, 5<<20)), 413, "larger than 4194304 bytes"},
		{"another method", "GET", strings.NewReader(one), 405, ""},
	} {
		w := overHTTP(e, httptest.NewRequestWithContext(t.Context(), tc.method, "/json", tc.body))
		if w.Code != tc.code || !strings.Contains(compact(w.Body.String()), strings.ReplaceAll(tc.contains, `\"`, `"`)) {
			t.Errorf("%s: want %d with %s, got %d %s", tc.name, tc.code, tc.contains, w.Code, w.Body)
		}
		if w.Code == http.StatusOK {
			if err := protojson.Unmarshal(w.Body.Bytes(), &rls.RateLimitResponse{}); err != nil {
				t.Errorf("%s: %v", tc.name, err)
			}
		}
	}
}

func TestPagesForPeople(t *testing.T) {
	t.Parallel()
	e, _ := foreignEnv(t, `
domain: shop
descriptors:
  - key: k
    value: a
    rate_limit: {unit: minute, requests_per_unit: 5}
    descriptors:
      - {key: deep, shadow_mode: true, rate_limit: {unit: week, requests_per_unit: 7}, metadata: {rate_limit_policy: {algorithm: leaky_bucket, burst: 9}}}
  - {key: free, rate_limit: {unlimited: true}}
`)
	if w := httpGet(t, e, "/healthcheck"); w.Code != http.StatusOK || w.Body.String() != "OK" {
		t.Errorf("/healthcheck: %d %s", w.Code, w.Body)
	}
	var ours []string
	for line := range strings.Lines(httpGet(t, e, "/rlconfig").Body.String()) {
		if strings.HasPrefix(line, "shop.") {
			ours = append(ours, line)
		}
	}
	want := []string{
		"shop.k_a: unit=MINUTE requests_per_unit=5, shadow_mode: false, quota_mode: false\n",
		"shop.k_a.deep: unit=WEEK requests_per_unit=7, shadow_mode: true, quota_mode: false, algorithm: leaky_bucket, burst: 9\n",
		"shop.free: unit=UNKNOWN requests_per_unit=0, shadow_mode: false, quota_mode: false, unlimited\n",
	}
	if diff := cmp.Diff(want, ours); diff != "" {
		t.Errorf("/rlconfig differs (-want +got):\n%s", diff)
	}
}
