package analytics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/trace"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/tracing"
)

// Durable is the consumer of usage events, which all replicas share.
const Durable = "analytics"

const (
	// linger is how long more messages are waited for after the first: the price in
	// freshness of fewer, larger inserts: an insert costs the engine some 30 ms whatever its
	// size, and the books promise two seconds.
	linger = 750 * time.Millisecond
	// lagWait bounds the question how far behind the store is.
	lagWait = 500 * time.Millisecond
)

// Inserter writes rows once per token. An error means that they may or may not be
// written; the same call again must not write them twice.
type Inserter interface {
	Insert(ctx context.Context, token string, rows []Row) error
}

// ConsumerConfig is what NewConsumer needs.
type ConsumerConfig struct {
	JetStream jetstream.JetStream
	Store     Inserter
	Positions usage.Positions // of Store; nil: what it lost after it was acknowledged stays lost
	Metrics   *Metrics
	Log       *slog.Logger
	Traces    trace.TracerProvider // nil: no spans
}

// Consumer moves usage events from the stream to the store. Duplicates, which come from
// messages that are given again, have the same key in the table. No memory of ids spares them the way
// there: the store may have come back without what this process inserted.
type Consumer struct {
	*usage.Consumer
	metrics *Metrics
}

// NewConsumer makes a consumer; Run starts it.
func NewConsumer(cfg ConsumerConfig) (*Consumer, error) {
	if cfg.Store == nil || cfg.Metrics == nil {
		return nil, errors.New("make usage consumer: Store and Metrics are needed")
	}
	c, err := usage.NewConsumer(usage.ConsumerConfig{JetStream: cfg.JetStream, Durable: Durable, Description: "insert usage events",
		Linger:      linger,
		Outstanding: 4, Handler: &inserts{store: cfg.Store, metrics: cfg.Metrics}, Positions: cfg.Positions,
		DeadLettered: cfg.Metrics.dead.Inc, Log: cfg.Log, Tracer: tracing.Tracer(cfg.Traces)})
	if err != nil {
		return nil, err
	}
	return &Consumer{c, cfg.Metrics}, nil
}

// inserts is the handler.
type inserts struct {
	store   Inserter
	metrics *Metrics
}

// Store implements usage.Handler. The store bounds its inserts.
func (i *inserts) Store(ctx context.Context, batch []usage.Delivery) (map[int]error, error) {
	b := sortDeliveries(batch, time.Now())
	if len(b.rows) > 0 {
		start := time.Now()
		if err := i.store.Insert(ctx, token(usage.Stream, b.rows), b.rows); err != nil {
			i.metrics.insertFailures.Inc()
			return nil, err
		}
		i.metrics.insertSeconds.Observe(time.Since(start).Seconds())
	}
	i.metrics.inserted.Add(float64(len(b.rows)))
	i.metrics.duplicates.Add(float64(b.duplicates))
	return b.refused, nil
}

// ErrLagUnknown says that NATS did not tell how far behind the consumer is.
var ErrLagUnknown = errors.New("consumer lag is unknown")

// Pending is how many events are published and not yet confirmed as stored.
func (c *Consumer) Pending(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, lagWait)
	defer cancel()
	lag, err := c.Lag(ctx)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrLagUnknown, err)
	}
	return lag, nil
}
