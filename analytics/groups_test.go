package analytics

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

func TestReportByAnyDimension(t *testing.T) {
	t.Parallel()
	store, rng := openStore(t, testenv.ClickHouse(t)), rand.New(rand.NewPCG(7, 7))
	now := time.Now()
	events := randomEvents(rng, 500, now)
	insert(t, store, events...)
	f := newFront(t, store, lagOf(0))
	span := "&from=" + now.Add(-48*time.Hour).UTC().Format(time.RFC3339) + "&to=" + now.Add(time.Hour).UTC().Format(time.RFC3339)
	for name, of := range map[string]func(usage.Event) string{
		"user":    func(e usage.Event) string { return e.UserID },
		"endUser": func(e usage.Event) string { return e.EndUser },
		"session": func(e usage.Event) string { return e.Session },
		"tag.n":   func(e usage.Event) string { return e.Tags["n"] },
		"tag.x":   func(usage.Event) string { return "" },
		"model":   func(e usage.Event) string { return e.ModelServed },
		"source":  func(e usage.Event) string { return string(e.Source) },
		"allowed": func(e usage.Event) string { return fmt.Sprint(e.Allowed) },
		"status":  func(e usage.Event) string { return fmt.Sprint(e.Status) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want, cost, total := map[string]int64{}, map[string]int64{}, int64(0)
			for _, e := range events {
				if e.Provider == "qwen" && e.Timestamp.After(now.Add(-48*time.Hour).Truncate(time.Second)) {
					want[of(e)] += e.Charged
					cost[of(e)] += e.CostMicros
					total += e.Charged
				}
			}
			for _, limit := range []int{1, 5000} {
				var got reportAnswer
				f.ask(t, fmt.Sprintf("/api/v1/analytics/report?provider=qwen&groupBy=%s&limit=%d%s", name, limit, span), asAdmin(), &got)
				if got.Tokens != total || got.GroupCount != int64(len(want)) || len(got.Groups) != min(limit, len(want)) {
					t.Errorf("want %d tokens in %d groups whatever the limit, got %d in %d, listed %d", total, len(want), got.Tokens, got.GroupCount, len(got.Groups))
				}
				for _, g := range got.Groups {
					if key := g.Key[name]; g.Sums.Tokens != want[key] || g.Sums.Costs["USD"] != cost[key] {
						t.Errorf("%q: want %d tokens for %d, got %+v", key, want[key], cost[key], g.Sums)
					}
				}
			}
		})
	}
	t.Run("filters", func(t *testing.T) {
		t.Parallel()
		var got groupsAnswer
		f.ask(t, "/api/v1/analytics/providers?endUser=c1&session=s2&tag=n:1&model=gpt-4o"+span, asAdmin(), &got)
		sum, all := int64(0), map[string]int64{}
		for _, e := range events {
			if e.EndUser == "c1" && e.Session == "s2" && e.Tags["n"] == "1" && e.Timestamp.After(now.Add(-48*time.Hour).Truncate(time.Second)) {
				sum += e.Charged
				all[e.Provider] += e.Charged
			}
		}
		if got.Total.Tokens != sum || len(got.Groups) != len(all) {
			t.Errorf("want %d in %v, got %+v", sum, all, got)
		}
		for _, g := range got.Groups {
			if g.Sums.Tokens != all[g.Key["provider"]] {
				t.Errorf("want %v, got %+v", all, g)
			}
		}
	})
}

func TestTrendsOverTheEndOfSummerTime(t *testing.T) {
	t.Parallel()
	store := openStore(t, testenv.ClickHouse(t))
	f := newFront(t, store, lagOf(0))
	day := func(text string) time.Time {
		at, err := time.Parse(time.RFC3339Nano, text)
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	insert(t, store,
		event("edge", alice, "openai", day("2025-10-25T22:00:00Z"), 1), // midnight in Berlin: in
		event("before", alice, "openai", day("2025-10-25T21:59:59.999Z"), 10),
		event("last", alice, "openai", day("2025-10-26T22:59:59.999Z"), 100), // the 25th hour
		event("next", alice, "openai", day("2025-10-26T23:00:00Z"), 1000),
		event("bob's", bob, "openai", day("2025-10-26T12:00:00Z"), 10000))
	var got trendAnswer
	f.ask(t, "/api/v1/analytics/trends?interval=day&zone=Europe/Berlin&from=2025-10-25T00:00:00%2B02:00&to=2025-10-28T00:00:00%2B01:00", asUser(), &got)
	var tokens []int64
	for _, b := range got.Buckets {
		tokens = append(tokens, b.Sums.Tokens)
	}
	if !slices.Equal(tokens, []int64{10, 101, 1000}) || got.Total.Tokens != 1111 || got.Buckets[1].End.Sub(got.Buckets[1].Start) != 25*time.Hour {
		t.Errorf("want 10, 101 and 1000 with a day of 25 hours, got %+v", got)
	}
	f.ask(t, "/api/v1/analytics/trends?interval=hour&zone=Europe/Berlin&from=2025-10-26T00:00:00%2B02:00&to=2025-10-27T00:00:00%2B01:00", asUser(), &got)
	if len(got.Buckets) != 25 || got.Buckets[0].Sums.Tokens != 1 || got.Buckets[24].Sums.Tokens != 100 || got.Total.Tokens != 101 {
		t.Errorf("want 25 hours, the first with 1 and the last with 100, got %+v", got)
	}
	// Two halves are the whole, and the edge is in one of them.
	var halves int64
	for _, span := range []string{"from=2025-10-25T00:00:00Z&to=2025-10-25T22:00:00Z", "from=2025-10-25T22:00:00Z&to=2025-10-28T00:00:00Z"} {
		f.ask(t, "/api/v1/analytics/trends?"+span, asUser(), &got)
		halves += got.Total.Events
	}
	if halves != 4 {
		t.Errorf("want each of 4 calls in one half, got %d", halves)
	}
}

func TestSumsOfOneUser(t *testing.T) {
	t.Parallel()
	now := time.Now()
	store := openStore(t, testenv.ClickHouse(t))
	f := newFront(t, store, lagOf(0))
	inOrg := event("org", bob, "openai", now, 50)
	inOrg.OrgID = owned
	insert(t, store, event("a", alice, "openai", now, 1), event("b", alice, "qwen", now, 2), event("c", bob, "qwen", now, 100), inOrg)
	for path, want := range map[string]int64{"/api/v1/me/usage": 3, "/api/v1/analytics/users/" + alice: 3,
		"/api/v1/analytics/users/" + alice + "?provider=qwen&limit=1": 2, "/api/v1/analytics/users/" + bob + "?orgId=" + owned: 50,
		"/api/v1/analytics/providers": 3, "/api/v1/analytics/providers?orgId=" + owned: 50} {
		var got groupsAnswer
		f.ask(t, path, asUser(), &got)
		if got.Total.Tokens != want || got.Groups == nil {
			t.Errorf("%s: want %d, got %+v", path, want, got)
		}
	}
}

// No spelling of a query shows a USER a row of somebody else's.
func TestHostileQueriesShowOwnRowsAlone(t *testing.T) {
	t.Parallel()
	now := time.Now()
	store := openStore(t, testenv.ClickHouse(t))
	f := newFront(t, store, lagOf(0))
	secret := event("secret", bob, "openai", now, 123454321)
	secret.OrgID, secret.EndUser, secret.Tags = joined, "x", map[string]string{"a": "b"}
	insert(t, store, event("mine", alice, "openai", now, 1), secret)
	injections := []string{"'", "' OR 1=1 --", "') OR (1=1", "\\' OR 1=1 --", "%", "_", "*", bob, "\x00", "x' UNION ALL SELECT * FROM usage --",
		"{p:String}", "?", "1) OR (user_id != '", "${jndi}", "\";", strings.Repeat("9", 60)}
	queries := []string{"userId=" + bob, "orgId=" + joined, "orgId=" + joined + "&userId=" + bob, "account=user:" + bob, "requestId=secret",
		"userId=" + alice + "&userId=" + bob, "userId=" + bob + "&userId=" + alice, "UserId=" + bob, "user_id=" + bob, "userid=" + bob,
		"userId=", "userId=%20", "userId=null", "endUser=x", "tag=a:b", "groupBy=user", "groupBy=account,org"}
	names := []string{"userId", "orgId", "account", "team", "keyId", "model", "endUser", "session", "tag", "requestId", "groupBy", "from", "zone", "format"}
	for i, name := range names {
		for j := range 2 {
			queries = append(queries, name+"="+url.QueryEscape(injections[(2*i+j)%len(injections)]))
		}
	}
	for _, path := range []string{"analytics/usage?provider=openai&", "analytics/report?provider=openai&", "analytics/anomalies?provider=openai&",
		"analytics/export?", "analytics/providers?", "analytics/trends?", "analytics/users/" + alice + "?", "me/usage?"} {
		for _, query := range queries {
			status, _, body := f.get(t, "/api/v1/"+path+query, asUser())
			if status != 200 && status != 400 && status != 403 || bytes.Contains(body, []byte("123454321")) || bytes.Contains(body, []byte("secret\"")) ||
				status == 200 && bytes.Contains(body, []byte(bob)) {
				t.Errorf("%s%s: want own rows or a refusal, got %d %s", path, query, status, body)
			}
		}
	}
}

func TestExportAsCSV(t *testing.T) {
	t.Parallel()
	now := time.Now()
	store := openStore(t, testenv.ClickHouse(t))
	e := event("a", alice, "openai", now, 5)
	e.EndUser, e.Session, e.Tags = "=HYPERLINK(1)", `say "x", y`, map[string]string{"b": "1&2", "a": "x"}
	priced := event("b", alice, "openai", now, 6)
	priced.PriceVersion, priced.CostMicros, priced.Currency = "7.0", 42, "USD"
	insert(t, store, e, priced)
	status, header, body := newFront(t, store, lagOf(0)).get(t, "/api/v1/analytics/export?format=csv", asUser())
	if status != 200 || !strings.HasPrefix(header.Get("Content-Type"), "text/csv") {
		t.Fatalf("want CSV, got %d %v", status, header)
	}
	lines, err := csv.NewReader(bytes.NewReader(body)).ReadAll()
	if err != nil || len(lines) != 3 {
		t.Fatalf("want a header and two lines, got %v, %v", lines, err)
	}
	column := func(line int, name string) string { return lines[line][slices.Index(lines[0], name)] }
	if column(1, "endUser") != "'=HYPERLINK(1)" || column(1, "session") != `say "x", y` || column(1, "tags") != "a=x&b=1%262" ||
		column(1, "costMicros") != "" || column(2, "costMicros") != "42" || column(2, "tokens") != "6" {
		t.Errorf("want every value in its column, got %v", lines)
	}
}
