package xds_test

import (
	"net"
	"path/filepath"
	"testing"

	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
)

// Every replica is asked, and one that dies costs no call: what it was asked is asked of another.
func TestReplicasShareTheWorkAndOneMayDie(t *testing.T) {
	t.Parallel()
	second := &limiter{}
	server := grpc.NewServer()
	rlsv3.RegisterRateLimitServiceServer(server, second)
	t.Cleanup(server.Stop)
	g := startWith(t, func(g *gateway, c *config.Config) {
		path := filepath.Join(g.dir, "r2.sock")
		ln, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		go server.Serve(ln)
		c.Services.RateLimit.Replicas = []config.Replica{{HTTP: "127.0.0.1:0", GRPC: "unix:" + path}, {HTTP: "127.0.0.1:0", GRPC: "unix:" +
			filepath.Join(g.dir, "never.sock")}}
	}, nil)
	for i := range 100 {
		if a := g.do(t, "POST", chatPath, body("")); a.status != 200 {
			t.Fatalf("call %d: want 200, got %d %s", i, a.status, a.body)
		}
	}
	if second.count() == 0 || g.limit.count() == 0 {
		t.Errorf("after 100 calls: want both replicas asked, got %d and %d", g.limit.count(), second.count())
	}
	server.Stop()
	const more = 300
	for i := range more {
		if a := g.do(t, "POST", chatPath, body("")); a.status != 200 {
			t.Fatalf("call %d after the death: want 200, got %d %s", i, a.status, a.body)
		}
	}
	if asked := g.limit.count() + second.count(); asked != 100+more {
		t.Errorf("want one decision for each call, got %d", asked)
	}
}
