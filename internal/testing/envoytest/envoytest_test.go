package envoytest_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/envoy"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/envoytest"
)

const static = `{"admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
"static_resources": {"listeners": [{"name": "hello", "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
"filter_chains": [{"filters": [{"name": "hcm", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
"stat_prefix": "hello", "http_filters": [{"name": "router", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
"route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": "hello"}}}]}]}}}]}]}]}}`

func TestARealEnvoyAnswersAndDies(t *testing.T) {
	t.Parallel()
	var e *envoytest.Envoy
	t.Run("alive", func(t *testing.T) {
		e = envoytest.Start(t, envoytest.Config{Bootstrap: []byte(static)})
		req, err := http.NewRequestWithContext(t.Context(), "GET", e.URL(t, "hello"), http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if text, err := io.ReadAll(resp.Body); err != nil || string(text) != "hello" {
			t.Errorf("want hello, got %q %v", text, err)
		}
		if n := e.Stat(t, "http.hello.downstream_rq_total"); n != 1 {
			t.Errorf("want one request counted, got %d", n)
		}
		if info, err := e.Get("/server_info"); err != nil || !strings.Contains(info, "/"+envoy.Version+"/") {
			t.Errorf("want the pinned version %s, got %v %s", envoy.Version, err, info)
		}
	})
	if _, err := e.Get("/ready"); err == nil {
		t.Error("want the Envoy gone with its test")
	}
}
