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
	"google.golang.org/protobuf/proto"

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
	all := map[string]string{"content-type": "application/json", "user-agent": "OpenAI/Python 1.0", "accept": "application/json",
		"accept-encoding": "gzip",
		":authority":      "127.0.0.1:8080", ":scheme": "http", "x-forwarded-proto": "http", "content-length": "4096", "x-stainless-lang": "python"}
	for name, value := range headers {
		all[name] = value
	}
	return request("/v1/chat/completions", all, extensions...)
}

// encoded is a check as it comes over the wire.
func encoded(tb testing.TB, req *auth.CheckRequest) string {
	tb.Helper()
	wire, err := proto.Marshal(req)
	if err != nil {
		tb.Fatal(err)
	}
	return string(wire)
}

func TestCachedChecksAllocateLittle(t *testing.T) {
	i := newIssuer(t)
	s := ready(t, launch(t, i, ""))
	user := uuid.NewString()
	for name, req := range map[string]*auth.CheckRequest{
		"key":             typical(map[string]string{"authorization": "Bearer " + i.newKey(user, nil, "USER")}),
		"token":           typical(bearer(sign(t, claimsOf(user, "USER"), nil))),
		"EdDSA token":     typical(bearer(signEd(t, claimsOf(user, "USER")))),
		"token, audience": typical(bearer(sign(t, claimsOf(user, "USER"), nil)), "audience", "tokensvc"),
	} {
		if got := statusOf(t, s, req); got != 200 {
			t.Fatalf("%s: want 200, got %d", name, got)
		}
		wire := encoded(t, req)
		lookups, fetches := i.lookups.Load(), i.fetches.Load()
		allocations := testing.AllocsPerRun(100, func() {
			var c call
			if err := c.decode(wire); err != nil {
				t.Error(err)
			}
			if r, err := s.recall(t.Context(), &c); err != nil || len(r.wire) == 0 { // recall does no I/O by its make
				t.Error(err)
			}
		})
		t.Logf("%s: %v allocations from the message to the answer", name, allocations)
		if allocations >= 25 {
			t.Errorf("%s: want fewer than 25 allocations, got %v", name, allocations)
		}
		if i.lookups.Load() != lookups || i.fetches.Load() != fetches {
			t.Errorf("%s: a cached check asked identity", name)
		}
	}
}

func BenchmarkCheck(b *testing.B) {
	i := newIssuer(b)
	s := ready(b, launch(b, i, ""))
	user := uuid.NewString()
	run := func(name string, req *auth.CheckRequest, before func()) {
		wire := encoded(b, req)
		if got := statusOf(b, s, req); got != 200 {
			b.Fatalf("%s: want 200, got %d", name, got)
		}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				before()
				var c call
				if err := c.decode(wire); err != nil {
					b.Fatal(err)
				}
				if r, err := s.check(b.Context(), &c); err != nil || len(r.wire) == 0 {
					b.Fatal(r, err)
				}
			}
		})
	}
	nothing := func() {}
	run("cached key", typical(map[string]string{"authorization": "Bearer " + i.newKey(user, nil, "USER")}), nothing)
	token := typical(bearer(sign(b, claimsOf(user, "USER"), nil)))
	run("cached JWT", token, nothing)
	run("cached JWT, identity for a service", typical(bearer(sign(b, claimsOf(user, "USER"), nil)), "audience", "tokensvc"), nothing)
	run("first-seen RS256", token, s.tokens.cache.kept.Purge)
	run("first-seen EdDSA", typical(bearer(signEd(b, claimsOf(user, "USER")))), s.tokens.cache.kept.Purge)
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
