package e2e

import (
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/metricsdoc"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// exposed are the families that a part shows at /metrics.
func exposed(t *testing.T, address string) map[string]*dto.MetricFamily {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%s: status %d, %v", address, res.StatusCode, err)
	}
	return families
}

// TestMetricsAreAsThePageHasThem: docs/metrics.md is made from the code, and the running stack
// exposes that and nothing else, with these labels and none that grows with the callers.
func TestMetricsAreAsThePageHasThem(t *testing.T) {
	t.Parallel()
	who := newAccount(t)
	a := request(t, "POST", "/v1/chat/completions", who.Key,
		map[string]any{"model": "gpt-4o", "max_tokens": 5, "messages": []any{map[string]any{"role": "user", "content": "hello"}}})
	if a.status != http.StatusOK {
		t.Fatalf("want 200, got %d %s", a.status, a.text)
	}
	booked(t, who, "openai", a.header.Get("X-Request-Id")) // so the meter has seen it
	all, err := metricsdoc.Read("..")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]metricsdoc.Metric{}
	for _, m := range all {
		documented[m.Name] = m
	}
	cfg, err := running.Loaded()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	look := func(each func(part string, family *dto.MetricFamily)) {
		for _, part := range topology.Having(topology.Part.Listens) {
			for name, family := range exposed(t, cfg.Services.Named(part.Name).HTTP) {
				seen[name] = true
				if !strings.HasPrefix(name, "go_") && !strings.HasPrefix(name, "process_") {
					each(part.Name, family)
				}
			}
		}
	}
	testenv.Eventually(t, "what a call counts", func() bool { // by whichever replica is asked
		request(t, "GET", "/api/v1/tokens/status", "", nil, byKey(who)...)
		look(func(string, *dto.MetricFamily) {})
		return seen["gateway_api_key_validation_total"] && seen["gateway_rate_limit_total"] && seen["gen_ai_server_request_duration_seconds"]
	})
	look(func(part string, family *dto.MetricFamily) {
		checkFamily(t, part, family, documented[family.GetName()])
	})
	for _, m := range all {
		// Those with labels may have no event yet; certificates are there in TLS mode mutual only.
		if !seen[m.Name] && len(m.Labels) == 0 && m.Name != "leaky_xds_certificate_expiry_timestamp_seconds" {
			t.Errorf("%s of %s is exposed by no part", m.Name, m.Room)
		}
	}
	for _, name := range []string{"gateway_rate_limit_total", "gateway_api_key_validation_total", "auth_register_total", "token_consume_total",
		"token_purchase_saga_started_total", "leaky_xds_client_config_info", "gen_ai_server_request_duration_seconds"} {
		if !seen[name] {
			t.Errorf("%s is exposed by no part after a call", name)
		}
	}
}

// personal is what no label may hold: the id of a user, a key, a request.
var personal = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-|^sk-|@`)

func checkFamily(t *testing.T, part string, family *dto.MetricFamily, want metricsdoc.Metric) {
	t.Helper()
	name := family.GetName()
	if want.Name == "" || strings.ToLower(family.GetType().String()) != want.Kind {
		t.Errorf("%s: %s is a %s, and docs/metrics.md says %q", part, name, family.GetType(), want.Kind)
		return
	}
	const most = 500
	if n := len(family.GetMetric()); n > most {
		t.Errorf("%s: %s has %d series", part, name, n)
	}
	labels := append(slices.Sorted(slices.Values(want.Labels)), "application")
	slices.Sort(labels)
	for _, one := range family.GetMetric() {
		var got []string
		for _, l := range one.GetLabel() {
			got = append(got, l.GetName())
			if personal.MatchString(l.GetValue()) {
				t.Errorf("%s: %s{%s=%q} tells of one caller", part, name, l.GetName(), l.GetValue())
			}
		}
		if slices.Sort(got); !slices.Equal(got, labels) {
			t.Errorf("%s: %s has the labels %v, want %v", part, name, got, labels)
			return
		}
	}
}
