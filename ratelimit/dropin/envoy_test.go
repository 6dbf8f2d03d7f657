package dropin

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	rlsconf "github.com/envoyproxy/go-control-plane/ratelimit/config/ratelimit/v3"
	"github.com/goccy/go-yaml"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/envoytest"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// TestBehindEnvoy has a real Envoy ask for rules that come over xDS.
func TestBehindEnvoy(t *testing.T) {
	t.Parallel()
	c, _ := startControl(t, "127.0.0.1:0")
	address := func(requests uint32) types.Resource {
		return &rlsconf.RateLimitConfig{Name: "shop", Domain: "shop", Descriptors: []*rlsconf.RateLimitDescriptor{{Key: "remote_address",
			RateLimit: &rlsconf.RateLimitPolicy{RequestsPerUnit: requests, Unit: rlsconf.RateLimitUnit_DAY}}}}
	}
	c.publish(t, address(2))
	r := begin(t, nil, fromXDS(c))
	app := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(app.Close)
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "limits", "envoy.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	port := func(address string) string { return "port_value: " + address[strings.LastIndex(address, ":")+1:] }
	bootstrap, err := yaml.YAMLToJSON([]byte(strings.NewReplacer("port_value: 10000", "port_value: 0", "port_value: 10001", port(app.URL),
		"port_value: 10002", port(r.grpc)).Replace(string(text))))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.ask(t.Context(), "none", "k", "v"); err != nil { // it serves
		t.Fatal(err)
	}
	url := envoytest.Start(t, envoytest.Config{Bootstrap: bootstrap}).URL(t, "shop")
	for i, want := range []int{http.StatusOK, http.StatusOK, http.StatusTooManyRequests} {
		if code, _ := page(t, url); code != want {
			t.Errorf("request %d: want %d, got %d", i+1, want, code)
		}
	}
	c.publish(t, address(1000))
	testenv.Within(t, 15*time.Second, "a change reaches Envoy's callers", func() bool { code, _ := page(t, url); return code == http.StatusOK })
}
