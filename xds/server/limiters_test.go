package server_test

import (
	"context"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	rlsconf "github.com/envoyproxy/go-control-plane/ratelimit/config/ratelimit/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// TestALimiterThatRefusesGetsTheNextRules, and is no Envoy.
func TestALimiterThatRefusesGetsTheNextRules(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	publish(t, s, snap(t, "one", "a"))
	rules := func(domain string) {
		s.Limits(map[string]types.Resource{domain: &rlsconf.RateLimitConfig{Name: domain, Domain: domain}})
	}
	rules("first")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	conn, err := grpc.NewClient(serve(t, s), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).StreamAggregatedResources(ctx)
	if err != nil {
		t.Fatal(err)
	}
	say := func(r *discoveryv3.DiscoveryRequest) {
		t.Helper()
		r.TypeUrl, r.Node = resourcev3.RateLimitConfigType, &corev3.Node{Id: "limiter"}
		if err := stream.Send(r); err != nil {
			t.Fatal(err)
		}
	}
	hear := func() (version, nonce, domain string) {
		t.Helper()
		r, err := stream.Recv()
		if err != nil || len(r.GetResources()) != 1 {
			t.Fatalf("want one domain, got %v %v", r, err)
		}
		var c rlsconf.RateLimitConfig
		if err := r.GetResources()[0].UnmarshalTo(&c); err != nil {
			t.Fatal(err)
		}
		return r.GetVersionInfo(), r.GetNonce(), c.GetDomain()
	}
	say(&discoveryv3.DiscoveryRequest{})
	version, nonce, domain := hear()
	if domain != "first" {
		t.Errorf("want the first rules, got %s", domain)
	}
	say(&discoveryv3.DiscoveryRequest{VersionInfo: version, ResponseNonce: nonce})
	rules("second")
	_, nonce, _ = hear()
	say(&discoveryv3.DiscoveryRequest{VersionInfo: version, ResponseNonce: nonce, ErrorDetail: &status.Status{Message: "no"}})
	rules("third")
	if _, _, domain = hear(); domain != "third" {
		t.Errorf("want the next rules, got %s", domain)
	}
	if c := s.Clients(); len(c) != 0 {
		t.Errorf("want it no Envoy, got %+v", c)
	}
}
