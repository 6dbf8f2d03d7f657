package extauthz

import (
	"context"
	"net"
	"path/filepath"
	"testing"

	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	dto "github.com/prometheus/client_model/go"

	"github.com/prometheus/client_golang/prometheus"
)

func gauge(g prometheus.Gauge) float64 {
	var m dto.Metric
	if err := g.Write(&m); err != nil {
		return -1
	}
	return m.GetGauge().GetValue()
}

// typical is what Envoy sends of a call by an SDK.
func typical(headers map[string]string, extensions ...string) *auth.CheckRequest {
	all := map[string]string{"content-type": "application/json", "user-agent": "OpenAI/Python 1.0", "accept": "application/json", "accept-encoding": "gzip",
		":authority": "127.0.0.1:8080", ":scheme": "http", "x-forwarded-proto": "http", "content-length": "4096", "x-stainless-lang": "python"}
	for name, value := range headers {
		all[name] = value
	}
	return request("/v1/chat/completions", all, extensions...)
}

func TestCachedChecksAllocateLittle(t *testing.T) {
	i := newIssuer(t)
	s := ready(t, launch(t, i, ""))
	user := uuid.NewString()
	for name, req := range map[string]*auth.CheckRequest{
		"key":             typical(map[string]string{"authorization": "Bearer " + i.newKey(user, nil, "USER")}),
		"token":           typical(bearer(sign(t, claimsOf(user, "USER"), nil))),
		"token, audience": typical(bearer(sign(t, claimsOf(user, "USER"), nil)), "audience", "tokensvc"),
	} {
		if got := statusOf(t, s, req); got != 200 {
			t.Fatalf("%s: want 200, got %d", name, got)
		}
		lookups := i.lookups.Load()
		if got := testing.AllocsPerRun(100, func() { _, _ = s.Check(context.Background(), req) }); got >= 25 {
			t.Errorf("%s: want fewer than 25 allocations, got %v", name, got)
		}
		if i.lookups.Load() != lookups {
			t.Errorf("%s: a cached check asked identity", name)
		}
	}
}

func BenchmarkCheck(b *testing.B) {
	i := newIssuer(b)
	s := ready(b, launch(b, i, ""))
	user := uuid.NewString()
	run := func(name string, next func(n int) *auth.CheckRequest) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for n := 0; b.Loop(); n++ {
				resp, err := s.Check(context.Background(), next(n))
				if err != nil || resp.GetOkResponse() == nil {
					b.Fatal(resp, err)
				}
			}
		})
	}
	key := typical(map[string]string{"authorization": "Bearer " + i.newKey(user, nil, "USER")})
	run("cached key", func(int) *auth.CheckRequest { return key })
	token := typical(bearer(sign(b, claimsOf(user, "USER"), nil)))
	run("cached JWT", func(int) *auth.CheckRequest { return token })
	forService := typical(bearer(sign(b, claimsOf(user, "USER"), nil)), "audience", "tokensvc")
	run("cached JWT, identity for a service", func(int) *auth.CheckRequest { return forService })
	run("first-seen JWT", func(int) *auth.CheckRequest {
		s.tokens.cache.purge()
		return token
	})
}

// empty answers every check with yes: the floor that gRPC itself costs.
type empty struct {
	auth.UnimplementedAuthorizationServer
	resp *auth.CheckResponse
}

func (e empty) Check(context.Context, *auth.CheckRequest) (*auth.CheckResponse, error) {
	return e.resp, nil
}

func BenchmarkOverUnixSocket(b *testing.B) {
	i := newIssuer(b)
	s := ready(b, launch(b, i, ""))
	key := typical(map[string]string{"authorization": "Bearer " + i.newKey(uuid.NewString(), nil, "USER")})
	resp, err := s.Check(context.Background(), key)
	if err != nil {
		b.Fatal(err)
	}
	floor := grpc.NewServer()
	auth.RegisterAuthorizationServer(floor, empty{resp: resp})
	for name, serve := range map[string]func(context.Context, net.Listener) error{
		"cached key":    s.Serve,
		"empty handler": func(_ context.Context, ln net.Listener) error { return floor.Serve(ln) },
	} {
		b.Run(name, func(b *testing.B) {
			client := dial(b, serve)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := client.Check(context.Background(), key); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	floor.Stop()
}

// dial serves on a Unix socket until the test ends.
func dial(tb testing.TB, serve func(context.Context, net.Listener) error) auth.AuthorizationClient {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		tb.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- serve(ctx, ln) }()
	conn, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		conn.Close()
		stop()
		ln.Close()
		<-done
	})
	return auth.NewAuthorizationClient(conn)
}
