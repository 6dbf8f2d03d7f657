package limits_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/envoytest"
)

// plainEnvoy runs a documented Envoy, with other addresses, before an app.
func plainEnvoy(t *testing.T, file, app, ratelimit string) (url string, envoy *envoytest.Envoy) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	port := func(address string) string { return "port_value: " + address[strings.LastIndex(address, ":")+1:] }
	bootstrap, err := yaml.YAMLToJSON([]byte(strings.NewReplacer("port_value: 10000", "port_value: 0", "port_value: 10001", port(app),
		"port_value: 10002", port(ratelimit)).Replace(string(text))))
	if err != nil {
		t.Fatal(err)
	}
	envoy = envoytest.Start(t, envoytest.Config{Bootstrap: bootstrap})
	return envoy.URL(t, "shop"), envoy
}

func get(t *testing.T, url string, headers map[string]string) (*http.Response, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range headers {
		request.Header.Set(name, value)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, string(body)
}

// TestPlainEnvoy has an Envoy that knows nothing of Leaky Tokens ask ratelimit.
func TestPlainEnvoy(t *testing.T) {
	t.Parallel()
	s := start(t, "", "other-envoy.yaml")
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "served") }))
	t.Cleanup(app.Close)
	url, envoy := plainEnvoy(t, "envoy.yaml", app.URL, s.addr)
	if _, stats := get(t, envoy.Admin+"/stats?filter=cluster.ratelimit.(health_check.success|membership_healthy)", nil); !strings.Contains(stats,
		"membership_healthy: 1") || strings.Contains(stats, "success: 0") {
		t.Errorf("want ratelimit found healthy by gRPC, got %s", stats)
	}

	r, body := get(t, url+"/", nil)
	if r.StatusCode != http.StatusOK || body != "served" || r.Header.Get("X-Ratelimit-Limit") != "300" ||
		r.Header.Get("X-Ratelimit-Remaining") != "299" {
		t.Fatalf("first request: %s %q %v", r.Status, body, r.Header)
	}
	for n := range 3 {
		r, _ := get(t, url+"/checkout", nil)
		if r.StatusCode != http.StatusOK || r.Header.Get("X-Ratelimit-Limit") != "3" || r.Header.Get("X-Ratelimit-Remaining") != fmt.Sprint(2-n) {
			t.Errorf("checkout %d: %s %v", n+1, r.Status, r.Header)
		}
	}
	r, body = get(t, url+"/checkout", nil)
	if r.StatusCode != http.StatusTooManyRequests || !strings.HasPrefix(r.Header.Get("Retry-After"), "6") ||
		// 60 s and a microsecond, rounded up: the refused one has to leak too
		r.Header.Get("X-Ratelimit-Remaining") != "0" ||
		r.Header.Get("Content-Type") != "application/problem+json" || !strings.Contains(body, "rate limit exceeded") {
		t.Errorf("fourth checkout: %s %v %s", r.Status, r.Header, body)
	}
	for n := range 4 {
		want := http.StatusOK
		if n >= 2 { // no quota of the request has room
			want = http.StatusTooManyRequests
		}
		if r, _ := get(t, url+"/", map[string]string{"X-Plan": "free", "X-Customer": "ann"}); r.StatusCode != want {
			t.Errorf("request %d under a quota of 2: %s", n+1, r.Status)
		}
	}
	if got := s.counter(t, "leaky_ratelimit_shadow_refusals_total", "free-quota"); got != 2 {
		t.Errorf("want two calls told as over the quota, got %g", got)
	}
	// 9 of the address' 300 are gone: what was refused is counted too.
	for n := range 291 {
		if r, _ := get(t, url+"/static/"+fmt.Sprint(n), nil); r.StatusCode != http.StatusOK {
			t.Fatalf("unlimited path, request %d: %s", n+1, r.Status)
		}
	}
	if r, _ := get(t, url+"/static/x", nil); r.StatusCode != http.StatusTooManyRequests || r.Header.Get("X-Ratelimit-Limit") != "300" {
		t.Errorf("want the address refused after 300, got %s %v", r.Status, r.Header)
	}
}
