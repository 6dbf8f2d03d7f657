package analytics

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// rawStore is another view of a store's calls, which never takes sums.
func rawStore(t *testing.T, url string) *Store {
	t.Helper()
	s := openStore(t, url)
	s.neverSums = true
	return s
}

// rolled makes all sums that can be made.
func rolled(t *testing.T, s *Store) (units int) {
	t.Helper()
	s.settleFor, s.markedFor = 0, 0
	units, err := s.RollUp(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return units
}

// sameAnswers asks for spans and groups of all kinds, and wants sums and calls to say the same.
func sameAnswers(t *testing.T, name string, sums, calls *Store, rng *rand.Rand, now time.Time) {
	t.Helper()
	known := dimensions()
	for i := range 12 {
		from := now.Add(-time.Duration(rng.Int64N(int64(80 * time.Hour))))
		f := Filter{From: from, To: from.Add(time.Duration(rng.Int64N(int64(60 * time.Hour)))), Provider: []string{"", "openai"}[rng.IntN(2)]}
		if rng.IntN(2) == 0 { // whole hours, whole days
			whole := []time.Duration{time.Minute, time.Hour, day}[rng.IntN(3)]
			f.From, f.To = f.From.Truncate(whole), f.To.Truncate(whole).Add(whole)
		}
		by := []string{known[[]string{"account", "model", "key", "source", "endUser", "allowed"}[rng.IntN(6)]]}
		want, err1 := calls.Group(t.Context(), f, by, 100, true)
		got, err2 := sums.Group(t.Context(), f, by, 100, true)
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s, %d: %v to %v by %s (-calls +sums):\n%s", name, i, f.From, f.To, by, diff)
		}
		zone, err := time.LoadLocation([]string{"UTC", "Europe/Berlin", "Asia/Kolkata"}[rng.IntN(3)])
		if err != nil {
			t.Fatal(err)
		}
		c := calendar{[]string{perMinute, perHour, perDay}[rng.IntN(3)], zone}
		starts, err := c.buckets(f.From, f.To)
		if err != nil {
			continue // too many minutes
		}
		total1, buckets1, err1 := calls.Buckets(t.Context(), f, starts)
		total2, buckets2, err2 := sums.Buckets(t.Context(), f, starts)
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		if diff := cmp.Diff(total1, total2) + cmp.Diff(buckets1, buckets2); diff != "" {
			t.Errorf("%s, %d: %s of %s, %v to %v (-calls +sums):\n%s", name, i, c.interval, zone, f.From, f.To, diff)
		}
	}
}

func TestSumsEqualCallsWhateverComesAgainOrAnew(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng, now, url := rand.New(rand.NewPCG(seed, 3)), time.Now().UTC(), testenv.ClickHouse(t)
	sums, calls := openStore(t, url), rawStore(t, url)
	events := randomEvents(rng, 400, now)
	insert(t, sums, events...)
	if n := rolled(t, sums); n < 24 {
		t.Errorf("want sums of two days of hours, got %d", n)
	}
	if n := rolled(t, sums); n != 0 {
		t.Errorf("want nothing to do the second time, got %d", n)
	}
	sameAnswers(t, "at first", sums, calls, rng, now)

	insert(t, sums, events[:50]...) // again, in another batch
	sameAnswers(t, "again, before the sums are made", sums, calls, rng, now)
	rolled(t, sums)
	sameAnswers(t, "again", sums, calls, rng, now)

	var corrected []usage.Event
	for _, e := range events[50:100] {
		e.Version, e.Charged, e.Source, e.ModelServed, e.Allowed = 1, e.Charged+7, usage.FromEstimate, "another", true
		corrected = append(corrected, e)
	}
	insert(t, sums, corrected...)
	sameAnswers(t, "corrected, before the sums are made", sums, calls, rng, now)
	rolled(t, sums)
	sameAnswers(t, "corrected", sums, calls, rng, now)

	if _, err := sums.Reprice(t.Context(), everything(now), priceList(t, "USD", "3"), "alice", false); err != nil {
		t.Fatal(err)
	}
	rolled(t, sums)
	sameAnswers(t, "repriced", sums, calls, rng, now)
	late := event("late", alice, "openai", now.Add(-30*time.Hour), 99)
	insert(t, sums, late)
	sameAnswers(t, "a late call", sums, calls, rng, now)
}

func TestQuestionsTakeTheLongestSums(t *testing.T) {
	t.Parallel()
	at := func(text string) time.Time {
		moment, err := time.Parse("2006-01-02T15:04:05", text)
		if err != nil {
			t.Fatal(err)
		}
		return moment
	}
	for name, tc := range map[string]struct {
		from, to string
		cuts     []string
		stale    map[string]map[int64]bool
		want     string
	}{
		"whole days":       {"2026-11-01T00:00:00", "2026-11-03T00:00:00", nil, nil, "day 11-01T00:00:00 11-03T00:00:00"},
		"a ragged span":    {"2026-11-01T22:58:30", "2026-11-03T01:01:10", nil, nil, "calls 11-01T22:58:30 11-01T22:59:00, minute 11-01T22:59:00 11-01T23:00:00, hour 11-01T23:00:00 11-02T00:00:00, day 11-02T00:00:00 11-03T00:00:00, hour 11-03T00:00:00 11-03T01:00:00, minute 11-03T01:00:00 11-03T01:01:00, calls 11-03T01:01:00 11-03T01:01:10"},
		"cut at half past": {"2026-11-01T00:00:00", "2026-11-01T04:00:00", []string{"2026-11-01T01:30:00"}, nil, "minute 11-01T00:00:00 11-01T04:00:00"},
		"cut in a minute":  {"2026-11-01T00:00:00", "2026-11-01T04:00:00", []string{"2026-11-01T01:30:01"}, nil, "calls 11-01T00:00:00 11-01T04:00:00"},
		"a stale hour": {"2026-11-01T00:00:00", "2026-11-02T00:00:00", nil, map[string]map[int64]bool{"day": {at("2026-11-01T00:00:00").Unix(): true}, "hour": {at("2026-11-01T05:00:00").Unix(): true}},
			"hour 11-01T00:00:00 11-01T05:00:00, calls 11-01T05:00:00 11-01T06:00:00, hour 11-01T06:00:00 11-02T00:00:00"},
	} {
		f := Filter{From: at(tc.from), To: at(tc.to)}
		var cuts []time.Time
		for _, text := range tc.cuts {
			cuts = append(cuts, at(text))
		}
		p := planner{stale: tc.stale, present: at("2026-11-20T00:00:00"), fits: map[time.Duration]bool{}}
		p.minute, p.hour, p.day = grains()
		for _, size := range []time.Duration{time.Minute, time.Hour, day} {
			p.fits[size] = aligned(cuts, f, size)
		}
		var got []string
		for _, one := range p.plan(f.From, f.To) {
			table := "calls"
			if one.grain != nil {
				table = strings.TrimPrefix(one.grain.table, "usage_")
			}
			got = append(got, fmt.Sprintf("%s %s %s", table, one.from.Format("01-02T15:04:05"), one.to.Format("01-02T15:04:05")))
		}
		if text := strings.Join(got, ", "); text != tc.want {
			t.Errorf("%s: want %s, got %s", name, tc.want, text)
		}
	}
}

// clusterFile is the schema for a cluster, which derives from the migrations; LEAKY_UPDATE=1 writes it.
const clusterFile = "../deploy/clickhouse/cluster.sql"

func TestTheClusterHasTheSameTables(t *testing.T) {
	t.Parallel()
	want := clusterSchema(t)
	if os.Getenv("LEAKY_UPDATE") != "" {
		if err := os.WriteFile(clusterFile, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(clusterFile)
	if err != nil || string(have) != want {
		t.Fatalf("%s is not what the migrations make (%v); write it with LEAKY_UPDATE=1 go test ./analytics -run %s", clusterFile, err, t.Name())
	}
	store := openStore(t, testenv.ClickHouse(t))
	for statement := range strings.SplitSeq(want, ";\n") {
		if strings.TrimSpace(statement) == "" {
			continue
		}
		if err := store.conn.Exec(t.Context(), "EXPLAIN AST "+statement); err != nil {
			t.Errorf("the engine does not read %q: %v", statement, err)
		}
	}
}

// clusterSchema makes of each table one on every server, replicated, and one over all of them.
func clusterSchema(t *testing.T) string {
	t.Helper()
	made := regexp.MustCompile(`(?s)CREATE TABLE IF NOT EXISTS (\w+) \((.*)\n\) ENGINE = ReplacingMergeTree\((\w+)\)\n(.*)`)
	shard := map[string]string{"usage": "cityHash64(request_id)", "usage_minute": "cityHash64(user_id)", "usage_hour": "cityHash64(user_id)",
		"usage_day": "cityHash64(user_id)", "purchase_events": "cityHash64(saga_id)"}
	ttl := map[string]string{"usage": "toDateTime(timestamp) + toIntervalDay(90)", "usage_minute": "toDateTime(unit) + toIntervalDay(730)",
		"usage_hour": "toDateTime(unit) + toIntervalDay(730)", "usage_day": "toDateTime(unit) + toIntervalDay(730)"}
	var out strings.Builder
	out.WriteString(`-- The tables of a ClickHouse cluster, to be made before analytics starts: those of analytics/migrations,
-- replicated and spread over shards by the call (calls) or the user (sums), so that every row of one
-- key is on one shard. {cluster}, {shard} and {replica} are macros of the servers. The user of analytics
-- needs the settings insert_quorum = 'auto', select_sequential_consistency = 1 and
-- distributed_foreground_insert = 1: marks and sums are read right after they are written.
`)
	files, err := filepath.Glob("migrations/*.sql")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		m := made.FindStringSubmatch(string(text))
		if m == nil || m[1] == "usage_events" { // of before the first version that knows a cluster
			continue
		}
		name, columns, version, rest := m[1], m[2], m[3], strings.TrimSpace(m[4])
		local := name
		if shard[name] != "" {
			local += "_local"
		}
		path := "/clickhouse/tables/{database}/" + name
		if shard[name] != "" {
			path = "/clickhouse/tables/{shard}/{database}/" + name
		}
		if ttl[name] != "" {
			before, after, has := strings.Cut(rest, "\nSETTINGS")
			rest = before + "\nTTL " + ttl[name]
			if has {
				rest += "\nSETTINGS" + strings.ReplaceAll(after, "non_replicated_deduplication_window", "replicated_deduplication_window")
			}
		}
		fmt.Fprintf(&out, "\nCREATE TABLE IF NOT EXISTS %s ON CLUSTER '{cluster}' (%s\n) ENGINE = ReplicatedReplacingMergeTree('%s', '{replica}', %s)\n%s;\n",
			local, columns, path, version, rest)
		if shard[name] != "" {
			fmt.Fprintf(&out, "\nCREATE TABLE IF NOT EXISTS %s ON CLUSTER '{cluster}' AS %s\nENGINE = Distributed('{cluster}', currentDatabase(), %s, %s);\n", name,
				local, local, shard[name])
		}
	}
	return out.String()
}

// TestWhoeverInsertsIsSeen: a restore writes into the table itself.
func TestWhoeverInsertsIsSeen(t *testing.T) {
	t.Parallel()
	store, now := openStore(t, testenv.ClickHouse(t)), time.Now().UTC()
	insert(t, store, event("a", alice, "openai", now.Add(-30*time.Hour), 10))
	rolled(t, store)
	const copied = "INSERT INTO usage (request_id, user_id, provider, tokens, allowed, timestamp) SELECT 'b', user_id, provider, 5, true, timestamp FROM usage"
	if err := store.conn.Exec(t.Context(), copied); err != nil {
		t.Fatal(err)
	}
	for _, when := range []string{"before the sums are made", "after"} {
		got, err := store.Totals(t.Context(), everything(now), 1)
		if err != nil || got.Tokens != 15 || got.Events != 2 {
			t.Errorf("%s: want both calls, got %+v, %v", when, got, err)
		}
		rolled(t, store)
	}
}

// TestSumsOfBeforeTheClockWasSetBack: an hour was summed up while the engine's clock was ahead by an hour,
// and calls come into it when that is right again.
func TestSumsOfBeforeTheClockWasSetBack(t *testing.T) {
	t.Parallel()
	store, now := openStore(t, testenv.ClickHouse(t)), time.Now().UTC()
	at := now.Add(-30 * time.Hour)
	insert(t, store, event("a", alice, "openai", at, 10))
	ahead := func() {
		t.Helper()
		if err := store.conn.Exec(t.Context(), "INSERT INTO usage_touched (unit, mark) SELECT unit, max(mark) + toIntervalHour(1) FROM usage_touched GROUP BY unit"); err != nil {
			t.Fatal(err)
		}
	}
	tokens := func(when string, want int64) {
		t.Helper()
		got, err := store.Totals(t.Context(), everything(now), 1)
		if err != nil || got.Tokens != want {
			t.Errorf("%s: want %d tokens, got %+v, %v", when, want, got, err)
		}
	}
	ahead()
	store.settleFor, store.markedFor = -2*time.Hour, 0 // that clock has come past the mark
	if n, err := store.RollUp(t.Context()); err != nil || n != 2 {
		t.Fatalf("want an hour and a day summed up, got %d, %v", n, err)
	}
	store.settleFor = 0
	tokens("while the clock is ahead", 10)

	insert(t, store, event("b", alice, "openai", at, 5))
	tokens("a call after the clock was set back", 15)
	if n := rolled(t, store); n != 0 {
		t.Errorf("want nothing summed up before the clock has come to the mark, got %d", n)
	}
	store.settleFor = -2 * time.Hour // it has
	if n, err := store.RollUp(t.Context()); err != nil || n != 2 {
		t.Fatalf("want the hour and the day summed up again, got %d, %v", n, err)
	}
	store.settleFor = 0
	tokens("summed up again", 15)
}

// TestSumsOfAProcessWhoseClockWasAheadAreReplaced: they are not made anew for as long as that was ahead.
func TestSumsOfAProcessWhoseClockWasAheadAreReplaced(t *testing.T) {
	t.Parallel()
	store, now := openStore(t, testenv.ClickHouse(t)), time.Now().UTC()
	at := now.Add(-30 * time.Hour)
	insert(t, store, event("a", alice, "openai", at, 10))
	rolled(t, store)
	for _, table := range []string{"usage_minute", "usage_hour", "usage_day", "usage_rolled"} {
		if err := store.conn.Exec(t.Context(), fmt.Sprintf("INSERT INTO %[1]s SELECT * REPLACE (generation + toUInt64(%[2]d) AS generation) FROM %[1]s",
			table, time.Hour.Microseconds()<<12)); err != nil {
			t.Fatal(err)
		}
	}
	insert(t, store, event("b", alice, "openai", at, 5))
	if n := rolled(t, store); n != 2 {
		t.Errorf("want an hour and a day summed up, got %d", n)
	}
	if n := rolled(t, store); n != 0 {
		t.Errorf("want nothing to do the second time, got %d", n)
	}
	got, err := store.Totals(t.Context(), everything(now), 1)
	if err != nil || got.Tokens != 15 {
		t.Errorf("want 15 tokens, got %+v, %v", got, err)
	}
}
