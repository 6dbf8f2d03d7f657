package console

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/client/api"
)

const origin = "https://gateway.example"

// newSite is a console whose gateway is h.
func newSite(t *testing.T, h http.Handler) (*Console, http.Handler) {
	t.Helper()
	gateway := httptest.NewServer(h)
	t.Cleanup(gateway.Close)
	c, err := New(Config{Gateway: gateway.URL, PublicURL: origin, Key: bytes.Repeat([]byte{7}, 32), Providers: []string{"openai"},
		Model: "m", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	pages, err := c.Handler(origin)
	if err != nil {
		t.Fatal(err)
	}
	return c, pages
}

// signed is the cookie of a session.
func signed(t *testing.T, c *Console, s session) *http.Cookie {
	t.Helper()
	w := httptest.NewRecorder()
	if err := c.seal.put(w, sessionCookie, s, time.Hour); err != nil {
		t.Fatal(err)
	}
	return w.Result().Cookies()[0]
}

func TestNextStaysHere(t *testing.T) {
	t.Parallel()
	for given, want := range map[string]string{
		"/console/usage?by=user": "/console/usage?by=user", "/console/": "/console/", "": "/console/", "/oauth2/authorize": "/console/",
		"//evil.example/console/": "/console/", "https://evil.example/console/": "/console/", `/\evil.example`: "/console/",
		"/console/\r\nX: y": "/console/", "/console//evil": "/console/", "javascript:alert(1)": "/console/",
		"/console/x?" + strings.Repeat("y", 2000): "/console/",
	} {
		if got := next(given); got != want {
			t.Errorf("next(%q): want %s, got %s", given, want, got)
		}
	}
}

func TestCookiesOfOneKindAreNoneOfAnother(t *testing.T) {
	t.Parallel()
	c, _ := newSite(t, http.NotFoundHandler())
	sealed := signed(t, c, session{Access: "a", Until: time.Now().Add(time.Hour)})
	r := httptest.NewRequest("GET", "/", http.NoBody)
	r.AddCookie(sealed)
	r.AddCookie(&http.Cookie{Name: signInCookie, Value: sealed.Value})
	var now session
	if err := c.seal.get(r, sessionCookie, &now); err != nil || now.Access != "a" {
		t.Errorf("want the session back, got %v, %v", now, err)
	}
	if err := c.seal.get(r, signInCookie, &attempt{}); err == nil {
		t.Error("a session passes for a sign-in")
	}
	if strings.Contains(sealed.Value, "a") && strings.Contains(sealed.Value, `"a"`) {
		t.Error("the token can be read in the cookie")
	}
}

// TestHostileNamesAreText: whatever callers named, on pages that show it.
func TestHostileNamesAreText(t *testing.T) {
	t.Parallel()
	const hostile = `"><script>alert(1)</script><img src=x onerror=alert(1)>{{.}}`
	me := api.Me{ID: uuid.New(), Username: hostile, Tier: hostile, Account: hostile, Roles: []string{"ADMIN"},
		Organisations: []api.Organisation{{ID: uuid.New(), Name: hostile, Role: "OWNER", Team: hostile}},
		Limits:        &[]api.Limit{{Rule: hostile, Unit: "tokens", Capacity: 10, Level: 5, Provider: hostile}}}
	item := api.UsageItem{RequestID: "r1", UserID: hostile, Provider: "openai", Model: hostile, Reason: hostile, EndUser: hostile, Session: hostile,
		Tags: map[string]string{"x": hostile}, Allowed: true, Team: hostile, PriceVersion: hostile, CostMicros: new(int64(5)), Currency: "USD"}
	sums := api.UsageSums{TotalEvents: 1, TotalTokens: 5, CostMicros: map[string]int64{hostile: 5}}
	answers := map[string]any{"/api/v1/me": me, "/api/v1/analytics/usage": api.UsagePage{Items: []api.UsageItem{item}},
		"/api/v1/analytics/trends":    api.UsageTrend{Total: sums, PendingEvents: new(int64(3))},
		"/api/v1/analytics/providers": api.UsageGroups{Groups: []api.UsageGroup{{Key: map[string]string{"provider": hostile}, Sums: sums}}},
		"/api/v1/analytics/report":    api.UsageReport{Groups: []api.UsageGroup{{Key: map[string]string{"user": hostile, "model": hostile}, Sums: sums}}},
		"/api/v1/analytics/anomalies": api.Anomalies{Provider: hostile}, "/api/v1/me/usage": api.UsageGroups{},
		"/api/v1/auth/api-keys": []api.APIKey{{ID: uuid.New(), Name: new(hostile)}}, "/api/v1/admin/users": []api.User{},
		"/api/v1/orgs/invitations": []api.OrgInvitation{{OrgName: hostile, InvitedBy: hostile, Team: hostile}},
		"/api/v1/tokens/quota":     api.Quota{Provider: hostile, TotalTokens: 5},
		"/api/v1/tokens/ledger":    api.LedgerPage{Items: []api.LedgerEntry{{Kind: hostile, Reference: hostile, Reason: hostile}}, NextCursor: hostile},
		"/api/v1/admin/sagas":      api.SagaPage{Items: []api.Saga{{Account: hostile, Currency: hostile}}}}
	org := me.Organisations[0].ID.String()
	answers["/api/v1/orgs/"+org+"/members"] = []api.Member{{Username: hostile, Role: "OWNER", Team: hostile}}
	answers["/api/v1/orgs/"+org+"/invitations"] = []api.OrgInvitation{{Username: hostile, Team: hostile}}
	answers["/api/v1/admin/orgs"] = []api.OrganisationSummary{{ID: uuid.New(), Name: hostile}}
	answers["/api/v1/orgs/"+org+"/teams"] = []api.Team{{Name: hostile}}
	c, pages := newSite(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		found, ok := answers[r.URL.Path]
		if !ok || r.Header.Get("Authorization") != "Bearer token" {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(found)
	}))
	cookie := signed(t, c, session{Access: "token", Ends: time.Now().Add(time.Hour), Until: time.Now().Add(time.Hour)})
	for _, at := range []string{"/", "/requests", "/requests/r1", "/usage?by=user&model=" + url.QueryEscape(hostile), "/keys", "/limits", "/balance",
		"/orgs", "/orgs/" + org, "/system"} {
		r := httptest.NewRequest("GET", path+at, http.NoBody)
		r.AddCookie(cookie)
		w := httptest.NewRecorder()
		pages.ServeHTTP(w, r)
		text := w.Body.String()
		if w.Code != 200 || !strings.Contains(text, "&lt;script&gt;") || strings.Contains(text, "<script>") || strings.Contains(text, "<img src=x") {
			t.Errorf("%s: %d, hostile text is not all escaped: %s", at, w.Code, text)
		}
	}
}

// TestWhatIsAway: a page says so in a sentence, and of what is ours nothing.
func TestWhatIsAway(t *testing.T) {
	t.Parallel()
	for status, want := range map[int]int{401: 401, 403: 403, 429: 429, 500: 503, 503: 503} {
		c, pages := newSite(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/problem+json")
			w.Header().Set("Retry-After", "60")
			w.WriteHeader(status)
			_ = json.NewEncoder(w).Encode(map[string]string{"message": "because <b>"})
		}))
		r := httptest.NewRequest("GET", path+"/keys", http.NoBody)
		r.AddCookie(signed(t, c, session{Access: "secret-token", Ends: time.Now().Add(time.Hour), Until: time.Now().Add(time.Hour)}))
		w := httptest.NewRecorder()
		pages.ServeHTTP(w, r)
		if w.Code != want || strings.Contains(w.Body.String(), "<b>") || strings.Contains(w.Body.String(), "secret-token") {
			t.Errorf("%d: want %d, got %d %s", status, want, w.Code, w.Body)
		}
		if gone := status == 401; gone != strings.Contains(w.Header().Get("Set-Cookie"), "Max-Age=0") {
			t.Errorf("%d: Set-Cookie %q", status, w.Header().Get("Set-Cookie"))
		}
	}
}

func TestNumbersForPeople(t *testing.T) {
	t.Parallel()
	for got, want := range map[string]string{count(-1234567): "−1\u202f234\u202f567", count(7): "7", short(9_999): "9\u202f999", short(12_345): "12.3k",
		short(1_234_567): "1.23M", money(nil): "–", money(map[string]int64{"USD": 1_500_000, "EUR": 12}): "€0.000012 + $1.50",
		money(map[string]int64{"USD": 500_000}): "$0.5000", cents(1234, "usd"): "$12.34", percent(1, 4): "25.0 %", percent(1, 0): "0 %",
		percent(1, 100_000): "< 0.1 %", width(5, 0): "0", width(200, 100): "100.00", ago(time.Time{}): "never", wait(0): "now",
		place("unix:/run/leaky/identity.sock"): "identity.sock",
		place("127.0.0.1:8081"):                "127.0.0.1:8081", wait(90): "in 90 s", wait(86400): "in 24 h"} {
		if got != want {
			t.Errorf("want %q, got %q", want, got)
		}
	}
}

// TestFirstPageIsLight: all that a browser loads for it, uncompressed.
func TestFirstPageIsLight(t *testing.T) {
	t.Parallel()
	p, err := newPages()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0
	for name, a := range p.static {
		if sum += len(a.content); a.version == "" {
			t.Errorf("%s has no version", name)
		}
	}
	if most := 150 << 10; sum > most {
		t.Errorf("want at most %d bytes of files, got %d", most, sum)
	}
}
