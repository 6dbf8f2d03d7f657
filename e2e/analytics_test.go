package e2e

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"net/http"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// sums are the members of an answer that this test looks at.
type sums struct {
	Total struct {
		TotalEvents int64            `json:"totalEvents"`
		TotalTokens int64            `json:"totalTokens"`
		CostMicros  map[string]int64 `json:"costMicros"`
	}
	Groups []struct{ Key map[string]string }
}

// TestAnalyticsThroughEnvoy asks every route, as whom it is for and as whom it is not.
func TestAnalyticsThroughEnvoy(t *testing.T) {
	t.Parallel()
	owner, member, admin := newAccount(t), newAccount(t), newAccount(t, "ADMIN")
	org := newOrg(t, owner, member)
	var bound struct{ APIKey string }
	mustCall(t, 201, "POST", "/api/v1/auth/api-keys", member.JWT, map[string]string{"name": "bound", "orgId": org}, &bound)

	const body = `{"model":"gpt-4o","max_tokens":20,"messages":[{"role":"user","content":"hi"}],"user":"customer-7"}`
	status, header, _, err := running.Send(t.Context(), "POST", "/v1/chat/completions", bound.APIKey, body, "X-Session-Id", "run 1")
	if err != nil || status != http.StatusOK {
		t.Fatalf("want 200, got %d, %v", status, err)
	}
	id := header.Get("x-request-id")
	var page struct {
		Items []struct {
			RequestID, EndUser, Session, PriceVersion, Currency string
			Tokens, InputTokens, OutputTokens, Attempts         int64
			CostMicros                                          *int64
		}
	}
	testenv.Eventually(t, "the call on the books", func() bool {
		mustCall(t, 200, "GET", "/api/v1/analytics/usage?provider=openai", member.JWT, nil, &page)
		return len(page.Items) == 1
	})
	row := page.Items[0]
	if row.RequestID != id || row.EndUser != "customer-7" || row.Session != "run 1" || row.Attempts != 1 {
		t.Errorf("want what the call said of itself, got %+v", row)
	}
	// gpt-4o: 2.50 and 10.00 USD for a million.
	cost := (row.InputTokens*2_500_000 + row.OutputTokens*10_000_000 + 500_000) / 1_000_000
	if row.CostMicros == nil || *row.CostMicros != cost || row.PriceVersion == "" || row.Currency != "USD" {
		t.Errorf("want a cost of %d micro-dollars, got %+v", cost, row)
	}

	mustCall(t, 200, "GET", "/api/v1/analytics/health", member.Key, nil, nil)
	var report struct {
		sums
		TotalEvents int64            `json:"totalEvents"`
		TotalTokens int64            `json:"totalTokens"`
		CostMicros  map[string]int64 `json:"costMicros"`
	}
	for _, limit := range []string{"1", "5000"} {
		mustCall(t, 200, "GET", "/api/v1/analytics/report?provider=openai&groupBy=endUser,session&limit="+limit, member.JWT, nil, &report)
		if report.TotalEvents != 1 || report.TotalTokens != row.Tokens || report.CostMicros["USD"] != cost || len(report.Groups) != 1 ||
			report.Groups[0].Key["endUser"] != "customer-7" {
			t.Errorf("limit %s: want the call and its cost, got %+v", limit, report)
		}
	}
	mustCall(t, 200, "GET", "/api/v1/analytics/anomalies?provider=openai", member.JWT, nil, nil)
	for path, who := range map[string]string{"/api/v1/me/usage": member.JWT, "/api/v1/analytics/providers": member.Key,
		"/api/v1/analytics/users/" + member.ID: member.JWT, "/api/v1/analytics/users/" + member.ID + "?provider=openai": admin.JWT,
		"/api/v1/analytics/providers?orgId=" + org: owner.JWT, "/api/v1/analytics/providers?userId=" + member.ID: admin.JWT,
		"/api/v1/analytics/trends?interval=day&zone=Pacific/Auckland": member.JWT, "/api/v1/analytics/trends?orgId=" + org: owner.JWT} {
		var got sums
		mustCall(t, 200, "GET", path, who, nil, &got)
		if got.Total.TotalEvents != 1 || got.Total.TotalTokens != row.Tokens || got.Total.CostMicros["USD"] != cost {
			t.Errorf("%s: want the one call, got %+v", path, got)
		}
	}
	for format, count := range map[string]func([]byte) int{
		"ndjson": func(text []byte) int { return bytes.Count(text, []byte("\n")) },
		"csv": func(text []byte) int {
			lines, _ := csv.NewReader(bytes.NewReader(text)).ReadAll()
			return len(lines) - 1
		},
	} {
		status, _, text, err := running.Send(t.Context(), "GET", "/api/v1/analytics/export?format="+format, member.JWT, nil)
		if err != nil || status != 200 || count(text) != 1 || !bytes.Contains(text, []byte(id)) {
			t.Errorf("%s: want the one call, got %d %s, %v", format, status, text, err)
		}
	}
	for path, want := range map[string]int{
		"/api/v1/analytics/users/" + member.ID: 403, "/api/v1/analytics/report?provider=openai&userId=" + member.ID: 403,
		"/api/v1/analytics/usage?provider=openai&orgId=" + member.ID: 403, "/api/v1/analytics/usage?provider=openai&user=x": 400,
		"/api/v1/analytics/report": 400, "/api/v1/analytics/trends?interval=fortnight": 400, "/api/v1/me/usage?userId=" + member.ID: 400,
	} {
		status, _, text, err := running.Send(t.Context(), "GET", path, owner.JWT, nil)
		if err != nil || status != want || !json.Valid(text) {
			t.Errorf("%s: want %d as JSON, got %d %s, %v", path, want, status, text, err)
		}
	}
	mustCall(t, 403, "GET", "/api/v1/analytics/usage?provider=openai&orgId="+org, member.JWT, nil, nil)
	mustCall(t, 200, "GET", "/api/v1/analytics/usage?provider=openai&orgId="+org, owner.JWT, nil, &page)
	if len(page.Items) != 1 {
		t.Errorf("want the organisation's call for its owner, got %+v", page)
	}
	mustCall(t, 200, "GET", "/api/v1/analytics/usage?provider=openai", owner.JWT, nil, &page)
	if len(page.Items) != 0 {
		t.Errorf("want no call of the owner's own, got %+v", page)
	}
}
