package e2e

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/api"
	promv1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"

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
	testenv.Within(t, 30*time.Second, "every part scraped", func() bool {
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
