package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/leaky-tokens/leaky-tokens/bench/internal/proc"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/ledger"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/outbox"
)

const (
	pools   = 1000
	writers = 64
	// perAggregate is how many events a purchase has.
	perAggregate = 4
	// chunk is how many rows or messages go out before their answers are waited for.
	chunk = 1000
	// singles is what share of the events is booked one by one: that takes so much longer.
	singles = 20
)

// kind is one way that usage comes to the ledger.
type kind string

const (
	spread  kind = "1000 pools, from a backlog"
	hot     kind = "one pool, from a backlog"
	live    kind = "one pool, 64 publishers that wait for each ack, booked meanwhile"
	oneEach kind = "for comparison: one pool, 64 writers, a transaction for each event"
)

func kinds() []kind { return []kind{spread, hot, live, oneEach} }

// booking is one measurement of the ledger.
type booking struct {
	events  int
	updates int64 // of rows of pools
	elapsed time.Duration
	cpu     time.Duration // of Postgres
}

func (b booking) rate() float64 { return float64(b.events) / b.elapsed.Seconds() }

func (b booking) cpuPerEvent() float64 { return float64(b.cpu.Microseconds()) / float64(b.events) }

func (b booking) perUpdate() float64 { return float64(b.events) / float64(b.updates) }

// books runs the relay and the ledger's consumer of the token service in this process.
type books struct {
	stack    *stack
	js       jetstream.JetStream
	accounts []string
	log      *slog.Logger
}

func newBooks(ctx context.Context, s *stack) (*books, error) {
	js, err := jetstream.New(s.nats, jetstream.WithPublishAsyncMaxPending(chunk))
	if err != nil {
		return nil, err
	}
	b := &books{stack: s, js: js, log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))}
	err = pgx.BeginFunc(ctx, s.db, func(tx pgx.Tx) error {
		for range pools {
			user := uuid.New()
			if err := ledger.Credit(ctx, tx, ledger.Purchase{UserID: user, Provider: "openai", Tokens: 1 << 40, Reference: "bench:" +
				user.String()}); err != nil {
				return err
			}
			b.accounts = append(b.accounts, ledger.Account(user, uuid.Nil))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("make pools: %w", err)
	}
	if _, err := b.relay(ctx, chunk); err != nil { // warm, and the pools' own events are out
		return nil, fmt.Errorf("outbox: %w", err)
	}
	_, err = b.measure(ctx, spread, chunk)
	return b, err
}

// relay fills the outbox and gives the rows per second that one relay publishes.
func (b *books) relay(ctx context.Context, rows int) (float64, error) {
	for filled := 0; filled < rows; filled += chunk {
		if err := b.fill(ctx, min(chunk, rows-filled)); err != nil {
			return 0, err
		}
	}
	var pending int
	if err := b.stack.db.QueryRow(ctx, `SELECT count(*) FROM token_outbox WHERE published_at IS NULL`).Scan(&pending); err != nil {
		return 0, err
	}
	registry := prometheus.NewRegistry()
	relay, err := outbox.New(outbox.Config{DB: b.stack.db, NATS: b.stack.nats, Metrics: registry, Log: b.log})
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	err = during(ctx, relay.Run, func(ctx context.Context) error {
		return await(ctx, registry, "token_outbox_published_total", "", pending)
	})
	return float64(pending) / time.Since(begin).Seconds(), err
}

// fill writes events as purchases do, some for each aggregate.
func (b *books) fill(ctx context.Context, rows int) error {
	var events []outbox.Event
	for len(events) < rows {
		purchase, now := uuid.NewString(), time.Now()
		data := map[string]any{"id": purchase, "userId": uuid.NewString(), "orgId": nil, "provider": "openai", "tokens": 1000,
			"idempotencyKey": uuid.NewString(),
			"status":         "PAYMENT_RESERVED", "amount": 1, "currency": "usd", "createdAt": now, "updatedAt": now}
		for n := range perAggregate {
			events = append(events, outbox.Event{AggregateType: "TokenPurchaseSaga", AggregateID: purchase, Type: fmt.Sprintf("BENCH_STEP_%d", n),
				Subject: fmt.Sprintf("leaky.saga.v1.BENCH_STEP_%d", n), Data: data})
		}
	}
	return pgx.BeginFunc(ctx, b.stack.db, func(tx pgx.Tx) error { return outbox.AddAll(ctx, tx, events) })
}

// measure books so many events of one kind.
func (b *books) measure(ctx context.Context, k kind, events int) (booking, error) {
	pids, err := b.stack.pids(ctx)
	if err != nil {
		return booking{}, err
	}
	before, err := b.versions(ctx)
	if err != nil {
		return booking{}, err
	}
	used, err := proc.CPU(pids)
	if err != nil {
		return booking{}, err
	}
	got := booking{events: events}
	switch k {
	case spread:
		got.elapsed, err = b.backlog(ctx, b.accounts, events)
	case hot:
		got.elapsed, err = b.backlog(ctx, b.accounts[:1], events)
	case live:
		got.elapsed, err = b.live(ctx, events)
	case oneEach:
		got.events /= singles
		got.elapsed, err = b.write(got.events, func(e usage.Event) error {
			_, err := ledger.Apply(ctx, b.stack.db, []ledger.Charge{{Request: e.RequestID, Account: e.Account, Provider: e.Provider,
				Tokens: e.Charged, Drawn: true, At: e.Timestamp}})
			return err
		})
	}
	if err != nil {
		return got, err
	}
	usedAfter, err := proc.CPU(pids)
	if err != nil {
		return got, err
	}
	got.cpu = usedAfter["postgres"] - used["postgres"]
	after, err := b.versions(ctx)
	got.updates = after - before
	return got, err
}

// versions is how often rows of pools were written in all: each time counts one up.
func (b *books) versions(ctx context.Context) (sum int64, err error) {
	err = b.stack.db.QueryRow(ctx, `SELECT coalesce(sum(version), 0)::bigint FROM token_pools`).Scan(&sum)
	return sum, err
}

// backlog publishes events and then measures how long the ledger takes for them.
func (b *books) backlog(ctx context.Context, accounts []string, events int) (time.Duration, error) {
	var futures []jetstream.PubAckFuture
	for n := range events {
		e := event(accounts[n%len(accounts)])
		data, err := usage.Encode(e, "/bench", "", "")
		if err != nil {
			return 0, err
		}
		future, err := b.js.PublishAsync(usage.Subject(e.Provider), data, jetstream.WithMsgID(e.RequestID))
		if err != nil {
			return 0, err
		}
		if futures = append(futures, future); len(futures) == chunk || n == events-1 {
			if err := acknowledged(ctx, futures); err != nil {
				return 0, err
			}
			futures = futures[:0]
		}
	}
	return b.consume(ctx, events, func() error { return nil })
}

func acknowledged(ctx context.Context, futures []jetstream.PubAckFuture) error {
	for _, f := range futures {
		select {
		case <-f.Ok():
		case err := <-f.Err():
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// live has the writers publish while the ledger books.
func (b *books) live(ctx context.Context, events int) (time.Duration, error) {
	return b.consume(ctx, events, func() error {
		_, err := b.write(events, func(e usage.Event) error {
			data, err := usage.Encode(e, "/bench", "", "")
			if err == nil {
				_, err = b.js.Publish(ctx, usage.Subject(e.Provider), data, jetstream.WithMsgID(e.RequestID))
			}
			return err
		})
		return err
	})
}

// consume runs the ledger's consumer and feed until so many events are booked.
func (b *books) consume(ctx context.Context, events int, feed func() error) (time.Duration, error) {
	registry := prometheus.NewRegistry()
	consumer, err := ledger.NewConsumer(ledger.ConsumerConfig{JetStream: b.js, DB: b.stack.db, Metrics: registry, Log: b.log})
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	var elapsed time.Duration
	err = during(ctx, consumer.Run, func(ctx context.Context) error {
		err := errors.Join(feed(), await(ctx, registry, "token_ledger_events_total", "booked", events))
		elapsed = time.Since(begin)
		if err != nil {
			return err
		}
		return consumer.CatchUp(ctx) // the acks, too, so that nothing comes again in another measurement
	})
	return elapsed, err
}

// write has all writers hand events of one pool to do, each the next when the last is done.
func (b *books) write(events int, do func(usage.Event) error) (time.Duration, error) {
	var (
		left    atomic.Int64
		mu      sync.Mutex
		failure error
		wg      sync.WaitGroup
	)
	left.Store(int64(events))
	begin := time.Now()
	for range writers {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				if err := do(event(b.accounts[0])); err != nil {
					mu.Lock()
					failure = errors.Join(failure, err)
					mu.Unlock()
					return
				}
			}
		})
	}
	wg.Wait()
	return time.Since(begin), failure
}

// event is a call's, as the meter publishes it.
func event(account string) usage.Event {
	return usage.Event{RequestID: uuid.NewString(), UserID: account[len("user:"):], KeyID: uuid.NewString(), Tier: "USER", Account: account,
		Route:    "openai-chat",
		Provider: "openai", ModelAsked: "gpt-4o-mini", ModelServed: "gpt-4o-mini-2024-07-18", Input: 60, Output: 40, Held: 1280, Charged: 100,
		Source: usage.FromProvider,
		Pool:   usage.PoolDrawn, Allowed: true, Stream: true, Status: 200, LatencyMS: 900, FirstByteMS: 210, Timestamp: time.Now()}
}

// during runs a part until do returns.
func during(ctx context.Context, run, do func(context.Context) error) error {
	ctx, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()
	err := do(ctx)
	stop()
	return errors.Join(err, <-ended)
}

// await returns when a counter has come to n.
func await(ctx context.Context, registry *prometheus.Registry, name, outcome string, n int) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for tick := time.NewTicker(2 * time.Millisecond); ; {
		got, err := counted(registry, name, outcome)
		if err != nil || got >= float64(n) {
			tick.Stop()
			return err
		}
		select {
		case <-ctx.Done():
			tick.Stop()
			return fmt.Errorf("%s came to %.0f, want %d: %w", name, got, n, ctx.Err())
		case <-tick.C:
		}
	}
}

// counted is a counter's value, of one outcome if that is not empty.
func counted(registry *prometheus.Registry, name, outcome string) (sum float64, err error) {
	families, err := registry.Gather()
	if err != nil {
		return 0, err
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			if outcome == "" || m.GetLabel()[0].GetValue() == outcome {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum, nil
}
