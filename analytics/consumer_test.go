package analytics

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// everything covers all events of a test.
func everything(now time.Time) Filter {
	return Filter{From: now.Add(-1000 * 24 * time.Hour), To: now.Add(time.Hour)}
}

func sameTotals(t *testing.T, store *Store, events []usage.Event, f Filter) {
	t.Helper()
	got, err := store.Totals(t.Context(), f, topUsersMost)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(expected(events, f, topUsersMost), got); diff != "" {
		t.Errorf("%+v: want the model's totals, got: %s", f, diff)
	}
}

func TestTotalsEqualTheModelWhateverIsDeliveredTwice(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	now := time.Now()
	events := randomEvents(rng, 400, now)
	store, js := openStore(t, testenv.ClickHouse(t)), jetStream(t, testenv.NATS(t))
	// Three runs of the consumer: each forgets the ids it knew, some inserts fail with
	// and without writing, and events of earlier runs are published again.
	for run := range 3 {
		for _, e := range events[run*len(events)/4 : (run+2)*len(events)/4] {
			for range 1 + rng.IntN(2) {
				publish(t, js, e)
			}
		}
		c, stop := running(t, js, &flaky{store: store, before: rng.IntN(2), after: rng.IntN(3)})
		drained(t, c)
		stop()
	}
	all := everything(now)
	sameTotals(t, store, events, all)
	for _, provider := range []string{"openai", "gemini", "qwen"} {
		f := all
		f.Provider = provider
		sameTotals(t, store, events, f)
		f.From, f.To = now.Add(-24*time.Hour), now.Add(-time.Hour)
		sameTotals(t, store, events, f)
		f.UserID = events[0].UserID
		sameTotals(t, store, events, f)
	}
	seen := map[string]int{}
	for row, err := range store.Export(t.Context(), all) {
		if err != nil {
			t.Fatal(err)
		}
		seen[row.RequestID]++
	}
	for _, e := range events {
		if seen[e.RequestID] != 1 {
			t.Errorf("want event %s once, got %d times", e.RequestID, seen[e.RequestID])
		}
	}
}

func TestCrashBetweenInsertAndAck(t *testing.T) {
	t.Parallel()
	now := time.Now()
	store, js := openStore(t, testenv.ClickHouse(t)), jetStream(t, testenv.NATS(t))
	var events []usage.Event
	for i := range 50 {
		events = append(events, event(fmt.Sprintf("r%d", i), alice, "openai", now, int64(i)))
	}
	publish(t, js, events...)
	// A process that inserted and died before it acknowledged.
	dying, err := NewConsumer(ConsumerConfig{JetStream: js, Store: store, Metrics: NewMetrics(prometheus.NewRegistry()), Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	consumer, err := dying.Attach(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var messages []jetstream.Msg
	testenv.Eventually(t, "all events are fetched", func() bool {
		more, err := usage.Fetch(t.Context(), consumer, usage.BatchMost, time.Second, linger)
		if err != nil {
			t.Fatal(err)
		}
		messages = append(messages, more...)
		return len(messages) >= len(events)
	})
	if len(messages) != len(events) {
		t.Fatalf("want %d messages, got %d", len(events), len(messages))
	}
	var deliveries []usage.Delivery
	for _, msg := range messages {
		meta, err := msg.Metadata()
		if err != nil {
			t.Fatal(err)
		}
		deliveries = append(deliveries, usage.Delivery{Sequence: meta.Sequence.Stream, Data: msg.Data()})
	}
	rows := sortDeliveries(deliveries, now).rows
	if err := store.Insert(t.Context(), token(usage.Stream, rows), rows); err != nil {
		t.Fatal(err)
	}
	for _, msg := range messages { // what the time to acknowledge running out does
		if err := msg.Nak(); err != nil {
			t.Fatal(err)
		}
	}
	publish(t, js, event("later", bob, "openai", now, 7))
	c, _ := running(t, js, store)
	drained(t, c)
	sameTotals(t, store, append(events, event("later", bob, "openai", now, 7)), everything(now))
}

func TestStoreAwayLosesNothing(t *testing.T) {
	t.Parallel()
	now := time.Now()
	store, js := openStore(t, testenv.ClickHouse(t)), jetStream(t, testenv.NATS(t))
	away := &flaky{store: store, before: 1 << 30}
	c, stop := running(t, js, away)
	events := []usage.Event{event("a", alice, "openai", now, 5), event("b", bob, "qwen", now, 6)}
	publish(t, js, events...)
	testenv.Eventually(t, "inserts tried", func() bool { return away.called() >= 3 })
	if n, err := c.Pending(t.Context()); err != nil || n != 2 {
		t.Errorf("want 2 pending while the store is away, got %d, %v", n, err)
	}
	if counted(c.metrics.insertFailures) < 2 || counted(c.metrics.inserted) != 0 {
		t.Errorf("want failures and no inserts counted, got %d and %d", counted(c.metrics.insertFailures), counted(c.metrics.inserted))
	}
	stop() // hands the messages back
	c, _ = running(t, js, store)
	drained(t, c)
	sameTotals(t, store, events, everything(now))
}

func TestPoisonIsBuriedAndBlocksNothing(t *testing.T) {
	t.Parallel()
	now := time.Now()
	store, js := openStore(t, testenv.ClickHouse(t)), jetStream(t, testenv.NATS(t))
	old := event("old", alice, "openai", time.Date(1900, 1, 1, 0, 0, 0, 0, time.UTC), 1)
	huge := event("huge", alice, "openai", now, 1<<60)
	publish(t, js, event("good", alice, "openai", now, 5), old, huge)
	poison := []string{"", "not json", "{}", `{"specversion":"1.0","type":"com.leaky-tokens.usage.v1","id":"x","data":{"requestId":"y"}}`,
		`{"saga":"snapshot"}`, strings.Repeat("[", 100000), "\xff\xfe\r\nX: y"}
	for _, text := range poison {
		if _, err := js.Publish(t.Context(), usage.Subject("openai"), []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	publish(t, js, event("good2", alice, "openai", now, 6))
	c, _ := running(t, js, store)
	drained(t, c)
	want := []usage.Event{event("good", alice, "openai", now, 5), event("good2", alice, "openai", now, 6)}
	sameTotals(t, store, want, everything(now))
	deadLetters := len(poison) + 2
	if got := counted(c.metrics.dead); got != deadLetters {
		t.Errorf("want %d dead letters, got %d", deadLetters, got)
	}
	dead, err := js.Stream(t.Context(), usage.StreamDead)
	if err != nil {
		t.Fatal(err)
	}
	if n := dead.CachedInfo().State.Msgs; n != uint64(deadLetters) {
		t.Errorf("want %d dead letters kept, got %d", deadLetters, n)
	}
	letter, err := dead.GetMsg(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if letter.Header.Get(usage.HeaderDeadReason) == "" || letter.Header.Get(usage.HeaderDeadSubject) != usage.Subject("openai") ||
		letter.Header.Get(usage.HeaderDeadSequence) == "" {
		t.Errorf("want reason, subject and sequence on a dead letter, got %v", letter.Header)
	}
}

func TestConsumerOutlivesNATS(t *testing.T) {
	t.Parallel()
	now := time.Now()
	server := testenv.NATSServer(t)
	store, js := openStore(t, testenv.ClickHouse(t)), jetStream(t, server.URL())
	c, _ := running(t, js, store)
	publish(t, js, event("before", alice, "openai", now, 1))
	drained(t, c)
	server.Stop()
	if _, err := c.Pending(t.Context()); err == nil {
		t.Error("want the lag unknown while NATS is away, got a number")
	}
	server.Start()
	testenv.Eventually(t, "publish after restart", func() bool {
		_, err := js.Stream(t.Context(), usage.Stream)
		return err == nil
	})
	publish(t, js, event("after", alice, "openai", now, 2))
	testenv.Eventually(t, "event after restart", func() bool {
		sum, err := store.Totals(t.Context(), everything(now), 1)
		return err == nil && sum.Events == 2 && sum.Tokens == 3
	})
	if err := js.DeleteConsumer(t.Context(), usage.Stream, Durable); err != nil {
		t.Fatal(err)
	}
	publish(t, js, event("after delete", alice, "openai", now, 4))
	testenv.Eventually(t, "event after the consumer was deleted", func() bool {
		sum, err := store.Totals(t.Context(), everything(now), 1)
		return err == nil && sum.Events == 3 && sum.Tokens == 7
	})
}

func TestFirstInTheStreamStands(t *testing.T) {
	t.Parallel()
	now := time.Now()
	store := openStore(t, testenv.ClickHouse(t))
	first, second := event("r", alice, "openai", now, 10), event("r", alice, "openai", now, 99)
	for i, rows := range [][]Row{{{Event: second, Seq: 9}}, {{Event: first, Seq: 3}}, {{Event: second, Seq: 12}}} {
		if err := store.Insert(t.Context(), fmt.Sprint("t", i), rows); err != nil {
			t.Fatal(err)
		}
	}
	sameTotals(t, store, []usage.Event{first}, everything(now))
}

func TestACorrectionReplacesAndNeverDoubles(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 5, 0, 0, 0, 2e6, time.UTC)
	swept := event("r", alice, "openai", now.Add(-4*time.Millisecond), 1008) // by the limiter's clock, on the day before
	swept.Source = usage.FromExpiry
	told := event("r", alice, "openai", now, 69)
	told.Version, told.PriceVersion, told.CostMicros, told.Currency = 1, "7.0", 42, "USD"
	again := told
	again.Version, again.Charged, again.Input, again.Output = 2, 70, 30, 40
	for name, order := range map[string][]usage.Event{
		"as they happened":         {swept, told, again},
		"the other way round":      {again, told, swept},
		"the sweeper comes late":   {told, swept, again, swept, told},
		"again and again":          {swept, swept, told, told, again, again, swept, told},
		"a correction of nothing":  {again},
		"the first from a replay":  {swept, again, swept},
		"a correction in between":  {told, again, swept},
		"all after the last":       {again, swept, told, swept},
		"the last after the first": {swept, again},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store, js := openStore(t, testenv.ClickHouse(t)), jetStream(t, testenv.NATS(t))
			for _, e := range order { // each by a consumer that remembers nothing
				publish(t, js, e)
				c, stop := running(t, js, store)
				drained(t, c)
				stop()
			}
			got, err := store.Totals(t.Context(), everything(time.Now()), 1)
			if err != nil || got.Events != 1 || got.Tokens != 70 || got.Costs["USD"] != 42 {
				t.Errorf("want one call of 70 tokens, got %+v, %v", got, err)
			}
		})
	}
	t.Run("in one batch", func(t *testing.T) {
		t.Parallel()
		store, js := openStore(t, testenv.ClickHouse(t)), jetStream(t, testenv.NATS(t))
		publish(t, js, told, again, swept, told)
		c, _ := running(t, js, store)
		drained(t, c)
		publish(t, js, swept, told, again)
		drained(t, c)
		got, err := store.Totals(t.Context(), everything(time.Now()), 1)
		if err != nil || got.Events != 1 || got.Tokens != 70 {
			t.Errorf("want one call of 70 tokens, got %+v, %v", got, err)
		}
	})
}

// TestALateEstimateOfACallThatWasSweptIsTheSameCall: the sweeper charged a hold, Redis lost all that it
// knew of it, and the meter reads the line of the call, which was cut: it tells an estimate, by the
// clock of Envoy and of no version, as the first of the call.
func TestALateEstimateOfACallThatWasSweptIsTheSameCall(t *testing.T) {
	t.Parallel()
	now := time.Now()
	swept := event("r", alice, "openai", now.Add(-time.Hour-4*time.Millisecond), 1008)
	swept.Source, swept.Pool = usage.FromExpiry, usage.PoolNone
	estimated := event("r", alice, "qwen", now.Add(-time.Hour), 69) // by a fallback
	estimated.Source = usage.FromEstimate
	fresh := event("fresh", alice, "openai", now, 1)
	for name, order := range map[string][]usage.Event{
		"as they happened":         {swept, fresh, estimated},
		"the other way round":      {estimated, swept},
		"again and again":          {swept, estimated, swept, estimated},
		"the estimate comes again": {estimated, swept, estimated},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := openStore(t, testenv.ClickHouse(t))
			store.holdLife = 10 * time.Minute
			for i, e := range order {
				if err := store.Insert(t.Context(), fmt.Sprint("t", i), []Row{{Event: e, Seq: uint64(i + 1)}}); err != nil {
					t.Fatal(err)
				}
			}
			got, err := store.Totals(t.Context(), Filter{From: now.Add(-day), To: now.Add(-time.Minute)}, 1)
			if err != nil || got.Events != 1 || got.Tokens != order[0].Charged { // the first stands, as in the ledger
				t.Errorf("want one call of %d tokens, got %+v, %v", order[0].Charged, got, err)
			}
		})
	}
}

func TestTheOldTableIsTakenOver(t *testing.T) {
	t.Parallel()
	now := time.Now()
	store := openStore(t, testenv.ClickHouse(t))
	old := func(id string, tokens int64, seq uint64) string {
		return fmt.Sprintf(`INSERT INTO usage_events (request_id, user_id, account, route, provider, tokens, source, allowed, status, timestamp,
			precedence) VALUES ('%s', '%s', 'user:x', 'openai-chat', 'openai', %d, 'provider', true, 200, fromUnixTimestamp64Milli(%d, 'UTC'), %d)`,
			id, alice, tokens, now.UnixMilli(), ^seq)
	}
	for _, statement := range []string{"DROP TABLE usage_events_forward", old("a", 5, 7), old("a", 6, 9), old("b", 7, 10),
		"TRUNCATE TABLE analytics_schema_version", old("c", 8, 11)} {
		if err := store.conn.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // two replicas at once do it twice
		if err := store.Migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := store.conn.Exec(t.Context(), old("d", 9, 12)); err != nil { // by a process of before
		t.Fatal(err)
	}
	correction := event("a", alice, "openai", now.Add(time.Second), 100)
	correction.Version = 1
	if err := store.Insert(t.Context(), "t", []Row{{Event: correction, Seq: 13}, {Event: event("b", alice, "openai", now, 700), Seq: 14}}); err != nil {
		t.Fatal(err)
	}
	got, err := store.Totals(t.Context(), everything(now), 1)
	if err != nil || got.Events != 4 || got.Tokens != 100+7+8+9 || got.Unpriced != got.Tokens {
		t.Errorf("want four calls with the corrected one, all unpriced, got %+v, %v", got, err)
	}
}

func TestEventsKeepEverything(t *testing.T) {
	t.Parallel()
	want := Row{Event: event("r", alice, "openai", time.Now().UTC().Truncate(time.Millisecond), 10), Seq: 5, Entry: entryCall}
	want.Version, want.OrgID, want.Team, want.KeyID, want.Tier, want.EndUser, want.Session = 3, "o", "t", "k", "GOLD", "e'\\", "s;\"é"
	want.Tags = map[string]string{"a": "1,2", "b": "x=y&z"}
	want.Cached, want.CacheWrite5m, want.CacheWrite1h, want.ToolInput, want.Reasoning, want.Audio, want.AudioOutput = 1, 2, 3, 4, 5, 6, 7
	want.PriceVersion, want.CostMicros, want.Currency, want.Attempts, want.Skipped, want.Pool = "7.0", 8, "EUR", 2, 9, usage.PoolDrawn
	want.Reason, want.LatencyMS, want.FirstByteMS, want.Stream = "why", 10, 11, true
	store := openStore(t, testenv.ClickHouse(t))
	if err := store.Insert(t.Context(), "t", []Row{want}); err != nil {
		t.Fatal(err)
	}
	rows, err := store.latest(t.Context(), Filter{}, 10)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Row{want}, rows); diff != "" {
		t.Errorf("row differs (-want +got):\n%s", diff)
	}
}

func TestSameTokenWritesOnce(t *testing.T) {
	t.Parallel()
	now := time.Now()
	store := openStore(t, testenv.ClickHouse(t))
	rows := []Row{{Event: event("r", alice, "openai", now, 10), Seq: 1}, {Event: event("s", alice, "openai", now.Add(-200*24*time.Hour), 10), Seq: 2}}
	for range 3 {
		if err := store.Insert(t.Context(), token("LEAKY", rows), rows); err != nil {
			t.Fatal(err)
		}
	}
	var n uint64
	if err := store.conn.QueryRow(t.Context(), "SELECT count() FROM usage").Scan(&n); err != nil || n != 2 {
		t.Errorf("want 2 rows on disk, got %d, %v", n, err)
	}
}

func TestInsertAfterTheDatabaseWasMadeAnew(t *testing.T) {
	t.Parallel()
	now := time.Now()
	store := openStore(t, testenv.ClickHouse(t))
	for _, table := range []string{"usage_events_forward", "usage", "usage_events", "analytics_schema_version"} {
		if err := store.conn.Exec(t.Context(), "DROP TABLE "+table); err != nil {
			t.Fatal(err)
		}
	}
	js := jetStream(t, testenv.NATS(t))
	publish(t, js, event("r", alice, "openai", now, 10))
	c, _ := running(t, js, store)
	drained(t, c)
	sameTotals(t, store, []usage.Event{event("r", alice, "openai", now, 10)}, everything(now))
}

func TestBacklogOverManyDays(t *testing.T) {
	t.Parallel()
	now := time.Now()
	store := openStore(t, testenv.ClickHouse(t))
	var rows []Row
	var events []usage.Event
	for i := range 150 { // more days than max_partitions_per_insert_block allows by default
		e := event(fmt.Sprint("r", i), alice, "openai", now.Add(-time.Duration(i)*24*time.Hour), int64(i))
		events, rows = append(events, e), append(rows, Row{Event: e, Seq: uint64(i + 1)})
	}
	if err := store.Insert(t.Context(), "t", rows); err != nil {
		t.Fatal(err)
	}
	sameTotals(t, store, events, everything(now))
}

func TestRunStopsWithoutNATS(t *testing.T) {
	t.Parallel()
	js := jetStream(t, "nats://127.0.0.1:1")
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	c, stop := running(t, js, anyStore{})
	<-ctx.Done()
	stop()
	if _, err := c.Pending(t.Context()); err == nil {
		t.Error("want the lag unknown, got a number")
	}
}

// anyStore takes everything.
type anyStore struct{}

func (anyStore) Insert(context.Context, string, []Row) error { return nil }
