package outbox_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/balance"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/internal/tracing"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/outbox"
)

type number struct {
	Aggregate string `json:"aggregate"`
	N         int    `json:"n"`
}

// numbered events of one aggregate have four types and subjects in turn: their order follows
// what they are about.
func numbered(aggregate string, n int) outbox.Event {
	kind := fmt.Sprintf("COUNTED_%d", n%4)
	return outbox.Event{AggregateType: "Test" + kind, AggregateID: aggregate, Type: kind, Subject: "leaky.saga.v1." + kind,
		Data: number{aggregate, n}}
}

func TestEventsArriveAsCloudEvents(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := uuid.New()
	state := balance.State{Account: "user:" + id.String(), Provider: "openai", Present: true, Version: 3, Credits: 10}
	w.add(outbox.Event{ID: id, AggregateType: "TokenPurchaseSaga", AggregateID: "a", Type: "TOKEN_PURCHASE_STARTED",
		Subject:       "leaky.saga.v1.TOKEN_PURCHASE_STARTED",
		CorrelationID: "c-1", Data: map[string]any{"tokens": 5}},
		outbox.Event{AggregateType: "TokenPool", AggregateID: "p", Type: "TOKEN_BALANCE_CHANGED", Subject: balance.Subject("openai"),
			Data: state})
	w.add(outbox.Event{ID: id, AggregateType: "TokenPurchaseSaga", AggregateID: "a", Type: "again",
		Subject: "leaky.saga.v1.x"}) // the same event
	relay, registry := w.relay(nil)
	if n, err := relay.Round(t.Context()); n != 2 || err != nil {
		t.Fatalf("want 2 published, got %d, %v", n, err)
	}
	messages := w.stored()
	if len(messages) != 2 {
		t.Fatalf("want 2 messages, got %d", len(messages))
	}
	for _, msg := range messages {
		if strings.HasPrefix(msg.Subject, balance.SubjectPrefix) {
			if got, err := balance.Decode(msg.Data); err != nil || got.Credits != 10 || got.Account != state.Account {
				t.Errorf("balance: want the bare state, got %s, %v", msg.Data, err)
			}
			continue
		}
		var got usage.Envelope
		if err := json.Unmarshal(msg.Data, &got); err != nil {
			t.Fatal(err)
		}
		if got.SpecVersion != "1.0" || got.ID != id.String() || got.Type != "TOKEN_PURCHASE_STARTED" || got.Source != "/tokensvc" ||
			got.CorrelationID != "c-1" ||
			got.Time.IsZero() || string(got.Data) != `{"tokens": 5}` && string(got.Data) != `{"tokens":5}` {
			t.Errorf("want a CloudEvent, got %s", msg.Data)
		}
		if header := msg.Header.Get("Nats-Msg-Id"); header != id.String() {
			t.Errorf("want the id as Nats-Msg-Id, got %q", header)
		}
	}
	if n := w.count("published_at IS NOT NULL"); n != 2 {
		t.Errorf("want 2 rows marked, got %d", n)
	}
	if n, err := relay.Round(t.Context()); n != 0 || err != nil {
		t.Errorf("want nothing left, got %d, %v", n, err)
	}
	if got, err := testutil.GatherAndCount(registry, "token_outbox_backlog_events", "token_outbox_oldest_seconds",
		"token_outbox_parked_events"); got != 3 || err != nil {
		t.Errorf("want the gauges, got %d, %v", got, err)
	}
}

// TestEventsAreInTheTraceThatCausedThem: whoever reads an event goes on below the span of who added it.
// Consumers make spans of what has the header, so only calls whose spans are kept have it.
func TestEventsAreInTheTraceThatCausedThem(t *testing.T) {
	t.Parallel()
	const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0"
	w := newWorld(t)
	want := map[string]string{"kept": trace + "1", "not kept": trace + "0", "none": ""}
	for name, parent := range want {
		ctx := tracing.Parent(t.Context(), parent)
		event := numbered(name, 1)
		if err := pgx.BeginFunc(ctx, w.db, func(tx pgx.Tx) error { return outbox.Add(ctx, tx, event) }); err != nil {
			t.Fatal(err)
		}
	}
	relay, _ := w.relay(nil)
	if n, err := relay.Round(t.Context()); n != len(want) || err != nil {
		t.Fatalf("want all published, got %d, %v", n, err)
	}
	for _, msg := range w.stored() {
		var e usage.Envelope
		var data number
		if err := errors.Join(json.Unmarshal(msg.Data, &e), json.Unmarshal(e.Data, &data)); err != nil {
			t.Fatal(err)
		}
		header := want[data.Aggregate]
		if e.TraceParent != header {
			t.Errorf("%s: want traceparent %q, got %q", data.Aggregate, header, e.TraceParent)
		}
		if !tracing.Sampled(header) {
			header = ""
		}
		if got := msg.Header.Get(tracing.Header); got != header {
			t.Errorf("%s: want the header %q, got %q", data.Aggregate, header, got)
		}
	}
}

func TestAddRefusals(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	good := numbered("a", 1)
	for name, change := range map[string]func(*outbox.Event){
		"no type": func(e *outbox.Event) { e.Type = "" }, "no subject": func(e *outbox.Event) { e.Subject = "" },
		"wildcard":       func(e *outbox.Event) { e.Subject = "leaky.>" },
		"long aggregate": func(e *outbox.Event) { e.AggregateID = strings.Repeat("x", 151) },
		"NUL in data":    func(e *outbox.Event) { e.Data = "\x00" }, "no JSON": func(e *outbox.Event) { e.Data = make(chan int) },
	} {
		event := good
		change(&event)
		err := pgx.BeginFunc(t.Context(), w.db, func(tx pgx.Tx) error { return outbox.Add(t.Context(), tx, event) })
		if !errors.Is(err, outbox.ErrInvalid) {
			t.Errorf("%s: want ErrInvalid, got %v", name, err)
		}
	}
	if n := w.count("true"); n != 0 {
		t.Errorf("want nothing written, got %d rows", n)
	}
}

// TestOrderHoldsThroughFaults lets three replicas relay while NATS is restarted, replicas
// lose Postgres between publishing and marking, and writers go on. It fails if the faults
// did not strike, since it would prove nothing then.
func TestOrderHoldsThroughFaults(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const aggregates, each = 40, 60
	ctx, stop := context.WithCancel(t.Context())
	var replicas, writers, faults sync.WaitGroup
	for range 3 {
		relay, _ := w.relay(func(c *outbox.Config) { c.Batch = 100 }) // many rounds
		replicas.Go(func() { _ = relay.Run(ctx) })
	}
	for a := range aggregates {
		writers.Go(func() {
			for n := range each {
				if n%3 == 0 { // several at once, so that rounds find more than one of an aggregate
					name := fmt.Sprintf("a%d", a)
					w.add(numbered(name, n), numbered(name, n+1), numbered(name, n+2))
				}
				time.Sleep(10 * time.Millisecond) // so that the faults fall among the events
			}
		})
	}
	written := make(chan struct{})
	killed, killRound := 0, w.roundKiller()
	faults.Go(func() {
		for {
			select {
			case <-written:
				return
			case <-time.After(15 * time.Millisecond):
				killed += killRound()
			}
		}
	})
	faults.Go(func() {
		for range 8 {
			time.Sleep(40 * time.Millisecond)
			w.nats.Stop()
			w.nats.Start()
		}
	})
	writers.Wait()
	close(written)
	faults.Wait()
	testenv.Eventually(t, "everything published", func() bool { return w.count("published_at IS NULL") == 0 })
	stop()
	replicas.Wait()
	if n := w.count("parked_at IS NOT NULL"); n != 0 {
		t.Errorf("want nothing parked by faults that pass, got %d", n)
	}
	again := w.checkOrder(aggregates, each)
	t.Logf("NATS restarted 8 times, %d rounds lost Postgres while publishing, %d messages stored twice", killed, again)
	if killed == 0 {
		t.Error("want at least one round killed while it publishes, got none")
	}
}

// roundKiller gives what ends the Postgres sessions of rounds that have read their events and not yet marked
// them, and answers how many. It waits for such a round for a while, within Postgres: who asks from here, on a
// busy machine, comes too late for most.
func (w *world) roundKiller() (kill func() int) {
	_, err := w.db.Exec(w.tb.Context(), `CREATE FUNCTION kill_round() RETURNS int LANGUAGE plpgsql AS $$
		DECLARE n int;
		BEGIN
			FOR look IN 1..200 LOOP
				PERFORM pg_stat_clear_snapshot();
				SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) INTO n FROM pg_stat_activity
					WHERE datname = current_database() AND state = 'idle in transaction' AND query LIKE '%name: PendingEvents%';
				EXIT WHEN n > 0;
				PERFORM pg_sleep(0.001);
			END LOOP;
			RETURN n;
		END $$`)
	if err != nil {
		w.tb.Fatal(err)
	}
	return func() (n int) {
		if err := w.db.QueryRow(w.tb.Context(), "SELECT kill_round()").Scan(&n); err != nil {
			w.tb.Error(err)
		}
		return n
	}
}

// checkOrder wants each aggregate's numbers once and in order, whatever came twice.
func (w *world) checkOrder(aggregates, each int) (twice int) {
	w.tb.Helper()
	got, seen := map[string][]int{}, map[string]bool{}
	for _, msg := range w.stored() {
		id := msg.Header.Get("Nats-Msg-Id")
		if seen[id] {
			twice++
			continue
		}
		seen[id] = true
		var e usage.Envelope
		var n number
		if err := errors.Join(json.Unmarshal(msg.Data, &e), json.Unmarshal(e.Data, &n)); err != nil {
			w.tb.Fatal(err)
		}
		got[n.Aggregate] = append(got[n.Aggregate], n.N)
	}
	for a := range aggregates {
		numbers := got[fmt.Sprintf("a%d", a)]
		if len(numbers) != each || !slices.IsSorted(numbers) {
			w.tb.Errorf("a%d: want 0 to %d in order, got %v", a, each-1, numbers)
		}
	}
	return twice
}

func TestPoisonIsParkedAndBlocksNobodyElse(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	bad := numbered("bad", 0)
	bad.Subject = "elsewhere.v1" // no stream takes it
	w.add(bad, numbered("bad", 1), numbered("bad", 2))
	for n := range 100 {
		w.add(numbered("good", n))
	}
	relay, _ := w.relay(func(c *outbox.Config) { c.Attempts = 3 })
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = relay.Run(ctx) })
	testenv.Eventually(t, "the others are published", func() bool { return w.count("aggregate_id = 'good' AND published_at IS NULL") == 0 })
	if n := w.count("aggregate_id = 'bad' AND published_at IS NOT NULL"); n > 0 && w.count("parked_at IS NOT NULL") == 0 {
		t.Error("want what stands behind the poison to wait for it, but it is published")
	}
	testenv.Eventually(t, "the poison is parked", func() bool { return w.count("parked_at IS NOT NULL AND attempts = 3 AND last_error <> ''") == 1 })
	testenv.Eventually(t, "what stood behind it is published", func() bool { return w.count("published_at IS NULL AND parked_at IS NULL") == 0 })
	stop()
	running.Wait()
}

func TestPurgeKeepsWhatIsYoungOrUnpublished(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.add(numbered("a", 1), numbered("b", 1), numbered("c", 1))
	if _, err := w.db.Exec(t.Context(), `UPDATE token_outbox SET published_at = now() - CASE aggregate_id WHEN 'a' THEN interval '2 hours' ELSE interval '1 minute' END WHERE aggregate_id <> 'c'`); err != nil {
		t.Fatal(err)
	}
	relay, _ := w.relay(nil)
	if n, err := relay.Purge(t.Context()); n != 1 || err != nil {
		t.Errorf("want 1 purged, got %d, %v", n, err)
	}
	if n := w.count("aggregate_id IN ('b', 'c')"); n != 2 {
		t.Errorf("want 2 rows left, got %d", n)
	}
}

// TestNotifyWakesARelay commits one event after the other while the machine is busy with other
// things, and each is published by its own wake-up: the next poll is an hour away.
func TestNotifyWakesARelay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	relay, _ := w.relay(func(c *outbox.Config) { c.PollEvery = time.Hour })
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = relay.Run(ctx) })
	busy(t, 8)
	for n := range 1000 {
		w.add(numbered("a", n))
		testenv.Eventually(t, fmt.Sprintf("commit %d is published", n), func() bool { return w.count("published_at IS NULL") == 0 })
	}
	stop()
	running.Wait()
}

// BenchmarkRelay measures rows relayed per second, of many aggregates, by two workers.
func BenchmarkRelay(b *testing.B) {
	w := newWorld(b)
	relay, _ := w.relay(nil)
	events := make([]outbox.Event, 1000)
	total := 0
	for b.Loop() {
		b.StopTimer()
		for range 10 {
			for i := range events {
				events[i] = numbered(fmt.Sprintf("a%d", i%500), i)
			}
			w.add(events...)
			total += len(events)
		}
		b.StartTimer()
		var workers sync.WaitGroup
		for range 2 {
			workers.Go(func() {
				for {
					if n, err := relay.Round(b.Context()); n == 0 || err != nil {
						return
					}
				}
			})
		}
		workers.Wait()
	}
	if left := w.count("published_at IS NULL"); left > 0 {
		b.Fatalf("%d rows left", left)
	}
	b.ReportMetric(float64(total)/b.Elapsed().Seconds(), "rows/s")
}
