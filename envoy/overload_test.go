package envoy_test

import (
	"encoding/json"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/envoy"
)

// TestBoundsLeaveDescriptors: clients never get the last of the file descriptors.
func TestBoundsLeaveDescriptors(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		bounds      envoy.Bounds
		connections string
		heap        string
	}{
		"defaults":          {envoy.Bounds{}, "20000", "1073741824"},
		"stated":            {envoy.Bounds{Connections: 500, Heap: 1 << 28, Files: 20_000}, "500", "268435456"},
		"few descriptors":   {envoy.Bounds{Files: 1024}, "768", "1073741824"},
		"as many":           {envoy.Bounds{Connections: 20_000, Files: 20_000}, "15000", "1073741824"},
		"more than clients": {envoy.Bounds{Connections: 20_000, Files: 1 << 20}, "20000", "1073741824"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text, err := envoy.Bootstrap(envoy.BootstrapConfig{XDS: addr(t, "127.0.0.1:1"), Admin: addr(t, "127.0.0.1:0"), NodeID: "n",
				Bounds: c.bounds})
			if err != nil {
				t.Fatal(err)
			}
			var b struct {
				Overload struct {
					Monitors []struct {
						Config struct {
							Heap        string `json:"max_heap_size_bytes"`
							Connections string `json:"max_active_downstream_connections"`
						} `json:"typed_config"`
					} `json:"resource_monitors"`
				} `json:"overload_manager"`
			}
			if err := json.Unmarshal(text, &b); err != nil {
				t.Fatal(err)
			}
			var heap, connections string
			for _, m := range b.Overload.Monitors {
				heap, connections = heap+m.Config.Heap, connections+m.Config.Connections
			}
			if heap != c.heap || connections != c.connections {
				t.Errorf("want %s connections and %s bytes, got %s and %s", c.connections, c.heap, connections, heap)
			}
		})
	}
}
