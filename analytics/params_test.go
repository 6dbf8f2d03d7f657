package analytics

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
)

func providers() []string { return []string{"gemini", "openai", "qwen"} }

func asUser() principal.Principal {
	return principal.Principal{UserID: alice, Roles: []string{principal.RoleUser}, Tier: "USER"}
}

func asAdmin() principal.Principal {
	return principal.Principal{UserID: bob, Roles: []string{principal.RoleAdmin, principal.RoleUser}, Tier: "ADMIN"}
}

func TestUsageParameters(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		query  string
		who    principal.Principal
		limit  int
		filter Filter
		fails  string
	}{
		"defaults":             {"provider=openai", asUser(), 20, Filter{Provider: "openai", UserID: alice}, ""},
		"trimmed, lower case":  {"provider=+OpenAI%09", asUser(), 20, Filter{Provider: "openai", UserID: alice}, ""},
		"limit at most 200":    {"provider=openai&limit=201", asUser(), 200, Filter{Provider: "openai", UserID: alice}, ""},
		"limit at least 1":     {"provider=openai&limit=-7", asUser(), 1, Filter{Provider: "openai", UserID: alice}, ""},
		"limit beyond int64":   {"provider=openai&limit=99999999999999999999", asUser(), 200, Filter{Provider: "openai", UserID: alice}, ""},
		"limit below int64":    {"provider=openai&limit=-99999999999999999999", asUser(), 1, Filter{Provider: "openai", UserID: alice}, ""},
		"empty limit":          {"provider=openai&limit=", asUser(), 20, Filter{Provider: "openai", UserID: alice}, ""},
		"admin sees all":       {"provider=qwen", asAdmin(), 20, Filter{Provider: "qwen"}, ""},
		"admin asks for one":   {"provider=qwen&userId=" + alice, asAdmin(), 20, Filter{Provider: "qwen", UserID: alice}, ""},
		"own id":               {"provider=qwen&userId=" + strings.ToUpper(alice), asUser(), 20, Filter{Provider: "qwen", UserID: alice}, ""},
		"one request":          {"provider=qwen&requestId=a-1", asUser(), 20, Filter{Provider: "qwen", UserID: alice, RequestID: "a-1"}, ""},
		"no provider":          {"", asUser(), 0, Filter{}, "provider is required"},
		"blank provider":       {"provider=%20", asUser(), 0, Filter{}, "provider is required"},
		"unknown provider":     {"provider=x", asUser(), 0, Filter{}, "unknown provider; known are gemini, openai, qwen"},
		"injected provider":    {"provider=openai'+OR+1=1--", asUser(), 0, Filter{}, "unknown provider; known are gemini, openai, qwen"},
		"long provider":        {"provider=" + strings.Repeat("x", 300), asUser(), 0, Filter{}, "provider is longer than 256 bytes"},
		"limit no number":      {"provider=openai&limit=ten", asUser(), 0, Filter{}, "limit must be a whole number"},
		"limit fraction":       {"provider=openai&limit=1.5", asUser(), 0, Filter{}, "limit must be a whole number"},
		"somebody else":        {"provider=openai&userId=" + bob, asUser(), 0, Filter{}, "userId is not the caller's"},
		"malformed user":       {"provider=openai&userId=1", asAdmin(), 0, Filter{}, "invalid userId"},
		"injected request id":  {"provider=openai&requestId='%3BDROP", asUser(), 0, Filter{}, "invalid requestId"},
		"malformed escape":     {"provider=%zz", asUser(), 0, Filter{}, "malformed query string"},
		"semicolon separators": {"provider=openai;limit=1", asUser(), 0, Filter{}, "malformed query string"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := parseUsage(tc.query, tc.who, providers())
			if tc.fails != "" {
				if refused, ok := errors.AsType[*httpapi.Error](err); !ok || refused.Message != tc.fails {
					t.Fatalf("want %q, got %v", tc.fails, err)
				}
				return
			}
			if err != nil || got.limit != tc.limit || got.filter != tc.filter {
				t.Errorf("want limit %d and %+v, got %+v, %v", tc.limit, tc.filter, got, err)
			}
		})
	}
}

func TestReportParameters(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 4, 5, 6, 7, 8999999, time.UTC)
	for name, tc := range map[string]struct {
		query     string
		window    time.Duration
		limit     int
		baselines int
		threshold float64
		fails     string
	}{
		"defaults":           {"", time.Hour, 5000, 4, 2, ""},
		"zero means default": {"&windowMinutes=0&limit=0&baselineWindows=0", time.Hour, 5000, 4, 2, ""},
		"negative too":       {"&windowMinutes=-5&limit=-1&baselineWindows=-1&thresholdMultiplier=-1", time.Hour, 5000, 4, 1, ""},
		"clamped":            {"&windowMinutes=1441&limit=5001&baselineWindows=25&thresholdMultiplier=0.5", 24 * time.Hour, 5000, 24, 1, ""},
		"as given":           {"&windowMinutes=5&limit=3&baselineWindows=2&thresholdMultiplier=3.5", 5 * time.Minute, 3, 2, 3.5, ""},
		"window no number":   {"&windowMinutes=x", 0, 0, 0, 0, "windowMinutes must be a whole number"},
		"limit no number":    {"&limit=x", 0, 0, 0, 0, "limit must be a whole number"},
		"baseline no number": {"&baselineWindows=x", 0, 0, 0, 0, "baselineWindows must be a whole number"},
		"threshold NaN":      {"&thresholdMultiplier=NaN", 0, 0, 0, 0, "thresholdMultiplier must be a number"},
		"threshold infinite": {"&thresholdMultiplier=1e999", 0, 0, 0, 0, "thresholdMultiplier must be a number"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := parseAnomalies("provider=openai"+tc.query, asUser(), providers(), now)
			if tc.fails != "" {
				if refused, ok := errors.AsType[*httpapi.Error](err); !ok || refused.Message != tc.fails || refused.Status != http.StatusBadRequest {
					t.Fatalf("want %q, got %v", tc.fails, err)
				}
				return
			}
			end := now.Truncate(time.Millisecond)
			want := reportParams{filter: Filter{Provider: "openai", UserID: alice, From: end.Add(-tc.window), To: end}, limit: tc.limit,
				window:    tc.window,
				baselines: tc.baselines, threshold: tc.threshold}
			if err != nil || got != want {
				t.Errorf("want %+v, got %+v, %v", want, got, err)
			}
		})
	}
}

func FuzzParameters(f *testing.F) {
	for _, seed := range []string{"", "provider=openai", "provider=%00&limit=+5", "provider=openai&limit=1e3&windowMinutes=９",
		"provider=OPENAI&thresholdMultiplier=0x1p-2",
		"provider=openai&userId=" + alice + "&requestId=%27", "from=2026-01-01T00:00:00Z&to=0000-01-01T00:00:00Z&account=user:x",
		"provider=openai&baselineWindows=-0",
		"&&&===%", "provider=openai&provider=x&limit=&limit=2"} {
		f.Add(seed)
	}
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	f.Fuzz(func(t *testing.T, raw string) {
		refusedWell := func(err error) {
			if refused, ok := errors.AsType[*httpapi.Error](err); !ok || refused.Status != http.StatusBadRequest &&
				refused.Status != http.StatusForbidden {
				t.Fatalf("want 400 or 403, got %v", err)
			}
		}
		own := func(filter Filter, needsProvider bool) {
			if filter.UserID != alice {
				t.Fatalf("want only the caller's rows, got %+v", filter)
			}
			if !slices.Contains(providers(), filter.Provider) && (needsProvider || filter.Provider != "") {
				t.Fatalf("want a known provider, got %q", filter.Provider)
			}
			if _, err := url.ParseQuery("requestId=" + filter.RequestID); err != nil || strings.ContainsAny(filter.RequestID+filter.Account,
				"'\"\\ ;") {
				t.Fatalf("want harmless ids, got %+v", filter)
			}
		}
		if p, err := parseUsage(raw, asUser(), providers()); err != nil {
			refusedWell(err)
		} else if own(p.filter, true); p.limit < 1 || p.limit > usageLimitMost {
			t.Fatalf("want a limit in range, got %d", p.limit)
		}
		if p, err := parseAnomalies(raw, asUser(), providers(), now); err != nil {
			refusedWell(err)
		} else if own(p.filter, true); p.window < time.Minute || p.window > 24*time.Hour || p.limit < 1 || p.limit > 5000 || p.baselines < 1 ||
			p.baselines > 24 || !(p.threshold >= 1) {
			t.Fatalf("want everything in range, got %+v", p)
		}
		if filter, err := parseExport(raw, asUser(), providers(), now); err != nil {
			refusedWell(err)
		} else if own(filter, false); filter.From.IsZero() {
			t.Fatalf("want a beginning, got %+v", filter)
		}
	})
}
