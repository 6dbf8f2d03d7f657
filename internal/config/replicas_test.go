package config

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

func TestSectionsHaveAKeyForEveryPart(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		section any
		parts   []topology.Part
	}{
		{"services", Services{}, topology.Having(topology.Part.Listens)},
		{"stores", Stores{}, topology.Of(topology.Store)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var want, got []string
			for _, part := range tc.parts {
				want = append(want, part.Key())
			}
			for _, field := range reflect.VisibleFields(reflect.TypeOf(tc.section)) {
				got = append(got, field.Tag.Get("yaml"))
			}
			slices.Sort(want)
			slices.Sort(got)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("keys (-want +got):\n%s", diff)
			}
		})
	}
}

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
