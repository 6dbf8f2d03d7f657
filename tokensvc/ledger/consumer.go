package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/retry"
	"github.com/leaky-tokens/leaky-tokens/internal/tracing"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/tokensdb"
)

// Durable is the consumer of usage events, which all replicas share.
const Durable = "ledger"

const (
	// linger is how long more messages are waited for after the first. A lost Redis waits
	// for the books to catch up, so it is short.
	linger = 25 * time.Millisecond
	// applyWait bounds one batch.
	applyWait = 30 * time.Second
	// beginBooking begins the transaction of a batch, which waits for no lock longer than lock_timeout.
	// It holds the locks of other pools meanwhile; batches of other replicas, which it waits for too, are
	// shorter. A replica that stands still within (a paused machine, a dead network) would hold its locks
	// and its entries, which the others wait for, as long as it stands: Postgres ends its transaction.
	// Both settings end with the transaction, so a pooler between the two does not mix them up.
	beginBooking = "BEGIN; SET LOCAL lock_timeout = '1s'; SET LOCAL idle_in_transaction_session_timeout = '5s'"
)

// ConsumerConfig is what NewConsumer needs.
type ConsumerConfig struct {
	JetStream jetstream.JetStream
	DB        *pgxpool.Pool
	Metrics   prometheus.Registerer
	Log       *slog.Logger
	Traces    trace.TracerProvider // nil: no spans
}

// Consumer books the usage events of the stream. A message is acknowledged after the
// commit of its batch: a crash between the two brings the batch again, and it is known.
// A charge whose pool somebody has locked is written down beside the books and booked
// when the lock is gone (waiting.go), so that it holds up no other.
type Consumer struct {
	*usage.Consumer
	bookings *bookings
}

// NewConsumer makes a consumer; Run starts it.
func NewConsumer(cfg ConsumerConfig) (*Consumer, error) {
	if cfg.DB == nil || cfg.Metrics == nil {
		return nil, errors.New("make ledger consumer: DB and Metrics are needed")
	}
	b := &bookings{db: cfg.DB, log: cfg.Log, said: retry.NewTroubles(cfg.Log),
		events: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "token_ledger_events_total", Help: "Usage events taken from the stream."},
			[]string{"outcome"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "token_ledger_batch_seconds",
			Help:    "Duration of the transactions that book usage.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5}})}
	c, err := usage.NewConsumer(usage.ConsumerConfig{JetStream: cfg.JetStream, Durable: Durable, Description: "book usage", Linger: linger,
		Outstanding: 8, Handler: b, Positions: positions{cfg.DB}, DeadLettered: b.events.WithLabelValues("dead").Inc, Log: cfg.Log,
		Tracer: tracing.Tracer(cfg.Traces)})
	if err != nil {
		return nil, err
	}
	cfg.Metrics.MustRegister(b.events, b.seconds)
	return &Consumer{c, b}, nil
}

// Lag is how many events are published and not yet booked: those before the consumer, and the charges
// that wait for a locked pool, which it has taken. CatchUp is of the former alone.
func (c *Consumer) Lag(ctx context.Context) (int64, error) {
	lag, err := c.Consumer.Lag(ctx)
	if err != nil {
		return 0, err
	}
	waiting, err := tokensdb.New(c.bookings.db).CountWaiting(ctx)
	if err != nil {
		return 0, fmt.Errorf("count charges that wait: %w", err)
	}
	return lag + waiting, nil
}

// Run books until ctx ends.
func (c *Consumer) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.Consumer.Run(ctx) })
	g.Go(func() error { c.bookings.catchWaiting(ctx); return nil })
	return g.Wait()
}

// bookings is the handler.
type bookings struct {
	db      *pgxpool.Pool
	log     *slog.Logger
	said    *retry.Troubles
	events  *prometheus.CounterVec
	seconds prometheus.Histogram

	waryUntil time.Time // of Store, which one goroutine calls: until then it looks for locked pools first
}

// delivery is what a message costs, and its index in the batch.
type delivery struct {
	index  int
	charge Charge
	event  []byte // the message
}

// Store implements usage.Handler.
func (b *bookings) Store(ctx context.Context, batch []usage.Delivery) (map[int]error, error) {
	refused, charged := map[int]error{}, make([]delivery, 0, len(batch))
	for i, d := range batch {
		charge, costs, err := decode(d.Data)
		switch {
		case err != nil:
			refused[i] = err
		case costs:
			charged = append(charged, delivery{i, charge, d.Data})
		}
	}
	free := len(batch) - len(refused) - len(charged)
	if err := b.book(ctx, charged, refused); err != nil {
		return nil, err
	}
	b.events.WithLabelValues("free").Add(float64(free))
	return refused, nil
}

// decode gives the charge of an event, if it has one. Most calls draw on no pool and need
// not be read: that member's text cannot stand inside a value, where its quotes are escaped.
func decode(data []byte) (Charge, bool, error) {
	if bytes.Contains(data, []byte(`"pool":"none"`)) {
		return Charge{}, false, nil
	}
	event, err := usage.Decode(data)
	if err != nil {
		return Charge{}, false, err
	}
	return chargeOf(event)
}

// apply books in one transaction. What Postgres refuses for its contents is looked for by
// halves, and noted as refused.
func (b *bookings) apply(ctx context.Context, charged []delivery, refused map[int]error) error {
	if len(charged) == 0 {
		return nil
	}
	charges := make([]Charge, len(charged))
	for i, d := range charged {
		charges[i] = d.charge
	}
	start := time.Now()
	done, err := b.transact(ctx, charges)
	switch {
	case unbookable(err) && len(charged) == 1:
		refused[charged[0].index] = err
		return nil
	case unbookable(err):
		half := len(charged) / 2
		if err := b.apply(ctx, charged[:half], refused); err != nil {
			return err
		}
		return b.apply(ctx, charged[half:], refused)
	case err != nil:
		return err
	}
	b.seconds.Observe(time.Since(start).Seconds())
	b.events.WithLabelValues("booked").Add(float64(done.New))
	b.events.WithLabelValues("mended").Add(float64(done.Mended))
	b.events.WithLabelValues("repeated").Add(float64(done.Repeated))
	b.events.WithLabelValues("no_pool").Add(float64(done.NoPool))
	return nil
}

func (b *bookings) transact(ctx context.Context, charges []Charge) (done Applied, err error) {
	err = b.inTime(ctx, func(ctx context.Context, tx pgx.Tx) (err error) {
		done, err = apply(ctx, tx, charges, time.Time{})
		return err
	})
	if err != nil {
		return Applied{}, fmt.Errorf("apply usage: %w", err)
	}
	return done, nil
}

// unbookable says that trying again is no use: Postgres refuses the data (classes 22 and
// 23), or the books contradict it.
func unbookable(err error) bool {
	answer, answered := errors.AsType[*pgconn.PgError](err)
	return answered && (strings.HasPrefix(answer.Code, "22") || strings.HasPrefix(answer.Code, "23")) ||
		errors.Is(err, ErrReferenceTaken) || errors.Is(err, ErrInvalid)
}
