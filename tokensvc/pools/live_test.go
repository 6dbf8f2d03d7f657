package pools_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/balance"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/ledger"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/migrations"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/outbox"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/pools"
)

// live is the token service's books, running.
type live struct {
	tb testing.TB
	db *pgxpool.Pool
	nc *nats.Conn
	js jetstream.JetStream
}

func start(tb testing.TB, every time.Duration) *live {
	tb.Helper()
	l := &live{tb: tb, db: testenv.Postgres(tb)}
	must(tb, migrations.Up(tb.Context(), l.db))
	var err error
	l.nc, err = nats.Connect(testenv.NATS(tb), nats.ReconnectBufSize(-1))
	must(tb, err)
	tb.Cleanup(l.nc.Close)
	l.js, err = jetstream.New(l.nc)
	must(tb, err)
	_, err = usage.EnsureStream(tb.Context(), l.js)
	must(tb, err)
	registry, log := prometheus.NewRegistry(), slog.New(slog.DiscardHandler)
	consumer, err := ledger.NewConsumer(ledger.ConsumerConfig{JetStream: l.js, DB: l.db, Metrics: registry, Log: log})
	must(tb, err)
	relay, err := outbox.New(outbox.Config{DB: l.db, NATS: l.nc, Metrics: registry, Log: log})
	must(tb, err)
	balances, err := pools.NewBalances(pools.BalanceConfig{DB: l.db, NATS: l.nc, Ledger: consumer, Log: log})
	must(tb, err)
	jobs, err := pools.NewJobs(pools.JobsConfig{DB: l.db, Ledger: consumer, ExpireEvery: every, AnnounceEvery: every, Metrics: registry,
		Log: log})
	must(tb, err)
	ctx, stop := context.WithCancel(context.WithoutCancel(tb.Context()))
	var running sync.WaitGroup
	for _, run := range []func(context.Context) error{consumer.Run, relay.Run, balances.Run, jobs.Run} {
		running.Go(func() { must(tb, run(ctx)) })
	}
	tb.Cleanup(func() { stop(); running.Wait() })
	return l
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Error(err)
	}
}

func (l *live) credit(c ledger.Purchase) {
	l.tb.Helper()
	must(l.tb, pgx.BeginFunc(l.tb.Context(), l.db, func(tx pgx.Tx) error { return ledger.Credit(l.tb.Context(), tx, c) }))
}

// ask asks as ratelimit does, until it is answered without an error.
func (l *live) ask(account string) balance.State {
	l.tb.Helper()
	question, err := json.Marshal(balance.Ask{Account: account, Provider: "openai"})
	must(l.tb, err)
	var last string
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); {
		reply, err := l.nc.Request(balance.SubjectAsk, question, 2*time.Second)
		if err != nil {
			last = err.Error()
			continue
		}
		var a balance.Answer
		must(l.tb, json.Unmarshal(reply.Data, &a))
		if a.Error == "" {
			must(l.tb, a.State.Check())
			return a.State
		}
		last = a.Error
	}
	l.tb.Fatalf("want an answer, got %s", last)
	return balance.State{}
}

func (l *live) changes() <-chan *nats.Msg {
	l.tb.Helper()
	changes := make(chan *nats.Msg, 1024)
	sub, err := l.nc.ChanSubscribe(balance.SubjectPrefix+"*", changes)
	must(l.tb, err)
	must(l.tb, l.nc.Flush())
	l.tb.Cleanup(func() { _ = sub.Unsubscribe() })
	return changes
}

// wait reads changes until one is as wanted.
func (l *live) wait(changes <-chan *nats.Msg, what string, wanted func(balance.State) bool) balance.State {
	l.tb.Helper()
	end := time.After(time.Minute)
	for {
		select {
		case msg := <-changes:
			s, err := balance.Decode(msg.Data)
			must(l.tb, err)
			if wanted(s) {
				return s
			}
		case <-end:
			l.tb.Fatalf("gave up waiting for %s", what)
		}
	}
}

func TestPurchaseToMessage(t *testing.T) {
	t.Parallel()
	l := start(t, time.Hour)
	user := uuid.New()
	account := ledger.Account(user, uuid.Nil)
	if s := l.ask(account); s.Present || s.Account != account {
		t.Fatalf("want no pool yet, got %+v", s)
	}
	changes := l.changes()
	var took []time.Duration
	for n := range 100 {
		l.credit(ledger.Purchase{UserID: user, Provider: "openai", Tokens: 10, Reference: fmt.Sprint("r", n)})
		begin := time.Now()
		s := l.wait(changes, "the new balance", func(s balance.State) bool { return s.Credits == int64(10*(n+1)) })
		took = append(took, time.Since(begin))
		if !s.Present || s.Window != 24*time.Hour || s.Anchor.IsZero() || s.Spent != 0 {
			t.Fatalf("want the whole state, got %+v", s)
		}
	}
	slices.Sort(took)
	t.Logf("purchase committed to message received: p50 %v, p95 %v, slowest %v", took[50], took[95], took[99])
	if s := l.ask(account); s.Credits != 1000 || s.Version < 100 {
		t.Errorf("want 1000 credits, got %+v", s)
	}
}

// TestAnswerWaitsForTheStream: a lost Redis must not hear of tokens that are spent already,
// so what was published before the question is in the answer.
func TestAnswerWaitsForTheStream(t *testing.T) {
	t.Parallel()
	l := start(t, time.Hour)
	user := uuid.New()
	account := ledger.Account(user, uuid.Nil)
	l.credit(ledger.Purchase{UserID: user, Provider: "openai", Tokens: 1_000_000, Reference: "r"})
	l.ask(account) // the consumer is there
	for n := range 30 {
		for range 10 {
			id := uuid.NewString()
			data, err := usage.Encode(usage.Event{RequestID: id, Account: account, Provider: "openai", Charged: 3, Pool: usage.PoolDrawn,
				Timestamp: time.Now()}, "/test", "", "")
			must(t, err)
			_, err = l.js.Publish(t.Context(), usage.Subject("openai"), data, jetstream.WithMsgID(id))
			must(t, err)
		}
		if s, want := l.ask(account), int64(30*(n+1)); s.Spent != want {
			t.Fatalf("want %d spent, as published, got %d", want, s.Spent)
		}
	}
}

func TestMalformedQuestionsAreAnswered(t *testing.T) {
	t.Parallel()
	l := start(t, time.Hour)
	for _, question := range []string{"", "{", "{}", `{"account":"user:x","provider":"openai"}`, `{"account":"ip:1","provider":"openai"}`,
		`{"account":"user:` + uuid.NewString() + `","provider":"a.b"}`} {
		var a balance.Answer
		for end := time.Now().Add(30 * time.Second); ; {
			reply, err := l.nc.Request(balance.SubjectAsk, []byte(question), 2*time.Second)
			if err == nil {
				must(t, json.Unmarshal(reply.Data, &a))
				break
			}
			if time.Now().After(end) {
				t.Fatal(err)
			}
		}
		if a.Error == "" {
			t.Errorf("%q: want an error, got %+v", question, a.State)
		}
	}
}

// TestJobsExpireAndAnnounce: a credit that is over leaves the pool without anybody asking,
// and ratelimit hears of what usage has left.
func TestJobsExpireAndAnnounce(t *testing.T) {
	t.Parallel()
	l := start(t, 50*time.Millisecond)
	user := uuid.New()
	account, late := ledger.Account(user, uuid.Nil), time.Now().Add(time.Hour)
	changes := l.changes()
	l.credit(ledger.Purchase{UserID: user, Provider: "openai", Tokens: 100, Reference: "forever", Policy: ledger.Policy{Prepaid: true}})
	l.credit(ledger.Purchase{UserID: user, Provider: "openai", Tokens: 50, Reference: "late", ExpiresAt: &late})
	_, err := ledger.Apply(t.Context(), l.db, []ledger.Charge{{Request: "c", Account: account, Provider: "openai", Tokens: 20, Drawn: true,
		At: time.Now()}})
	must(t, err)
	l.wait(changes, "what usage has left", func(s balance.State) bool { return s.Spent == 20 })
	_, err = l.db.Exec(t.Context(), `UPDATE token_lots SET expires_at = now()`) // an hour has passed
	must(t, err)
	s := l.wait(changes, "the expiry", func(s balance.State) bool { return s.Credits == 120 }) // 20 of the 50 were spent
	if s.Spent != 20 || s.Window != 0 {
		t.Errorf("want 20 spent of a prepaid pool, got %+v", s)
	}
	if got, err := ledger.Verify(t.Context(), l.db); err != nil || len(got) > 0 {
		t.Errorf("want books without differences, got %v, %v", got, err)
	}
}
