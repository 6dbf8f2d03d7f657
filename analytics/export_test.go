package analytics

import (
	"bytes"
	"encoding/csv"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// exported has calls of two days, priced and not, with names that need care.
func exported(t *testing.T, now time.Time) *front {
	t.Helper()
	store := openStore(t, testenv.ClickHouse(t))
	var events []usage.Event
	for i, at := range []time.Time{now.Add(-time.Minute), now.Add(-2 * time.Minute), now.Add(-24 * time.Hour)} {
		e := event(string(rune('a'+i)), alice, "openai", at, 1000)
		e.PriceVersion, e.CostMicros, e.Currency = "7.0", 1_500_001, "USD"
		e.Team, e.KeyID, e.EndUser, e.Tags = "=core", "k-1", `o'hara\ "?" {p0:String}`, map[string]string{"project": "a,b"}
		events = append(events, e)
	}
	unpriced := event("u", alice, "openai", now.Add(-time.Minute), 77)
	refused := event("r", alice, "openai", now.Add(-time.Minute), 5)
	refused.Allowed = false
	insert(t, store, append(events, unpriced, refused, event("other", bob, "openai", now.Add(-time.Minute), 9))...)
	return newFront(t, store, lagOf(0))
}

func TestParquetHasTheCallsOfTheFilterAlone(t *testing.T) {
	t.Parallel()
	now := time.Now()
	f := exported(t, now)
	from := "&from=" + now.Add(-48*time.Hour).UTC().Format(time.RFC3339)
	for query, want := range map[string]int{"": 5, "&requestId=a": 1, "&endUser=o%27hara%5C+%22%3F%22+%7Bp0:String%7D": 3, "&endUser=%27+OR+1=1": 0,
		"&tag=project:a,b": 3} {
		status, header, body := f.get(t, "/api/v1/analytics/export?format=parquet"+from+query, asUser())
		if status != 200 || header.Get("Content-Type") != "application/vnd.apache.parquet" || !bytes.HasPrefix(body, []byte("PAR1")) ||
			!bytes.HasSuffix(body, []byte("PAR1")) {
			t.Fatalf("%s: want a file of Parquet, got %d %v %.200q", query, status, header, body)
		}
		if got := parquetRows(t, body); got != want {
			t.Errorf("%s: want %d calls, got %d", query, want, got)
		}
		if bytes.Contains(body, []byte(bob)) {
			t.Errorf("%s: want nobody else's calls", query)
		}
	}
}

// parquetRows lets the engine read a file, and counts its rows.
func parquetRows(t *testing.T, file []byte) int {
	t.Helper()
	at := testenv.ClickHouse(t)
	store := openStore(t, at)
	if err := store.conn.Exec(t.Context(), "CREATE TABLE file (requestId String, tokens Int64, costMicros Nullable(Int64)) ENGINE = Memory"); err != nil {
		t.Fatal(err)
	}
	to, err := url.Parse(at)
	if err != nil {
		t.Fatal(err)
	}
	query := url.Values{"database": {strings.Trim(to.Path, "/")}, "query": {"INSERT INTO file FORMAT Parquet"}}
	to.Path, to.RawQuery = "/", query.Encode()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, to.String(), bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if text, _ := io.ReadAll(res.Body); res.StatusCode != http.StatusOK {
		t.Fatalf("want the file read, got %d %s", res.StatusCode, text)
	}
	var rows uint64
	if err := store.conn.QueryRow(t.Context(), "SELECT uniqExact(requestId) FROM file").Scan(&rows); err != nil {
		t.Fatal(err)
	}
	return int(rows)
}

func TestFocusHasEveryCostOnce(t *testing.T) {
	t.Parallel()
	now := time.Now()
	f := exported(t, now)
	status, header, body := f.get(t, "/api/v1/analytics/export?format=focus&from="+now.Add(-48*time.Hour).UTC().Format(time.RFC3339), asUser())
	if status != 200 || !strings.HasPrefix(header.Get("Content-Type"), "text/csv") || header.Get(HeaderUnpriced) != "77" {
		t.Fatalf("want CSV with 77 tokens unpriced, got %d %v %s", status, header, body)
	}
	lines, err := csv.NewReader(bytes.NewReader(body)).ReadAll()
	if err != nil || !slices.Equal(lines[0], focusColumns()) {
		t.Fatalf("want the columns, got %v, %v", lines, err)
	}
	at := func(line []string, column string) string { return line[slices.Index(lines[0], column)] }
	sum, days := int64(0), map[string]bool{}
	for _, line := range lines[1:] {
		cost, err := strconv.ParseInt(strings.ReplaceAll(at(line, "BilledCost"), ".", ""), 10, 64)
		if err != nil {
			t.Error(err)
		}
		sum += cost
		days[at(line, "ChargePeriodStart")] = true
		for column, want := range map[string]string{"BillingCurrency": "USD", "ChargeCategory": "Usage", "SubAccountId": "user:" + alice,
			"ResourceId": "k-1", "SkuId": "gpt-4o", "ProviderName": "openai", "Tags": `{"team":"=core"}`, "ConsumedUnit": "Tokens",
			"ServiceCategory": "AI and Machine Learning"} {
			if at(line, column) != want {
				t.Errorf("%s: want %q, got %q", column, want, at(line, column))
			}
		}
	}
	if sum != 3*1_500_001 || len(days) != 2 {
		t.Errorf("want every micro-unit once on two days, got %d on %v", sum, days)
	}
	for query, want := range map[string]int{"format=xlsx": 400, "format=focus&from=2020-01-01T00:00:00Z": 400,
		"format=focus&from=2026-11-02T00:00:00Z&to=2026-11-01T00:00:00Z": 400} {
		if status, _, body := f.get(t, "/api/v1/analytics/export?"+query, asUser()); status != want {
			t.Errorf("%s: want %d, got %d %s", query, want, status, body)
		}
	}
}
