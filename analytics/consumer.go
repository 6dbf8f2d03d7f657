package analytics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/retry"
)

const (
	fetchMost = 5000
	// idleWait is how long one request for a first message stands, and how long a stop waits.
	idleWait = 500 * time.Millisecond
	// linger is how long more messages are waited for after the first: the price in
	// freshness of fewer, larger inserts: an insert costs the engine some 30 ms whatever its
	// size, and the books promise two seconds.
	linger = 750 * time.Millisecond
	// askWait bounds every other call to NATS.
	askWait = 5 * time.Second
	// remembered ids take some 100 bytes each.
	remembered = 1 << 16
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
	Metrics   *Metrics
	Log       *slog.Logger
}

// Consumer moves usage events from the stream to the store. A message is acknowledged
// only after its insert, so that a crash, a lost answer or a store that is down delays
// events and loses none; duplicates that this causes are dropped by id.
type Consumer struct {
	cfg      ConsumerConfig
	recent   *recentIDs
	attached atomic.Pointer[jetstream.Consumer]
}

// NewConsumer makes a consumer; Run starts it.
func NewConsumer(cfg ConsumerConfig) (*Consumer, error) {
	if cfg.JetStream == nil || cfg.Store == nil || cfg.Metrics == nil || cfg.Log == nil {
		return nil, errors.New("make usage consumer: JetStream, Store, Metrics and Log are needed")
	}
	return &Consumer{cfg: cfg, recent: newRecentIDs(remembered)}, nil
}

// Run consumes until ctx ends. What fails is tried again, so it always returns nil.
func (c *Consumer) Run(ctx context.Context) error {
	retry.Away().Forever(ctx, c.cfg.Log, "consume usage events", c.consume)
	return nil
}

// consume attaches and works off the stream until ctx ends or NATS refuses.
func (c *Consumer) consume(ctx context.Context) error {
	asking, cancel := context.WithTimeout(ctx, askWait)
	consumer, err := attach(asking, c.cfg.JetStream)
	cancel()
	if err != nil {
		return err
	}
	c.attached.Store(&consumer)
	c.cfg.Log.LogAttrs(ctx, slog.LevelInfo, "consuming usage events", slog.String("stream", usage.Stream), slog.String("consumer", durable))
	for ctx.Err() == nil {
		messages, err := usage.Fetch(ctx, consumer, fetchMost, idleWait, linger)
		if len(messages) > 0 {
			c.process(ctx, messages)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// process inserts one fetch and acknowledges it.
func (c *Consumer) process(ctx context.Context, messages []jetstream.Msg) {
	deliveries := make([]delivery, len(messages))
	for i, msg := range messages {
		deliveries[i].data = msg.Data()
		if meta, err := msg.Metadata(); err == nil {
			deliveries[i].seq = meta.Sequence.Stream
		}
	}
	b := sortDeliveries(deliveries, c.recent)
	c.bury(ctx, messages, deliveries, b.poison)
	var good []jetstream.Msg
	for i, msg := range messages {
		if _, bad := b.poison[i]; !bad {
			good = append(good, msg)
		}
	}
	if len(b.rows) > 0 && !c.insert(ctx, b.rows) {
		for _, msg := range good { // stopping: hand them to the next process at once
			_ = msg.Nak()
		}
		return
	}
	for _, row := range b.rows {
		c.recent.add(row.RequestID)
	}
	c.cfg.Metrics.inserted.Add(float64(len(b.rows)))
	c.cfg.Metrics.duplicates.Add(float64(b.duplicates))
	c.acknowledge(ctx, good)
}

// insert tries until the rows are in, and reports false only if ctx ended before.
func (c *Consumer) insert(ctx context.Context, rows []Row) bool {
	name := token(usage.Stream, rows)
	done := false
	retry.Away().Forever(ctx, c.cfg.Log, "insert usage events", func(ctx context.Context) error {
		start := time.Now()
		// What has begun may end: the store bounds it, and a stop waits longer than that.
		if err := c.cfg.Store.Insert(context.WithoutCancel(ctx), name, rows); err != nil {
			c.cfg.Metrics.insertFailures.Inc()
			return err
		}
		c.cfg.Metrics.insertSeconds.Observe(time.Since(start).Seconds())
		done = true
		return nil
	})
	return done
}

// acknowledge sends every ack, and waits for the server's word on the last: acks of one
// connection are taken in order, so it stands for all before it.
func (c *Consumer) acknowledge(ctx context.Context, messages []jetstream.Msg) {
	if len(messages) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askWait)
	defer cancel()
	last := len(messages) - 1
	for _, msg := range messages[:last] {
		if err := msg.Ack(); err != nil {
			c.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "acknowledge usage events failed, they will come again", slog.Any("error", err))
			return
		}
	}
	if err := messages[last].DoubleAck(ctx); err != nil {
		c.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "acknowledge usage events failed, they will come again", slog.Any("error", err))
	}
}

// bury moves poison out of the way; where that fails it comes again later.
func (c *Consumer) bury(ctx context.Context, messages []jetstream.Msg, deliveries []delivery, poison map[int]error) {
	if len(poison) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askWait)
	defer cancel()
	for i, reason := range poison {
		msg, seq := messages[i], deliveries[i].seq
		if err := usage.Bury(ctx, c.cfg.JetStream, msg, seq, fmt.Sprintf("dead:%s:%d", usage.Stream, seq), reason); err != nil {
			c.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "bury poison failed, it will come again", slog.Uint64("sequence", seq), slog.Any("error", err))
			_ = msg.NakWithDelay(ackWait)
			continue
		}
		_ = msg.TermWithReason("not a usage event")
		c.cfg.Metrics.dead.Inc()
		c.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "buried a message that is no usage event", slog.Uint64("sequence", seq),
			slog.String("subject", msg.Subject()), slog.String("reason", usage.Printable(reason.Error())))
	}
}

// ErrLagUnknown says that NATS did not tell how far behind the consumer is.
var ErrLagUnknown = errors.New("consumer lag is unknown")

// Pending is how many events are published and not yet confirmed as stored.
func (c *Consumer) Pending(ctx context.Context) (int64, error) {
	consumer := c.attached.Load()
	if consumer == nil {
		return 0, ErrLagUnknown
	}
	ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	info, err := (*consumer).Info(ctx)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrLagUnknown, err)
	}
	return int64(info.NumPending) + int64(info.NumAckPending), nil
}
