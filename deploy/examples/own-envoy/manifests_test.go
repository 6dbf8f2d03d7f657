package ownenvoy

import (
	"os"
	"reflect"
	"slices"
	"testing"

	"github.com/goccy/go-yaml"
)

// node is a YAML document, or what stands in it.
type node = map[string]any

// TestTheManifestsSayWhatTheFileSays: every cluster and filter of envoy.yaml but the provider and the router
// stands in them, as it is there.
func TestTheManifestsSayWhatTheFileSays(t *testing.T) {
	t.Parallel()
	want := map[string]any{}
	named(read(t, "envoy.yaml"), want)
	for _, left := range []string{"provider", "llm", "envoy.filters.http.router", "envoy.filters.network.http_connection_manager"} {
		delete(want, left)
	}
	for _, name := range []string{"extauthz", "ratelimit", "edge", "guard", "splice", "usage", "spool", "envoy.filters.http.ext_authz"} {
		if want[name] == nil {
			t.Fatalf("envoy.yaml has no %s", name)
		}
	}
	for _, file := range []string{"istio.yaml", "envoy-gateway.yaml"} {
		got := map[string]any{}
		named(read(t, file), got)
		for name, value := range want {
			if !reflect.DeepEqual(got[name], value) {
				t.Errorf("%s: %s is not as in envoy.yaml", file, name)
			}
		}
		if !contains(read(t, file), route(t)) {
			t.Errorf("%s: the route's questions are not those of envoy.yaml", file)
		}
	}
}

func read(t *testing.T, file string) (doc node) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err == nil {
		err = yaml.Unmarshal(text, &doc)
	}
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

// route is what the route of envoy.yaml tells the filters.
func route(t *testing.T) any {
	t.Helper()
	var doc struct {
		Static struct {
			Listeners []struct {
				Chains []struct {
					Filters []struct {
						Config struct {
							Routes struct {
								Hosts []struct {
									Routes []struct {
										Told node `yaml:"typed_per_filter_config"`
									}
								} `yaml:"virtual_hosts"`
							} `yaml:"route_config"`
						} `yaml:"typed_config"`
					}
				} `yaml:"filter_chains"`
			}
		} `yaml:"static_resources"`
	}
	text, err := os.ReadFile("envoy.yaml")
	if err == nil {
		err = yaml.Unmarshal(text, &doc)
	}
	if err != nil {
		t.Fatal(err)
	}
	return doc.Static.Listeners[0].Chains[0].Filters[0].Config.Routes.Hosts[0].Routes[0].Told
}

// named collects what has a name and says more than that.
func named(of any, into map[string]any) {
	switch of := of.(type) {
	case node:
		if name, ok := of["name"].(string); ok && (of["typed_config"] != nil || of["load_assignment"] != nil) {
			into[name] = of
		}
		for _, value := range of {
			named(value, into)
		}
	case []any:
		for _, value := range of {
			named(value, into)
		}
	}
}

func contains(of, want any) bool {
	if reflect.DeepEqual(of, want) {
		return true
	}
	switch of := of.(type) {
	case node:
		for _, value := range of {
			if contains(value, want) {
				return true
			}
		}
	case []any:
		return slices.ContainsFunc(of, func(value any) bool { return contains(value, want) })
	}
	return false
}
