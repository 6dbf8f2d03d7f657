package ledger_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/ledger"
)

func charge(account string, tokens int64) ledger.Charge {
	return ledger.Charge{Request: uuid.NewString(), Account: account, Provider: "openai", Tokens: tokens, Drawn: true, At: time.Now()}
}

func apply(tb testing.TB, db *pgxpool.Pool, charges ...ledger.Charge) ledger.Applied {
	tb.Helper()
	done, err := ledger.Apply(tb.Context(), db, charges)
	if err != nil {
		tb.Fatal(err)
	}
	return done
}

func TestApplyBooksEachChargeOnce(t *testing.T) {
	t.Parallel()
	db, user := database(t), uuid.New()
	account := ledger.Account(user, uuid.Nil)
	mustCredit(t, db, ledger.Purchase{UserID: user, Provider: "openai", Tokens: 1000, Reference: "r"})
	one, two := charge(account, 10), charge(account, 20)
	stranger := charge(ledger.Account(uuid.New(), uuid.Nil), 5)
	odd := charge("ip:127.0.0.1", 5)
	early := charge(account, 40) // the limiter forgot its hold, and it is older than the pool
	early.Drawn, early.At = false, time.Now().Add(-time.Hour)
	if got, want := apply(t, db, one, two, one, stranger, odd, early), (ledger.Applied{New: 2, Repeated: 1, NoPool: 3}); got != want {
		t.Errorf("want %+v, got %+v", want, got)
	}
	if got, want := apply(t, db, two, one), (ledger.Applied{Repeated: 2}); got != want {
		t.Errorf("again: want %+v, got %+v", want, got)
	}
	if p := find(t, db, account, "openai"); p.Remaining != 970 || p.Total != 1000 || p.State(time.Now()).Spent != 30 {
		t.Errorf("want 970 of 1000 left, got %+v", p)
	}
	if got := apply(t, db, charge(account, 5000)); got.New != 1 {
		t.Errorf("want a charge over what remains booked, got %+v", got)
	}
	if p := find(t, db, account, "openai"); p.Remaining != -4030 {
		t.Errorf("want 4030 owed, got %+v", p)
	}
	verify(t, db)
}

// TestApplyAtOnce books overlapping batches from many writers, among credits.
func TestApplyAtOnce(t *testing.T) {
	t.Parallel()
	db := database(t)
	var users []uuid.UUID
	var charges []ledger.Charge
	for i := range 4 {
		users = append(users, uuid.New())
		mustCredit(t, db, ledger.Purchase{UserID: users[i], Provider: "openai", Tokens: 1_000_000, Reference: fmt.Sprint("r", i)})
		for range 100 {
			charges = append(charges, charge(ledger.Account(users[i], uuid.Nil), 3))
		}
	}
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for n := range 10 { // overlapping parts
				from := (w*37 + n*40) % 300
				for {
					if _, err := ledger.Apply(t.Context(), db, charges[from:from+100]); err == nil {
						break
					} else if n > 1000 {
						t.Error(err)
						return
					}
				}
			}
			mustNot(t, credit(t, db, ledger.Purchase{UserID: users[w%4], Provider: "openai", Tokens: 7, Reference: fmt.Sprint("more", w)}))
		})
	}
	wg.Wait()
	apply(t, db, charges...)
	for _, user := range users {
		if p := find(t, db, ledger.Account(user, uuid.Nil), "openai"); p.Total != 1_000_014 || p.Remaining != 1_000_014-300 {
			t.Errorf("want 300 spent of 1 000 014, got %+v", p)
		}
	}
	verify(t, db)
}

func mustNot(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Error(err)
	}
}

// stream is a NATS server with the stream, and a publisher.
func stream(tb testing.TB) (*testenv.NATSProcess, jetstream.JetStream, *nats.Conn) {
	tb.Helper()
	server := testenv.NATSServer(tb)
	nc, err := nats.Connect(server.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := usage.EnsureStream(tb.Context(), js); err != nil {
		tb.Fatal(err)
	}
	return server, js, nc
}

// publish sends an event until JetStream has it.
func publish(tb testing.TB, js jetstream.JetStream, c ledger.Charge) {
	tb.Helper()
	data, err := usage.Encode(usage.Event{RequestID: c.Request, Account: c.Account, Provider: c.Provider, Charged: c.Tokens,
		Pool: usage.PoolDrawn, Timestamp: c.At}, "/test", "", "")
	if err != nil {
		tb.Fatal(err)
	}
	send(tb, js, c.Request, data)
}

func send(tb testing.TB, js jetstream.JetStream, id string, data []byte) {
	tb.Helper()
	for {
		ctx, cancel := context.WithTimeout(tb.Context(), time.Second)
		_, err := js.Publish(ctx, usage.Subject("openai"), data, jetstream.WithMsgID(id))
		cancel()
		if err == nil {
			return
		}
		if tb.Context().Err() != nil {
			tb.Fatal(err)
		}
	}
}

func consumer(tb testing.TB, db *pgxpool.Pool, js jetstream.JetStream) *ledger.Consumer {
	tb.Helper()
	c, err := ledger.NewConsumer(ledger.ConsumerConfig{JetStream: js, DB: db, Metrics: prometheus.NewRegistry(),
		Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// TestConsumerThroughFaults has two replicas book while NATS restarts and Postgres ends
// their transactions, with poison among the events.
func TestConsumerThroughFaults(t *testing.T) {
	t.Parallel()
	db, user := database(t), uuid.New()
	server, js, nc := stream(t)
	account := ledger.Account(user, uuid.Nil)
	mustCredit(t, db, ledger.Purchase{UserID: user, Provider: "openai", Tokens: 1_000_000, Reference: "r"})
	own, err := pgxpool.NewWithConfig(t.Context(), db.Config().Copy()) // whose connections are killed
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(own.Close)
	ctx, stop := context.WithCancel(t.Context())
	var replicas sync.WaitGroup
	var first *ledger.Consumer
	for range 2 {
		c := consumer(t, own, js)
		first = c
		replicas.Go(func() { _ = c.Run(ctx) })
	}
	const events = 1500
	published := publishAll(t, js, account, events)
	killed := killWaiting(t, db, user)
	var faults sync.WaitGroup
	faults.Go(func() {
		for {
			select {
			case <-published:
				return
			case <-time.After(5 * time.Millisecond):
				killed += killBatches(t, db)
			}
		}
	})
	for range 3 {
		time.Sleep(50 * time.Millisecond) // lets some batches through between the faults
		server.Stop()
		server.Start()
	}
	<-published
	faults.Wait()
	testenv.Eventually(t, fmt.Sprintf("every event booked once, %d left", 1_000_000-2*events),
		func() bool { return find(t, db, account, "openai").Remaining == 1_000_000-2*events })
	caughtUp, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for err := first.CatchUp(caughtUp); err != nil; err = first.CatchUp(caughtUp) { // it may be waiting to attach again
		if caughtUp.Err() != nil {
			t.Fatalf("catch up: want no error, got %v", err)
		}
	}
	stop()
	replicas.Wait()
	dead, err := js.Stream(t.Context(), usage.StreamDead)
	if err != nil {
		t.Fatal(err)
	}
	if n := dead.CachedInfo().State.Msgs; n != 5 {
		t.Errorf("want 5 dead letters, got %d", n)
	}
	t.Logf("%d sessions killed, NATS restarted 3 times, connected: %t", killed, nc.IsConnected())
	verify(t, db)
}

// publishAll publishes events of 2 tokens, and poison among them, and says when it is done.
func publishAll(tb testing.TB, js jetstream.JetStream, account string, events int) <-chan struct{} {
	tb.Helper()
	published := make(chan struct{})
	go func() {
		defer close(published)
		for i := range events {
			publish(tb, js, charge(account, 2))
			if i%10 == 0 {
				time.Sleep(2 * time.Millisecond) // so that the faults fall among the events
			}
			if i%300 == 0 {
				send(tb, js, uuid.NewString(), []byte("poison"))
			}
		}
	}()
	return published
}

// killWaiting ends the first batch that waits for the pool of a user, and answers how many.
func killWaiting(t *testing.T, db *pgxpool.Pool, user uuid.UUID) (killed int) {
	t.Helper()
	err := pgx.BeginFunc(t.Context(), db, func(tx pgx.Tx) error {
		if _, err := tx.Exec(t.Context(), `SELECT FROM token_pools WHERE user_id = $1 FOR UPDATE`, user); err != nil {
			return err
		}
		testenv.Eventually(t, "a batch is killed", func() bool { killed = killBatches(t, db); return killed > 0 })
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return killed
}

// killBatches ends the sessions that are within a batch, and answers how many.
func killBatches(tb testing.TB, db *pgxpool.Pool) (n int) {
	tb.Helper()
	err := db.QueryRow(tb.Context(), `SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database()
		AND pid <> pg_backend_pid() AND state <> 'idle' AND (query LIKE '%name: PostEntries%' OR query LIKE '%name: Lock%' OR query LIKE '%name: Save%')`).Scan(&n)
	if err != nil {
		tb.Error(err)
	}
	return n
}

// BenchmarkApply measures usage events booked per second, in batches of 2000.
func BenchmarkApply(b *testing.B) {
	for name, accounts := range map[string]int{"one hot pool": 1, "1000 pools": 1000} {
		b.Run(name, func(b *testing.B) {
			db := database(b)
			var names []string
			for i := range accounts {
				user := uuid.New()
				mustCredit(b, db, ledger.Purchase{UserID: user, Provider: "openai", Tokens: 1 << 40, Reference: fmt.Sprint("r", i)})
				names = append(names, ledger.Account(user, uuid.Nil))
			}
			events := 0
			for b.Loop() {
				b.StopTimer()
				batch := make([]ledger.Charge, 2000)
				for i := range batch {
					batch[i] = charge(names[i%accounts], 1)
				}
				b.StartTimer()
				apply(b, db, batch...)
				events += len(batch)
			}
			b.ReportMetric(float64(events)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

// BenchmarkHotPool has 64 writers on one pool, each event by itself and then in batches.
func BenchmarkHotPool(b *testing.B) {
	for name, size := range map[string]int{"one event a transaction": 1, "100 events a transaction": 100} {
		b.Run(name, func(b *testing.B) {
			db, user := database(b), uuid.New()
			mustCredit(b, db, ledger.Purchase{UserID: user, Provider: "openai", Tokens: 1 << 40, Reference: "r"})
			account, events := ledger.Account(user, uuid.Nil), 0
			for b.Loop() {
				var writers sync.WaitGroup
				for range 64 {
					writers.Go(func() {
						batch := make([]ledger.Charge, size)
						for i := range batch {
							batch[i] = charge(account, 1)
						}
						if _, err := ledger.Apply(b.Context(), db, batch); err != nil {
							b.Error(err)
						}
					})
				}
				writers.Wait()
				events += 64 * size
			}
			b.ReportMetric(float64(events)/b.Elapsed().Seconds(), "events/s")
		})
	}
}
