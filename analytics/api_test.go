package analytics

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
	"github.com/leaky-tokens/leaky-tokens/internal/jwks"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/apitest"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// lagOf is a Lag that says a number; a negative one is unknown.
type lagOf int64

func (l lagOf) Pending(context.Context) (int64, error) {
	if l < 0 {
		return 0, ErrLagUnknown
	}
	return int64(l), nil
}

// front is a running API and the means to call it.
type front struct {
	url    string
	signer *principal.Signer
}

func newFront(t *testing.T, store *Store, lag Lag) *front {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	signer := principal.NewSigner(private)
	issuer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(signer.JWKS()) }))
	t.Cleanup(issuer.Close)
	keys, err := jwks.New(jwks.Config{URL: issuer.URL})
	if err != nil {
		t.Fatal(err)
	}
	_, _ = keys.Key(t.Context(), "none") // fetches, so that calls at once find the key
	registry := prometheus.NewRegistry()
	api, err := New(Config{Store: store, Lag: lag, Members: members(), Verifier: principal.NewVerifier(Audience, keys.Keyfunc), Providers: providers,
		Metrics: NewMetrics(registry), Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(apitest.Handler(t, httpapi.Common{Name: "analytics", Log: quiet(), Metrics: registry,
		Ready: api.Ready}.Wrap(api.Routes())))
	t.Cleanup(server.Close)
	return &front{url: server.URL, signer: signer}
}

// get asks as who; without a user id it sends no identity.
func (f *front) get(t *testing.T, path string, who principal.Principal) (int, http.Header, []byte) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, f.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if who.UserID != "" {
		identity, err := f.signer.Mint(who, Audience, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set(attributes.HeaderIdentity, identity)
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, res.Header, body
}

// ask is get of a JSON object with status 200.
func (f *front) ask(t *testing.T, path string, who principal.Principal, into any) {
	t.Helper()
	status, _, body := f.get(t, path, who)
	if status != http.StatusOK {
		t.Fatalf("%s: want 200, got %d %s", path, status, body)
	}
	if err := json.Unmarshal(body, into); err != nil {
		t.Fatalf("%s: %v in %s", path, err, body)
	}
}

func insert(t *testing.T, store *Store, events ...usage.Event) {
	t.Helper()
	rows := make([]Row, len(events))
	for i, e := range events {
		rows[i] = Row{Event: e, Seq: uint64(i + 1)}
	}
	if err := store.Insert(t.Context(), token("test", rows), rows); err != nil {
		t.Fatal(err)
	}
}

func TestUsageShowsOwnRowsNewestFirst(t *testing.T) {
	t.Parallel()
	now := time.Now()
	store := openStore(t, testenv.ClickHouse(t))
	f := newFront(t, store, lagOf(0))
	var events []usage.Event
	for i := range 30 {
		events = append(events, event(fmt.Sprintf("a%02d", i), alice, "openai", now.Add(-time.Duration(i)*time.Minute), int64(i)))
	}
	denied := event("b0", bob, "openai", now.Add(-100*24*time.Hour), 0)
	denied.Allowed, denied.Source, denied.Status, denied.Reason = false, usage.FromRefusal, 429, "user-tokens"
	insert(t, store, append(events, denied, event("g0", alice, "gemini", now, 5))...)

	var got usageAnswer
	f.ask(t, "/api/v1/analytics/usage?provider=OpenAI", asUser(), &got)
	if got.Provider != "openai" || got.Count != 20 || len(got.Items) != 20 {
		t.Fatalf("want 20 of openai, got %+v", got)
	}
	for i, item := range got.Items {
		if item.RequestID != fmt.Sprintf("a%02d", i) || item.UserID != alice || item.Tokens != int64(i) ||
			item.InputTokens+item.OutputTokens != int64(i) ||
			!item.Allowed || item.Status != 200 || item.Source != usage.FromProvider || item.Model != "gpt-4o" || item.Key.Provider != "openai" ||
			!item.Key.Timestamp.Equal(events[i].Timestamp.Truncate(time.Millisecond)) {
			t.Errorf("item %d: want the event of a%02d, got %+v", i, i, item)
		}
	}
	f.ask(t, "/api/v1/analytics/usage?provider=openai&limit=200", asUser(), &got)
	if got.Count != 30 {
		t.Errorf("want 30 own rows, got %d", got.Count)
	}
	f.ask(t, "/api/v1/analytics/usage?provider=openai&limit=200", asAdmin(), &got)
	if got.Count != 31 || got.Items[30].UserID != bob || got.Items[30].Allowed || got.Items[30].Reason != "user-tokens" ||
		got.Items[30].Status != 429 {
		t.Errorf("want all 31 rows for an admin with bob's refusal last, got %d: %+v", got.Count, got.Items[len(got.Items)-1])
	}
	f.ask(t, "/api/v1/analytics/usage?provider=openai&requestId=b0", asUser(), &got)
	if got.Count != 0 || got.Items == nil {
		t.Errorf("want bob's request hidden as an empty list, got %+v", got)
	}
	f.ask(t, "/api/v1/analytics/usage?provider=openai&requestId=b0&userId="+bob, asAdmin(), &got)
	if got.Count != 1 {
		t.Errorf("want bob's request, got %+v", got)
	}
}

func TestReportIsExact(t *testing.T) {
	t.Parallel()
	now := time.Now()
	store := openStore(t, testenv.ClickHouse(t))
	var events []usage.Event
	for u := range 7 {
		for i := range 900 { // 6 300 events: more than limit, which limits lists only
			e := event(fmt.Sprintf("r%d-%d", u, i), fmt.Sprintf("%08d-0000-4000-8000-000000000000", u), "qwen",
				now.Add(-time.Duration(i)*time.Second), int64(u*10+i%3))
			e.Allowed = i%10 != 0
			events = append(events, e)
		}
	}
	insert(t, store, events...)
	insert(t, store, events[:1000]...) // once more
	var got reportAnswer
	newFront(t, store, lagOf(17)).ask(t, "/api/v1/analytics/report?provider=qwen&limit=3&windowMinutes=10", asAdmin(), &got)
	want := expected(events, Filter{From: got.WindowStart, To: got.WindowEnd}, 3)
	if got.Events != want.Events || got.Allowed != want.Allowed || got.DeniedEvents != want.Events-want.Allowed ||
		got.Tokens != want.Tokens ||
		got.Consumed != want.Consumed || got.DeniedTokens != want.Tokens-want.Consumed || got.Input != want.Input ||
		got.Output != want.Output ||
		got.UniqueUsers != 7 || got.SampleLimit != 3 || !slices.Equal(got.TopUsers, want.Top) ||
		got.AverageTokensPerEvent != float64(want.Tokens)/float64(want.Events) {
		t.Errorf("want %+v, got %+v", want, got)
	}
	if want.Events < 3000 || got.WindowEnd.Sub(got.WindowStart) != 10*time.Minute || got.PendingEvents == nil || *got.PendingEvents != 17 {
		t.Errorf("want 10 minutes with 17 pending, got %+v", got)
	}
	var none reportAnswer
	newFront(t, store, lagOf(-1)).ask(t, "/api/v1/analytics/report?provider=qwen", asUser(), &none)
	if none.Events != 0 || none.AverageTokensPerEvent != 0 || none.TopUsers == nil || none.PendingEvents != nil ||
		none.SampleLimit != 5000 {
		t.Errorf("want an empty report with the lag unknown, got %+v", none)
	}
}

func TestAnomalies(t *testing.T) {
	t.Parallel()
	now := time.Now()
	store := openStore(t, testenv.ClickHouse(t))
	insert(t, store, event("now", alice, "openai", now.Add(-time.Minute), 900), event("before", alice, "openai", now.Add(-90*time.Minute),
		800),
		event("edge", alice, "openai", now.Add(-400*time.Minute), 5000), event("alone", alice, "qwen", now.Add(-time.Minute), 5))
	f := newFront(t, store, lagOf(0))
	var got anomalyAnswer
	f.ask(t, "/api/v1/analytics/anomalies?provider=openai", asUser(), &got)
	if got.CurrentTokens != 900 || got.BaselineAverageTokens != 200 || got.Ratio == nil || *got.Ratio != 4.5 || !got.Anomaly ||
		got.ThresholdMultiplier != 2 || got.BaselineWindows != 4 {
		t.Errorf("want 900 against 200, an anomaly, got %+v", got)
	}
	f.ask(t, "/api/v1/analytics/anomalies?provider=openai&thresholdMultiplier=5", asUser(), &got)
	if got.Anomaly {
		t.Errorf("want no anomaly below the threshold, got %+v", got)
	}
	f.ask(t, "/api/v1/analytics/anomalies?provider=qwen", asUser(), &got)
	if got.CurrentTokens != 5 || got.Ratio != nil || got.Anomaly {
		t.Errorf("want ratio null without a baseline, got %+v", got)
	}
}

func TestExport(t *testing.T) {
	t.Parallel()
	now := time.Now()
	store := openStore(t, testenv.ClickHouse(t))
	insert(t, store, event("a", alice, "openai", now, 1), event("b", bob, "qwen", now, 2), event("old", alice, "qwen", now.Add(-3*time.Hour),
		3))
	f := newFront(t, store, lagOf(4))
	for name, tc := range map[string]struct {
		query string
		who   principal.Principal
		want  []string
	}{
		"own":              {"", asUser(), []string{"a"}},
		"all for admin":    {"", asAdmin(), []string{"a", "b"}},
		"since":            {"?from=" + now.Add(-4*time.Hour).UTC().Format(time.RFC3339), asUser(), []string{"a", "old"}},
		"until":            {"?from=2026-01-01T00:00:00Z&to=" + now.Add(-time.Hour).UTC().Format(time.RFC3339), asAdmin(), []string{"old"}},
		"one account":      {"?account=user:" + bob, asAdmin(), []string{"b"}},
		"another's rows":   {"?account=user:" + bob, asUser(), nil},
		"one provider":     {"?provider=qwen", asAdmin(), []string{"b"}},
		"nothing in range": {"?to=2020-01-01T00:00:00Z", asAdmin(), nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			status, header, body := f.get(t, "/api/v1/analytics/export"+tc.query, tc.who)
			if status != 200 || header.Get("Content-Type") != "application/x-ndjson" || header.Get(HeaderPending) != "4" {
				t.Fatalf("want NDJSON with 4 pending, got %d %v %s", status, header, body)
			}
			var ids []string
			for lines := bufio.NewScanner(strings.NewReader(string(body))); lines.Scan(); {
				var i item
				if err := json.Unmarshal(lines.Bytes(), &i); err != nil {
					t.Fatal(err)
				}
				ids = append(ids, i.RequestID)
			}
			slices.Sort(ids)
			if !slices.Equal(ids, tc.want) {
				t.Errorf("want %v, got %v", tc.want, ids)
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	f := newFront(t, openStore(t, testenv.ClickHouse(t)), lagOf(0))
	nobody := principal.Principal{}
	for name, tc := range map[string]struct {
		path   string
		who    principal.Principal
		status int
	}{
		"health is open":           {"health", nobody, 200},
		"usage":                    {"usage?provider=openai", nobody, 401},
		"report":                   {"report?provider=openai", nobody, 401},
		"anomalies":                {"anomalies?provider=openai", nobody, 401},
		"export":                   {"export", nobody, 401},
		"no role":                  {"usage?provider=openai", principal.Principal{UserID: alice, Roles: []string{}}, 403},
		"no provider":              {"usage", asUser(), 400},
		"report, blank":            {"report?provider=", asUser(), 400},
		"report, unknown":          {"report?provider=nobody", asUser(), 400},
		"somebody's usage":         {"usage?provider=openai&userId=" + bob, asUser(), 403},
		"somebody's sums":          {"report?provider=openai&userId=" + bob, asUser(), 403},
		"somebody's books":         {"export?userId=" + bob, asUser(), 403},
		"bad time":                 {"export?from=yesterday", asUser(), 400},
		"bad account":              {"export?account=x'", asUser(), 400},
		"no such path":             {"nothing", asUser(), 404},
		"trends":                   {"trends", nobody, 401},
		"somebody's sums, by path": {"users/" + bob, asUser(), 403},
		"no id":                    {"users/me", asUser(), 400},
		"twice whose":              {"users/" + alice + "?userId=" + bob, asUser(), 400},
		"misspelt":                 {"usage?provider=openai&user_id=" + bob, asUser(), 400},
		"no format":                {"export?format=xml", asUser(), 400},
		"no interval":              {"trends?interval=year", asUser(), 400},
		"no zone":                  {"trends?zone=Mars/Olympus", asUser(), 400},
		"our zone":                 {"trends?zone=Local", asUser(), 400},
		"a zone of files":          {"trends?zone=../../etc/passwd", asUser(), 400},
		"too many buckets":         {"trends?interval=minute&from=2020-01-01T00:00:00Z", asUser(), 400},
		"a blank provider":         {"trends?provider=", asUser(), 400},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			status, header, body := f.get(t, "/api/v1/analytics/"+tc.path, tc.who)
			if status != tc.status {
				t.Fatalf("want %d, got %d %s", tc.status, status, body)
			}
			if status != 200 && header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("want a problem, got %s", header.Get("Content-Type"))
			}
		})
	}
}

func TestQueriesAreCountedWithConstantLabels(t *testing.T) {
	t.Parallel()
	f := newFront(t, openStore(t, testenv.ClickHouse(t)), lagOf(0))
	for _, query := range []string{"provider=openai", "provider=openai&limit=x", "provider=%3Cscript%3E", ""} {
		f.get(t, "/api/v1/analytics/usage?"+query, asUser())
	}
	_, _, metrics := f.get(t, "/metrics", principal.Principal{})
	for _, series := range []string{`analytics_usage_query_total{outcome="success",provider="openai"} 1`,
		`analytics_usage_query_total{outcome="failure",provider="openai"} 1`,
		`analytics_usage_query_total{outcome="failure",provider="unknown"} 2`} {
		if !strings.Contains(string(metrics), series) {
			t.Errorf("want %s in %s", series, metrics)
		}
	}
}

func TestStoreAwayIs503(t *testing.T) {
	t.Parallel()
	store, err := NewStore(StoreConfig{URL: "http://127.0.0.1:1/none", Timeout: time.Second, Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	f := newFront(t, store, lagOf(0))
	store.ready.Store(true) // as after a migration: the queries themselves fail
	for _, path := range []string{"usage?provider=openai", "report?provider=openai", "anomalies?provider=openai", "export"} {
		status, header, body := f.get(t, "/api/v1/analytics/"+path, asUser())
		if status != 503 || header.Get("Retry-After") == "" || strings.Contains(string(body), "127.0.0.1") {
			t.Errorf("%s: want 503 with Retry-After and no host, got %d %s", path, status, body)
		}
	}
	store.ready.Store(false)
	if status, _, body := f.get(t, "/readyz", principal.Principal{}); status != 503 {
		t.Errorf("want not ready, got %d %s", status, body)
	}
	for _, url := range []string{"", "://", "http://user:hunter2@[::1/x"} {
		if _, err := NewStore(StoreConfig{URL: url, Log: quiet()}); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("want %q refused without its password, got %v", url, err)
		}
	}
}

func TestACallShowsWithinTwoSeconds(t *testing.T) {
	t.Parallel()
	store, js := openStore(t, testenv.ClickHouse(t)), jetStream(t, testenv.NATS(t))
	c, _ := running(t, js, store)
	f := newFront(t, store, c)
	publish(t, js, event("first", alice, "openai", time.Now(), 1))
	drained(t, c)
	publish(t, js, event("second", alice, "openai", time.Now(), 2))
	// The bound is what the consumer waits on purpose, not a clock: one linger.
	if linger > time.Second {
		t.Errorf("want to linger at most a second, got %v", linger)
	}
	var got usageAnswer
	testenv.Eventually(t, "second call in usage", func() bool {
		f.ask(t, "/api/v1/analytics/usage?provider=openai", asUser(), &got)
		return got.Count == 2
	})
	var sums reportAnswer
	f.ask(t, "/api/v1/analytics/report?provider=openai", asUser(), &sums)
	if sums.Tokens != 3 || sums.PendingEvents == nil {
		t.Errorf("want 3 tokens and the lag, got %+v", sums)
	}
}
