package xds_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/settings"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/apitest"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/xds"
)

// rewrite replaces a file in one step, as an editor or a config manager does.
func rewrite(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// yamlFor is a leaky.yaml with one provider at url and startWith's patience; more is appended. More that
// begins with limits says their timeout itself.
func (g *gateway) yamlFor(url, more string) string {
	if !strings.HasPrefix(more, "limits:") {
		more = "limits: {timeout: 10s}\n" + more
	}
	return fmt.Sprintf(`gateway: {listen: "127.0.0.1:0"}
auth: {check_timeout: 10s}
services:
  extauthz: {grpc: "unix:%[1]s/a.sock"}
  ratelimit: {grpc: "unix:%[1]s/r.sock"}
providers:
  openai: {protocol: openai, url: "%[2]s"}
models:
  - {name: gpt-4o, provider: openai}
%[3]s`, g.dir, url, more)
}

// fromFile makes a gateway whose xds reads a leaky.yaml.
func fromFile(t *testing.T, url string) (g *gateway, path string) {
	t.Helper()
	g = start(t, func(c *config.Config) {
		c.Providers = map[string]config.Provider{"openai": {Protocol: config.ProtocolOpenAI, URL: "http://127.0.0.1:9",
			ConnectTimeout: time.Second, ConsumePath: "/c",
			Egress: config.ProviderEgress{Timeout: time.Second, Attempts: 1, Backoff: time.Second, MaxConcurrent: 1}}}
		c.Models = []config.Model{{Name: "gpt-4o", Provider: "openai"}}
	}, nil)
	path = filepath.Join(g.dir, "leaky.yaml")
	rewrite(t, path, g.yamlFor(url, ""))
	cfg, err := config.Load(path, func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	g.path = path
	g.startXDS(t, cfg, nil)
	return g, path
}

func named(t *testing.T, name string) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		flush := w.(http.Flusher).Flush
		flush()
		time.Sleep(2 * time.Millisecond) // some calls are always under way
		if r.Header.Get("X-Stub-Slow") != "" {
			for range 20 {
				fmt.Fprint(w, ".")
				flush()
				time.Sleep(100 * time.Millisecond)
			}
		}
		fmt.Fprint(w, name)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// TestChangingProvidersUnderLoadLosesNothing moves the provider back and forth while
// clients call without a pause.
func TestChangingProvidersUnderLoadLosesNothing(t *testing.T) {
	t.Parallel()
	first, second := named(t, "first"), named(t, "second")
	g, path := fromFile(t, first)
	var calls, failed atomic.Int64
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for range 8 {
		clients.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if a := g.do(t, "POST", chatPath, body("")); a.status != 200 {
					failed.Add(1)
					t.Logf("%d %s", a.status, a.body)
				}
				calls.Add(1)
			}
		})
	}
	clients.Go(func() { // a stream that outlives its cluster
		if a := g.do(t, "POST", chatPath, body(""), "X-Stub-Slow", "1"); a.body != strings.Repeat(".", 20)+"first" {
			t.Errorf("want the whole stream, got %d %q", a.status, a.body)
		}
	})
	for i := range 6 {
		url, name := second, "second"
		if i%2 == 1 {
			url, name = first, "first"
		}
		rewrite(t, path, g.yamlFor(url, ""))
		testenv.Eventually(t, "calls reach "+name, func() bool { return g.do(t, "POST", chatPath, body("")).body == name })
	}
	close(stop)
	clients.Wait()
	if failed.Load() > 0 || calls.Load() < 50 {
		t.Errorf("want no failed call, got %d of %d", failed.Load(), calls.Load())
	}
	testenv.Eventually(t, "the old cluster is gone", func() bool {
		text, err := g.envoy.Get("/clusters")
		return err == nil && strings.Contains(text, strings.TrimPrefix(first, "http://")) && !strings.Contains(text, strings.TrimPrefix(second,
			"http://"))
	})
}

func TestABadFileKeepsTheLastGoodConfiguration(t *testing.T) {
	t.Parallel()
	url := named(t, "provider")
	g, path := fromFile(t, url)
	before := g.status(t)
	for name, c := range map[string]struct{ text, want string }{
		"unknown key":      {g.yamlFor(url, "gatway: {}\n"), "gatway"},
		"not yaml":         {"gateway: [", "leaky.yaml"},
		"no such provider": {strings.Replace(g.yamlFor(url, ""), "provider: openai}", "provider: nobody}", 1), "nobody"},
		"no such limits":   {g.yamlFor(url, "limits: {file: missing.yaml, timeout: 10s}\n"), "missing.yaml"},
	} {
		rewrite(t, path, c.text)
		testenv.Eventually(t, name+" is reported", func() bool { f := g.status(t).Refused; return f != nil && strings.Contains(f.Reason, c.want) })
		if got := g.status(t); got.Version != before.Version {
			t.Errorf("%s: want version %s to stay, got %s", name, before.Version, got.Version)
		}
		if a := g.do(t, "POST", chatPath, body("")); a.status != 200 {
			t.Errorf("%s: want calls to go on, got %d %s", name, a.status, a.body)
		}
	}
	rewrite(t, path, g.yamlFor(url, "limits: {file: limits.yaml, timeout: 10s}\n"))
	rewrite(t, filepath.Join(g.dir, "limits.yaml"), "domain: leaky\ndescriptors:\n  - {key: count, value: requests, descriptors: [{key: remote_address, rate_limit: {unit: minute, requests_per_unit: 5}}]}\n")
	testenv.Eventually(t, "the repaired file is live", func() bool {
		if s := g.status(t); s.Refused != nil || s.Version == before.Version {
			return false
		}
		g.do(t, "POST", chatPath, body(""))
		got := g.limit.last()
		return len(got) == 2 && strings.HasPrefix(got[1], "count=requests,remote_address=127.0.0.1")
	})
	// The limits file was named while running: its later edits count too, with leaky.yaml as it is.
	rewrite(t, filepath.Join(g.dir, "limits.yaml"), "domain: leaky\ndescriptors:\n  - {key: count, value: requests, descriptors: [{key: remote_address, rate_limit: {unit: minute, requests_per_unit: 5}}, {key: user, rate_limit: {unit: minute, requests_per_unit: 5}}]}\n")
	testenv.Eventually(t, "its next edit is live", func() bool {
		g.do(t, "POST", chatPath, body(""))
		return strings.Contains(strings.Join(g.limit.last(), " "), "count=requests,user=")
	})
}

func (g *gateway) status(t *testing.T) xds.Status {
	t.Helper()
	var s xds.Status
	g.page(t, "/v1/config", &s)
	return s
}

// page reads one of xds's own pages.
func (g *gateway) page(t *testing.T, path string, into any) {
	t.Helper()
	w := httptest.NewRecorder()
	apitest.Handler(t, g.xds.Handler()).ServeHTTP(w, httptest.NewRequest("GET", path, http.NoBody))
	if err := json.Unmarshal(w.Body.Bytes(), into); err != nil || w.Code != 200 {
		t.Fatalf("%s: %d %v %s", path, w.Code, err, w.Body)
	}
}

func TestPagesTellWhoRunsWhat(t *testing.T) {
	t.Parallel()
	g := start(t, func(c *config.Config) { c.Services.Analytics.HTTP = "127.0.0.1:1" }, nil)
	if err := g.xds.Ready(t.Context()); err != nil {
		t.Errorf("want ready, got %v", err)
	}
	status := g.status(t)
	var clients struct {
		Clients []struct {
			Node, Build           string
			Acknowledged, Refused map[string]string
		}
	}
	testenv.Eventually(t, "the Envoy has acknowledged everything", func() bool {
		g.page(t, "/v1/clients", &clients)
		return len(clients.Clients) == 1 && clients.Clients[0].Acknowledged["RouteConfiguration"] == status.Versions["RouteConfiguration"] &&
			clients.Clients[0].Acknowledged["Cluster"] == status.Versions["Cluster"] &&
			clients.Clients[0].Acknowledged["Listener"] == status.Versions["Listener"]
	})
	if c := clients.Clients[0]; c.Node != t.Name() || c.Build != "1.40.0" || len(c.Refused) != 0 {
		t.Errorf("want this test's Envoy 1.40.0, got %+v", c)
	}
	var services struct {
		Services []struct {
			Name, Address string
			Healthy       bool
		}
	}
	g.page(t, "/v1/services", &services)
	healthy := map[string]bool{}
	for _, s := range services.Services {
		healthy[s.Name] = s.Healthy
	}
	if !healthy["extauthz"] || !healthy["provider-openai"] || healthy["analytics"] || len(healthy) != 13 {
		t.Errorf("want all but analytics and the console healthy, got %v", healthy)
	}
}

// TestARefusedConfigurationIsUndone gives Envoy a listener it cannot open: the last good
// configuration is served again, also to an Envoy that starts afterwards, and everybody who
// asks is told why.
func TestARefusedConfigurationIsUndone(t *testing.T) {
	t.Parallel()
	g, path := fromFile(t, named(t, "provider"))
	before := g.status(t)
	good := g.yamlFor("http://127.0.0.1:9", "")
	rewrite(t, path, strings.Replace(good, `gateway: {listen: "127.0.0.1:0"}`, "gateway: {listen: \"192.0.2.77:8080\"}", 1))
	testenv.Eventually(t, "a listener that moves is held", func() bool {
		f := g.status(t).Refused
		return f != nil && f.Node == "" && strings.Contains(f.Reason, "gateway.listen moves")
	})
	if _, err := g.files.Accept(); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, "the refusal is shown", func() bool { f := g.status(t).Refused; return f != nil && f.Node != "" })
	after := g.status(t)
	if after.Version != before.Version || after.Refused.Type != "Listener" || after.Refused.Node != t.Name() ||
		!strings.Contains(after.Refused.Reason, "192.0.2.77") || after.Refused.Tried == before.Version {
		t.Errorf("want version %s live and the listener's refusal, got %+v %+v", before.Version, after, after.Refused)
	}
	var clients struct {
		Clients []struct{ Acknowledged map[string]string }
	}
	testenv.Eventually(t, "the Envoy acknowledged the last good one again", func() bool {
		g.page(t, "/v1/clients", &clients)
		return len(clients.Clients) == 1 && clients.Clients[0].Acknowledged["Listener"] == before.Versions["Listener"] &&
			clients.Clients[0].Acknowledged["Cluster"] == before.Versions["Cluster"]
	})
	if a := g.do(t, "POST", chatPath, body("")); a.status == 0 {
		t.Error("want the gateway to go on")
	}
	if again, err := settings.New(path, g.dir, func(string) string { return "" }, slog.New(slog.DiscardHandler)).Open(); err != nil ||
		again.Config.Gateway.Listen != "127.0.0.1:0" {
		t.Errorf("a part that starts now would follow what the Envoy refused: %+v, %v", again, err)
	}
	if got := g.metric(t, `leaky_xds_answers_total{answer="nack",type="Listener"}`); got != 1 {
		t.Errorf("want one refusal counted, got %v", got)
	}
	if got := g.metric(t, "leaky_xds_config_refused"); got != 1 {
		t.Errorf("want the refusal as a series, got %v", got)
	}
	if got := g.metric(t, "leaky_xds_clients"); got != 1 {
		t.Errorf("want one Envoy counted, got %v", got)
	}
	rewrite(t, path, good)
	testenv.Eventually(t, "a good file heals", func() bool { return g.status(t).Refused == nil })
	rewrite(t, path, "gateway: [")
	testenv.Eventually(t, "a bad file is a series", func() bool { return g.metric(t, "leaky_xds_config_refused") == 1 })
}

// metric is the value of one series of xds, e.g. leaky_xds_clients; 0 without it.
func (g *gateway) metric(t *testing.T, series string) float64 {
	t.Helper()
	w := httptest.NewRecorder()
	promhttp.HandlerFor(g.series, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", http.NoBody))
	for line := range strings.Lines(w.Body.String()) {
		if text, ok := strings.CutPrefix(line, series+" "); ok {
			value, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
			if err != nil {
				t.Fatal(err)
			}
			return value
		}
	}
	return 0
}

// TestEnvoyOutlivesXDS: Envoy keeps its configuration and takes it up with a new xds.
func TestEnvoyKeepsGoingWithoutXDS(t *testing.T) {
	t.Parallel()
	g := start(t, nil, nil)
	g.stopXDS()
	for range 3 {
		if a := g.do(t, "POST", chatPath, body("")); a.status != 200 {
			t.Errorf("want 200 without xds, got %d %s", a.status, a.body)
		}
	}
}
