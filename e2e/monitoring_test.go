package e2e

import (
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/api"
	promv1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"

	"github.com/leaky-tokens/leaky-tokens/deploy/dashboards"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// prometheus is the API of the one that runs beside the stack.
func prometheus(t *testing.T) promv1.API {
	t.Helper()
	cfg, err := running.Loaded()
	if err != nil {
		t.Fatal(err)
	}
	client, err := api.NewClient(api.Config{Address: "http://" + cfg.Monitoring.Prometheus})
	if err != nil {
		t.Fatal(err)
	}
	return promv1.NewAPI(client)
}

// queried is what Prometheus answers now.
func queried(t *testing.T, query string) model.Vector {
	t.Helper()
	value, _, _, err := prometheus(t).Query(t.Context(), query, time.Now())
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	vector, ok := value.(model.Vector)
	if !ok {
		t.Fatalf("%s: want a vector, got %s", query, value.Type())
	}
	return vector
}

func TestPrometheusScrapesTheWholeStack(t *testing.T) {
	t.Parallel()
	testenv.Eventually(t, "every part scraped", func() bool {
		up := map[string]bool{}
		for _, sample := range queried(t, "up == 1") {
			up[string(sample.Metric["part"])] = true
		}
		for _, part := range topology.Having(func(p topology.Part) bool { return p.Kind != topology.Store }) {
			if !up[part.Name] {
				return false
			}
		}
		return up["extauthz-2"]
	})
	out, err := running.Leaky(t.Context(), "open")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, page := range []string{"gateway", "clients", "prometheus", "targets", "alertmanager"} {
		if !strings.Contains(out, "\n"+page+" ") {
			t.Errorf("leaky open: want the page %s, got\n%s", page, out)
		}
	}
	out, err = running.Leaky(t.Context(), "open", "prometheus")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, strings.TrimSpace(out), nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if text, err := io.ReadAll(res.Body); err != nil || res.StatusCode != http.StatusOK || !strings.Contains(string(text), "Alerts") {
		t.Errorf("%s: want the page of alerts, got %s %.200s, %v", out, res.Status, text, err)
	}
}

// TestPanelsHaveData runs every query of every dashboard, while calls of all kinds are made: none
// fails, and none stays without a number.
func TestPanelsHaveData(t *testing.T) {
	t.Parallel()
	who := newAccount(t)
	buy(t, who, "openai", 50_000)
	traffic := func(round int) {
		for _, body := range []string{
			`{"model":"gpt-4o","messages":[{"role":"user","content":"Hello"}]}`,
			fmt.Sprintf(`{"model":"gpt-4o","stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"[[tokens=%d]] Hi"}]}`,
				20+10*(round%8)), // answers of many lengths, for the estimates
		} {
			request(t, "POST", chatPath, "", body, byKey(who)...)
		}
		request(t, "POST", chatPath, "", `{"model":"gpt-4o","messages":[{"role":"user","content":"Hello"}]}`, "Authorization", "Bearer nobody")
		consumeAt(t, who, "openai", 10)
		request(t, "GET", pathQuota+"?provider=openai", "", nil, byKey(who)...)
	}
	pending := map[string]string{} // dashboard by query
	for page, queries := range dashboards.Queries() {
		for _, q := range queries {
			pending[q] = page
		}
	}
	api, why := prometheus(t), map[string]string{}
	numbers := func(q string) bool {
		value, _, _, err := api.Query(t.Context(), q, time.Now())
		vector, ok := value.(model.Vector)
		why[q] = fmt.Sprintf("%v, %v", value, err)
		return err == nil && ok && slices.ContainsFunc(vector, func(s *model.Sample) bool { return !math.IsNaN(float64(s.Value)) })
	}
	pace := time.NewTicker(200 * time.Millisecond) // other tests have the machine too
	defer pace.Stop()
	for round, end := 0, time.Now().Add(2*time.Minute); len(pending) > 0 && time.Now().Before(end); round++ {
		<-pace.C
		traffic(round)
		maps.DeleteFunc(pending, func(q, _ string) bool { return numbers(q) })
	}
	for q, page := range pending {
		t.Errorf("%s shows nothing for %s: %s", page, q, why[q])
	}
}

// TestOneCallIsFollowedThroughAllParts by its id alone.
func TestOneCallIsFollowedThroughAllParts(t *testing.T) {
	t.Parallel()
	who := newAccount(t)
	r := request(t, "POST", chatPath, "", `{"model":"gpt-4o","messages":[{"role":"user","content":"Hello"}]}`, byKey(who)...)
	if r.status != 200 {
		t.Fatalf("want 200, got %d %s", r.status, r.text)
	}
	id := r.header.Get("X-Request-Id")
	var out string
	testenv.Eventually(t, "a line of every part", func() bool {
		out, _ = running.Leaky(t.Context(), "logs", "--request", id)
		for _, said := range []string{"extauthz", "call checked", "ratelimit", "call decided", "meter", "call settled", "analytics", "tokensvc", "call kept"} {
			if !strings.Contains(out, said) {
				return false
			}
		}
		return true
	})
	if strings.Contains(out, who.Key) || strings.Contains(out, "Hello") {
		t.Errorf("a log has the caller's key or words:\n%s", out)
	}
	if out, err := running.Leaky(t.Context(), "logs", "--request", "11111111-nobody"); err == nil || !strings.Contains(out, "logs.level") {
		t.Errorf("want to be told of logs.level, got %v: %s", err, out)
	}
}
