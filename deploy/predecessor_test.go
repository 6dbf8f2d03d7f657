package deploy_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/metricsdoc"
)

// What the predecessor watched, name by name, as the contract (§9 to §11 and §15) lists it. Its names
// and thresholds hold; where it asked for what was never there, the right column is what answers the
// same question now. That it is there while the product runs is held by the tests of package e2e.

func TestThePredecessorsMetrics(t *testing.T) {
	t.Parallel()
	all, err := metricsdoc.Read("..")
	if err != nil {
		t.Fatal(err)
	}
	labels := map[string][]string{}
	for _, m := range all {
		labels[m.Name] = m.Labels
	}
	for name, want := range map[string][]string{
		"auth_register_total": {"outcome", "reason"}, "auth_login_total": {"outcome", "reason"}, "auth_api_key_create_total": {"outcome", "reason"},
		"auth_api_key_validate_total": {"outcome", "reason"}, "gateway_api_key_validation_total": {"outcome"}, "gateway_api_key_cache_total": {"outcome"},
		"gateway_rate_limit_total": {"outcome"}, "token_consume_total": {"provider", "outcome"}, "token_quota_lookup_total": {"provider", "outcome"},
		"analytics_usage_query_total": {"provider", "outcome"}, "analytics_report_query_total": {"provider", "outcome"},
		"analytics_anomaly_query_total":     {"provider", "outcome"},
		"http_server_requests_seconds":      {"method", "uri", "status", "outcome", "exception"},
		"token_purchase_saga_started_total": {"provider"}, "token_purchase_saga_completed_total": {"provider"},
		"token_purchase_saga_failed_total": {"provider"}, "token_consumed_tokens_total": {"provider"}, "token_outbox_backlog_events": nil,
		"analytics_consumer_lag_events": nil,
	} {
		got, known := labels[name]
		if !known || !slices.Equal(got, want) {
			t.Errorf("%s: want it with the labels %v, got %v, %v", name, want, known, got)
		}
	}
}

func TestThePredecessorsAlerts(t *testing.T) {
	t.Parallel()
	found := map[string]rule{}
	for _, r := range rules(t) {
		found[r.Alert] = r
	}
	for name, want := range map[string]struct{ series, threshold, patience string }{
		"HighAuthLoginFailureRate":   {`auth_login_total{outcome="failure"}`, "> 0.2", "5m"},
		"TokenProviderFailures":      {`token_consume_total{outcome="provider_failure"}`, "> 5", "5m"},
		"TokenRateLimited":           {`token_consume_total{outcome="rate_limited"}`, "> 10", "5m"},
		"ApiKeyValidationFailures":   {`gateway_api_key_validation_total{outcome="failure"}`, "> 5", "5m"},
		"GatewayRateLimitBlocked":    {`gateway_rate_limit_total{outcome="blocked"}`, "> 20", "5m"},
		"HighGatewayLatencyP95":      {`histogram_quantile(0.95`, "> 1000", "5m"}, // Envoy counts milliseconds
		"HighTokenServiceLatencyP95": {`application="tokensvc"`, "> 1", "5m"},
		"HighGatewayErrorRate":       {`envoy_response_code_class="5"`, "> 0.02", "5m"},
		"HighTokenServiceErrorRate":  {`application="tokensvc",status=~"5.."`, "> 0.02", "5m"},
		"HighGatewayFallbackRate":    {`envoy_cluster_upstream_rq{envoy_response_code=~"503|504"}`, "> 0.05", "5m"},
		"AuthLoginFailuresSpike":     {`auth_login_total{outcome="failure"}`, "> 20", "5m"},
		"TokenQuotaInsufficientSpike": {`token_consume_total{outcome="quota_insufficient"}`,
			"> 20", "5m"},
		"ServiceDown":   {"up", "== 0", "1m"},
		"SagaFailures":  {"token_purchase_saga_failed_total", "> 0", "1m"},
		"SagaStuck":     {"token_purchase_saga_oldest_seconds", "> 600", "5m"},
		"OutboxOld":     {"token_outbox_oldest_seconds", "> 60", "5m"},
		"AnalyticsLags": {"analytics_consumer_lag_events", "> 1000", "5m"},
	} {
		r := found[name]
		if !strings.Contains(r.Expr, want.series) || !strings.HasSuffix(strings.TrimSpace(r.Expr), want.threshold) || r.For != want.patience {
			t.Errorf("%s: want %s %s for %s, got %s for %s", name, want.series, want.threshold, want.patience, r.Expr, r.For)
		}
	}
}

// TestThePredecessorsPanels: each question of the four dashboards has a panel. What Go has no use for
// (heap and threads of a JVM, its classes) is asked of Go's runtime.
func TestThePredecessorsPanels(t *testing.T) {
	t.Parallel()
	for page, panels := range map[string]map[string]string{ // ours by the predecessor's
		"overview": {"Total Requests/min": "Requests / min", "Tokens Consumed/min": "Tokens / min by provider",
			"Avg Latency p95": "Gateway's own share, p95", "Error Rate": "Errors", "Rate Limited/min": "Refused by limits / min",
			"Request Rate by Service": "Control API, the ten most used", "Response Latency Percentiles": "Gateway, all of a call",
			"Token Consumption by Provider": "Tokens by provider", "Consumption Outcomes": "Outcomes of consume", "Heap Usage": "Memory of the services",
			"Latency Distribution": "Calls by duration", "Top API Endpoints": "Control API, the ten most used"},
		"business": {"Total Tokens Consumed Today": "Tokens", "Successful Consumptions": "Calls served", "Denied (Quota)": "Refused for want of tokens",
			"Rate Limited": "Refused by a limit", "Provider Failures": "Failed calls", "SAGA Completions": "Completed",
			"Token Consumption by Provider": "Tokens by model", "Consumption Outcomes Over Time": "Consume by outcome",
			"Quota Lookup Activity": "Quota look-ups / min", "SAGA Purchase Activity": "Purchases / min", "Hourly Consumption Pattern": "Tokens / min by type",
			"Distribution by Provider": "Tokens by model", "Outcomes Breakdown": "Consume by outcome"},
		"providers": {"Provider Success Rates": "Share that failed"},
		"gateway": {"Key Validations/min": "Keys checked / min", "Validation Success %": "Of them good", "Cache Hit Rate": "Answered from the cache",
			"Rate Limit Blocks/min": "Refused by limits / min", "Auth Registrations": "Registrations", "Auth Logins": "Logins",
			"Validation Results": "Requests that Envoy asked about", "Rate Limiting Activity": "Decisions / min", "API Key Operations": "Keys made, by outcome",
			"Rate Limit Ratio": "Share refused", "Auth Activity": "Logins by reason", "Auth Failures by Reason": "Logins by reason",
			"Gateway Latency": "Who calls, and may they", "Recent Auth Failures": "Logins by reason"},
		"system": {"Services Up": "Parts up", "Avg Heap": "Memory", "Avg Threads": "Goroutines", "CPU Load": "CPU", "Uptime": "Started",
			"Heap by Service": "Heap in use", "DB Connections Active": "Connections to Postgres", "DB Pool": "Connections to Postgres", "Threads": "Goroutines by part", "GC Activity": "Longest pause of the collector",
			"System Load": "CPU by part", "Heap % by Service": "Memory by part", "Service Status": "Stores"},
	} {
		text, err := os.ReadFile(filepath.Join("dashboards", page+".json"))
		if err != nil {
			t.Fatal(err)
		}
		var board struct {
			UID    string
			Panels []struct{ Title string }
		}
		if err := json.Unmarshal(text, &board); err != nil {
			t.Fatal(err)
		}
		if board.UID != "leaky-tokens-"+page {
			t.Errorf("%s: want the uid of the predecessor, got %q", page, board.UID)
		}
		for theirs, ours := range panels {
			if !slices.ContainsFunc(board.Panels, func(p struct{ Title string }) bool { return p.Title == ours }) {
				t.Errorf("%s: %q, which answers %q, is not there", page, ours, theirs)
			}
		}
	}
}

// TestThePredecessorsLoad: its six scenarios are driven by `make load`, whose last results are kept.
func TestThePredecessorsLoad(t *testing.T) {
	t.Parallel()
	for _, page := range []string{"../docs/perf/load.md", "../docs/perf/soak.md"} {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"AnalyticsQuery", "AuthLogin", "TokenConsume", "TokenPurchaseSaga", "TokenQuotaCheck", "TokenUsagePublish"} {
			if !strings.Contains(string(text), "\n| "+name+" | ") {
				t.Errorf("%s has no result of %s", page, name)
			}
		}
	}
}
