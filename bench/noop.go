package main

import (
	"context"
	"path/filepath"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/netaddr"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// noop answers at once and does nothing: the control of every run. Its answers make
// Envoy do what the real ones make it do: the same splice, a few headers, metadata.
type noop struct {
	authv3.UnimplementedAuthorizationServer
	ratelimitv3.UnimplementedRateLimitServiceServer
	allowed *authv3.CheckResponse
	held    *ratelimitv3.RateLimitResponse // of a JSON call
	stream  *ratelimitv3.RateLimitResponse // of a streamed one
}

func newNoop() (*noop, error) {
	who, err := structpb.NewStruct(map[string]any{attributes.User: "00000000-0000-4000-8000-000000000000", attributes.Tier: "USER",
		attributes.Roles: "USER"})
	if err != nil {
		return nil, err
	}
	n := &noop{allowed: &authv3.CheckResponse{Status: &status.Status{}, DynamicMetadata: who, HttpResponse: &authv3.CheckResponse_OkResponse{
		OkResponse: &authv3.OkHttpResponse{HeadersToRemove: []string{"authorization"}}}}}
	if n.held, err = hold("false"); err != nil {
		return nil, err
	}
	n.stream, err = hold("true")
	return n, err
}

func hold(stream string) (*ratelimitv3.RateLimitResponse, error) {
	fields := map[string]any{attributes.Account: "user:00000000-0000-4000-8000-000000000000",
		attributes.Held: 1280, attributes.Input: 1024,
		attributes.Model: "gpt-4o-mini", attributes.Stream: stream,
		attributes.MaxTokens: 256, attributes.MaxTokensName: attributes.MaxTokens}
	if stream == "true" {
		fields[attributes.AskUsage] = "true"
	}
	metadata, err := structpb.NewStruct(fields)
	if err != nil {
		return nil, err
	}
	res := &ratelimitv3.RateLimitResponse{OverallCode: ratelimitv3.RateLimitResponse_OK, DynamicMetadata: metadata}
	for _, name := range []string{"x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens",
		"x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests", "ratelimit", "ratelimit-policy",
		"x-leaky-hold", "x-leaky-policy"} {
		res.ResponseHeadersToAdd = append(res.ResponseHeadersToAdd, &corev3.HeaderValue{Key: name, Value: "1280"})
	}
	return res, nil
}

// Check lets everybody through.
func (n *noop) Check(context.Context, *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	return n.allowed, nil
}

// ShouldRateLimit admits everything.
func (n *noop) ShouldRateLimit(_ context.Context, r *ratelimitv3.RateLimitRequest) (*ratelimitv3.RateLimitResponse, error) {
	for _, entry := range r.GetDescriptors()[0].GetEntries() {
		if entry.GetKey() == attributes.Stream && entry.GetValue() == "true" {
			return n.stream, nil
		}
	}
	return n.held, nil
}

// serveNoop runs the no-op services on the sockets below the folder until it is told to stop.
func serveNoop(ctx context.Context, o options) error {
	n, err := newNoop()
	if err != nil {
		return err
	}
	failed := make(chan error, 2)
	for _, name := range []string{topology.ExtAuthz, topology.RateLimit} {
		ln, err := netaddr.Addr{Network: "unix", Path: filepath.Join(o.noop, "run", name+".sock")}.Listen()
		if err != nil {
			return err
		}
		server := grpc.NewServer()
		authv3.RegisterAuthorizationServer(server, n)
		ratelimitv3.RegisterRateLimitServiceServer(server, n)
		defer server.Stop()
		go func() { failed <- server.Serve(ln) }()
	}
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return nil
	}
}
