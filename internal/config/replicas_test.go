package config

import (
	"strings"
	"testing"
)

func TestReplicas(t *testing.T) {
	t.Parallel()
	cfg, err := Parse([]byte(`services: {ratelimit: {replicas: [{http: "127.0.0.1:8184", grpc: "unix:run/ratelimit-2.sock"}]}}`))
	if err != nil {
		t.Fatal(err)
	}
	if e, ok := cfg.Services.Service("ratelimit-2"); !ok || e.HTTP != "127.0.0.1:8184" || e.GRPC != "unix:run/ratelimit-2.sock" {
		t.Errorf("ratelimit-2: %v %+v", ok, e)
	}
	if at := cfg.Services.At("ratelimit", 1); at.RateLimit.HTTP != "127.0.0.1:8184" || at.Identity.HTTP != cfg.Services.Identity.HTTP ||
		cfg.Services.RateLimit.HTTP == "127.0.0.1:8184" {
		t.Errorf("services as the second process sees them: %+v", at)
	}
	for _, name := range []string{"ratelimit-3", "ratelimit-1", "ratelimit-02", "stub-2"} {
		if _, ok := cfg.Services.Service(name); ok {
			t.Errorf("%s is no part", name)
		}
	}
	for text, want := range map[string]string{
		`services: {meter: {replicas: [{http: "127.0.0.1:8184"}]}}`:                            "this service runs once",
		`services: {identity: {replicas: [{http: "127.0.0.1:8081"}]}}`:                         "is taken by",
		`services: {identity: {replicas: [{http: "127.0.0.1:8181", grpc: "127.0.0.1:8182"}]}}`: "HTTP only",
		`services: {extauthz: {replicas: [{http: "127.0.0.1:8185"}]}}`:                         "grpc",
	} {
		if _, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: want %q, got %v", text, want, err)
		}
	}
}
