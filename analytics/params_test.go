package analytics

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/membership"
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
			got, err := readerOf(tc.who).usage(t.Context(), tc.query, time.Now())
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
			got, err := readerOf(asUser()).anomalies(t.Context(), "provider=openai"+tc.query, now)
			if tc.fails != "" {
				if refused, ok := errors.AsType[*httpapi.Error](err); !ok || refused.Message != tc.fails || refused.Status != http.StatusBadRequest {
					t.Fatalf("want %q, got %v", tc.fails, err)
				}
				return
			}
			end := now.Truncate(time.Millisecond)
			want := reportParams{filter: Filter{Provider: "openai", UserID: alice, From: end.Add(-tc.window), To: end}, limit: tc.limit,
				baselines: tc.baselines, threshold: tc.threshold}
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("want %+v, got %+v, %v", want, got, err)
			}
		})
	}
}

// membersOf is who is what, by organisation and user.
type membersOf map[[2]string]string

func (m membersOf) Ask(_ context.Context, org, user string) (membership.Answer, error) {
	role := m[[2]string{org, user}]
	if role == "?" {
		return membership.Answer{}, membership.ErrUnavailable
	}
	return membership.Answer{Member: role != "", Role: role}, nil
}

const (
	owned   = "aaaaaaaa-0000-4000-8000-000000000000" // alice is its owner
	joined  = "bbbbbbbb-0000-4000-8000-000000000000" // and here a member
	unknown = "cccccccc-0000-4000-8000-000000000000" // nobody knows what here
)

func members() membersOf {
	return membersOf{{owned, alice}: membership.Owner, {joined, alice}: membership.Member, {unknown, alice}: "?"}
}

func readerOf(who principal.Principal) reader { return reader{who, members(), providers()} }

func TestScope(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		who    principal.Principal
		query  string
		user   string
		org    string
		status int
	}{
		"own":                        {asUser(), "", alice, "", 0},
		"an owner's organisation":    {asUser(), "orgId=" + owned, "", owned, 0},
		"one of its members":         {asUser(), "orgId=" + owned + "&userId=" + bob, bob, owned, 0},
		"in upper case":              {asUser(), "orgId=" + strings.ToUpper(owned), "", owned, 0},
		"a member's organisation":    {asUser(), "orgId=" + joined, "", "", 403},
		"a member's own calls in it": {asUser(), "orgId=" + joined + "&userId=" + alice, alice, joined, 0},
		"somebody else's in it":      {asUser(), "orgId=" + joined + "&userId=" + bob, "", "", 403},
		"an organisation of others":  {asUser(), "orgId=" + bob, "", "", 403},
		"nobody knows":               {asUser(), "orgId=" + unknown, "", "", 503},
		"no organisation":            {asUser(), "orgId=acme", "", "", 400},
		"admin":                      {asAdmin(), "", "", "", 0},
		"admin, any organisation":    {asAdmin(), "orgId=" + joined + "&userId=" + alice, alice, joined, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := readerOf(tc.who).usage(t.Context(), "provider=openai&"+tc.query, time.Now())
			if refused, ok := errors.AsType[*httpapi.Error](err); ok != (tc.status != 0) || ok && refused.Status != tc.status {
				t.Fatalf("want status %d, got %v", tc.status, err)
			}
			if err == nil && (got.filter.UserID != tc.user || got.filter.OrgID != tc.org) {
				t.Errorf("want user %q of organisation %q, got %+v", tc.user, tc.org, got.filter)
			}
		})
	}
}

func TestQueriesAreRefusedInWords(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	for query, want := range map[string]string{
		"windowMinuts=5":                       `unknown parameter "windowMinuts"; did you mean windowMinutes?`,
		"groupBy=users":                        "groupBy takes account, allowed,",
		"groupBy=user,user":                    "groupBy takes",
		"groupBy=user_id":                      "groupBy takes",
		"groupBy=tag.x'||'y":                   "groupBy takes",
		"groupBy=user,team,key,model,provider": "at most 4",
		"from=2026-03-04T00:00:00Z&to=2026-03-04T00:00:00Z":        "from must be before to",
		"from=2026-03-04T01:00:00%2B01:00&to=2026-03-04T00:00:00Z": "from must be before to",
		"from=2026-03-04": "from must be an RFC 3339 time",
		"to=now":          "to must be an RFC 3339 time",
		"from=2026-03-04T00:00:00Z&windowMinutes=5": "leave one out",
		"tag=project":                         "tag must be NAME:VALUE",
		"tag=Project:x":                       "tag must be NAME:VALUE",
		"tag=a:x%00":                          "tag must be NAME:VALUE",
		"team=%00":                            "invalid team",
		"keyId=x'":                            "invalid keyId",
		"session=" + strings.Repeat("x", 257): "session is longer than 256 bytes",
		"interval=hour":                       `unknown parameter "interval"`,
	} {
		_, err := readerOf(asUser()).report(t.Context(), "provider=openai&"+query, now)
		if refused, ok := errors.AsType[*httpapi.Error](err); !ok || refused.Status != 400 || !strings.Contains(refused.Message, want) {
			t.Errorf("%s: want 400 with %q, got %v", query, want, err)
		}
	}
}

func TestSpans(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 4, 5, 6, 7, 8999999, time.UTC)
	end := now.Truncate(time.Millisecond)
	for query, want := range map[string][2]time.Time{
		"":                                 {end.Add(-time.Hour), end},
		"windowMinutes=5":                  {end.Add(-5 * time.Minute), end},
		"from=2026-03-01T00:00:00%2B02:00": {time.Date(2026, 2, 28, 22, 0, 0, 0, time.UTC), end},
		"to=2026-03-01T00:00:00Z":          {time.Date(2026, 2, 28, 23, 0, 0, 0, time.UTC), time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)},
		"to=2026-03-01T00:00:00Z&windowMinutes=1":           {time.Date(2026, 2, 28, 23, 59, 0, 0, time.UTC), time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)},
		"from=2026-01-01T00:00:00Z&to=2026-02-01T00:00:00Z": {time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC)},
	} {
		got, err := readerOf(asUser()).report(t.Context(), "provider=openai&"+query, now)
		if err != nil || !got.filter.From.Equal(want[0]) || !got.filter.To.Equal(want[1]) {
			t.Errorf("%q: want %v, got %v to %v, %v", query, want, got.filter.From, got.filter.To, err)
		}
	}
}

func TestCalendar(t *testing.T) {
	t.Parallel()
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	kathmandu, err := time.LoadLocation("Asia/Kathmandu")
	if err != nil {
		t.Fatal(err)
	}
	havana, err := time.LoadLocation("America/Havana")
	if err != nil {
		t.Fatal(err)
	}
	hours := func(starts []time.Time) (lengths []float64) {
		for i := range starts[1:] {
			lengths = append(lengths, starts[i+1].Sub(starts[i]).Hours())
		}
		return lengths
	}
	for name, tc := range map[string]struct {
		c        calendar
		from, to string
		first    string
		hours    []float64
	}{
		"spring has a day of 23 hours": {calendar{perDay, berlin}, "2026-03-28T12:00:00Z", "2026-03-30T12:00:00Z", "2026-03-28T00:00:00+01:00", []float64{24, 23, 24}},
		"autumn has one of 25":         {calendar{perDay, berlin}, "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z", "2026-10-25T00:00:00+02:00", []float64{25}},
		"half-open":                    {calendar{perDay, berlin}, "2026-10-24T22:00:00Z", "2026-10-25T23:00:00.001Z", "2026-10-25T00:00:00+02:00", []float64{25, 24}},
		"a week begins on Monday":      {calendar{perWeek, time.UTC}, "2026-03-08T23:59:59Z", "2026-03-09T00:00:01Z", "2026-03-02T00:00:00Z", []float64{168, 168}},
		"months":                       {calendar{perMonth, time.UTC}, "2026-01-31T00:00:00Z", "2026-03-01T00:00:00Z", "2026-01-01T00:00:00Z", []float64{31 * 24, 28 * 24}},
		"a day begins at one o'clock":  {calendar{perDay, havana}, "2026-03-07T12:00:00Z", "2026-03-09T12:00:00Z", "2026-03-07T00:00:00-05:00", []float64{24, 23, 24}},
		"an hour that comes twice":     {calendar{perHour, berlin}, "2026-10-25T00:00:00Z", "2026-10-25T03:00:00Z", "2026-10-25T02:00:00+02:00", []float64{1, 1, 1}},
		"three quarters of an hour":    {calendar{perHour, kathmandu}, "2026-01-01T00:00:00Z", "2026-01-01T00:20:00Z", "2026-01-01T05:00:00+05:45", []float64{1, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			from, _ := time.Parse(time.RFC3339, tc.from)
			to, _ := time.Parse(time.RFC3339Nano, tc.to)
			starts, err := tc.c.buckets(from, to)
			if err != nil || starts[0].Format(time.RFC3339) != tc.first || !slices.Equal(hours(starts), tc.hours) {
				t.Errorf("want %s and %v, got %v, %v", tc.first, tc.hours, starts, err)
			}
		})
	}
	if _, err := (calendar{perMinute, time.UTC}).buckets(time.Unix(0, 0), time.Unix(1e9, 0)); err == nil {
		t.Error("want too many buckets refused")
	}
}

// TestBucketsFollowEachOther: in zones that set their clocks at midnight, or left a day out, each bucket
// is a bucket of its first and of its last moment.
func TestBucketsFollowEachOther(t *testing.T) {
	t.Parallel()
	from, to := time.Date(2010, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2023, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, name := range []string{"America/Havana", "America/Santiago", "Asia/Beirut", "Asia/Gaza", "Atlantic/Azores", "Europe/Berlin",
		"Pacific/Apia", "Pacific/Fakaofo"} {
		zone, err := time.LoadLocation(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, interval := range []string{perDay, perWeek, perMonth} {
			c := calendar{interval, zone}
			starts, err := c.buckets(from, to)
			if err != nil {
				t.Errorf("a %s in %s: %v", interval, name, err)
			}
			for i := 1; i < len(starts); i++ {
				at, next := starts[i-1], starts[i]
				if first, last := c.start(at), c.start(next.Add(-time.Millisecond)); !first.Equal(at) || !last.Equal(at) || !next.After(at) {
					t.Fatalf("a %s in %s from %s to %s: its first moment is in one from %s, its last in one from %s", interval, name, at, next, first, last)
				}
			}
		}
	}
}

func FuzzParameters(f *testing.F) {
	for _, seed := range []string{"", "provider=openai", "provider=%00&limit=+5", "provider=openai&limit=1e3&windowMinutes=９",
		"provider=OPENAI&thresholdMultiplier=0x1p-2",
		"provider=openai&userId=" + alice + "&requestId=%27", "from=2026-01-01T00:00:00Z&to=0000-01-01T00:00:00Z&account=user:x",
		"provider=openai&baselineWindows=-0", "provider=openai&groupBy=user,tag.a&tag=a:b'&orgId=" + owned,
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
			if filter.UserID != alice && filter.OrgID != owned {
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
		r := readerOf(asUser())
		if p, err := r.usage(t.Context(), raw, now); err != nil {
			refusedWell(err)
		} else if own(p.filter, true); p.limit < 1 || p.limit > usageLimitMost {
			t.Fatalf("want a limit in range, got %d", p.limit)
		}
		if p, err := r.anomalies(t.Context(), raw, now); err != nil {
			refusedWell(err)
		} else if own(p.filter, true); !p.filter.From.Before(p.filter.To) || p.limit < 1 || p.limit > 5000 || p.baselines < 1 ||
			p.baselines > 24 || !(p.threshold >= 1) {
			t.Fatalf("want everything in range, got %+v", p)
		}
		if p, err := r.report(t.Context(), raw, now); err != nil {
			refusedWell(err)
		} else if own(p.filter, true); len(p.by) != len(p.groupBy) || len(p.by) > mostDimensions || strings.Contains(strings.Join(p.by, ""), ";") {
			t.Fatalf("want known dimensions, got %+v", p)
		}
	})
}
