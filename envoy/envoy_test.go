package envoy_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/envoy"
	"github.com/leaky-tokens/leaky-tokens/internal/netaddr"
)

func addr(t *testing.T, text string) netaddr.Addr {
	t.Helper()
	a, err := netaddr.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestBootstrapKnowsOnlyXDSAndALoopbackAdmin(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ xds, admin, kind string }{
		"loopback":    {"127.0.0.1:18000", "127.0.0.1:9901", "STATIC"},
		"unix":        {"unix:/run/xds.sock", "unix:/run/admin.sock", "STATIC"},
		"name":        {"xds.internal:18000", "[::1]:0", "STRICT_DNS"},
		"admin named": {"10.0.0.1:18000", "localhost:9901", "STATIC"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text, err := envoy.Bootstrap(envoy.BootstrapConfig{XDS: addr(t, c.xds), Admin: addr(t, c.admin), NodeID: "n"})
			if err != nil {
				t.Fatal(err)
			}
			var b struct {
				Node            struct{ ID, Cluster string }
				StaticResources struct {
					Listeners []any
					Clusters  []struct{ Name, Type string }
				} `json:"static_resources"`
				DynamicResources struct {
					Ads struct {
						Kind string `json:"api_type"`
					} `json:"ads_config"`
				} `json:"dynamic_resources"`
			}
			if err := json.Unmarshal(text, &b); err != nil {
				t.Fatal(err)
			}
			kind := b.StaticResources.Clusters[0].Type
			if kind == "" {
				kind = "STATIC" // the zero value is left out
			}
			if b.Node.ID != "n" || len(b.StaticResources.Listeners) != 0 || len(b.StaticResources.Clusters) != 1 || kind != c.kind ||
				b.DynamicResources.Ads.Kind != "DELTA_GRPC" {
				t.Errorf("want delta ADS from one %s cluster and nothing else, got %s", c.kind, text)
			}
		})
	}
}

func TestBootstrapRefusesAnOpenAdmin(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ admin, node, want string }{
		"every address": {"0.0.0.0:9901", "n", "loopback"},
		"outside":       {"192.0.2.1:9901", "n", "loopback"},
		"a name":        {"envoy.internal:9901", "n", "loopback"},
		"no node":       {"127.0.0.1:9901", "", "node id"},
	} {
		_, err := envoy.Bootstrap(envoy.BootstrapConfig{XDS: addr(t, "127.0.0.1:1"), Admin: addr(t, c.admin), NodeID: c.node})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: want an error with %q, got %v", name, c.want, err)
		}
	}
}

func TestArgsBoundWhatACrashLoses(t *testing.T) {
	t.Parallel()
	args := envoy.Args(envoy.ArgsConfig{Bootstrap: "b.json", Concurrency: 2, AdminPath: "admin"})
	for _, want := range [][2]string{{"--config-path", "b.json"}, {"--file-flush-interval-msec", "100"}, {"--concurrency", "2"},
		{"--admin-address-path", "admin"}, {"--log-level", "warning"}} {
		if i := slices.Index(args, want[0]); i < 0 || args[i+1] != want[1] {
			t.Errorf("want %s %s in %v", want[0], want[1], args)
		}
	}
	if args := envoy.Args(envoy.ArgsConfig{Bootstrap: "b.json"}); slices.Contains(args, "--concurrency") {
		t.Errorf("want one worker per core by default, got %v", args)
	}
}
