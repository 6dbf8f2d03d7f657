package usage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/leaky-tokens/leaky-tokens/internal/retry"
	"github.com/leaky-tokens/leaky-tokens/internal/tracing"
)

const (
	// BatchMost is the largest batch, in events.
	BatchMost = 5000
	// idleWait is how long one request for a first message stands, and how long a stop waits.
	idleWait = 500 * time.Millisecond
	// ackWait is how long a delivery may stay unanswered: after a crash between storing
	// and acknowledging, the next process sees the batch again that much later.
	ackWait = 5 * time.Second
	// askWait bounds every other call to NATS.
	askWait = 5 * time.Second
)

// ErrDetached says that NATS has not answered the consumer yet.
var ErrDetached = errors.New("the consumer is not attached to the stream")

// Delivery is one message of the stream.
type Delivery struct {
	Sequence uint64 // in the stream
	Data     []byte // for Decode
}

// Handler stores usage events.
type Handler interface {
	// Store takes a batch, all of it or with an error as much as it could. It is given the
	// same batch again after an error and after a crash, so storing twice MUST do no harm.
	// Refused are those, by their index, that no trying again would get stored, with the
	// reason. ctx does not end when the consumer is stopped, since what has begun may end:
	// Store bounds itself.
	Store(ctx context.Context, batch []Delivery) (refused map[int]error, err error)
}

// ConsumerConfig is what NewConsumer needs; every member but Subjects, Positions and Tracer is required.
type ConsumerConfig struct {
	JetStream    jetstream.JetStream
	Durable      string        // the name that all replicas share
	Subjects     string        // what it reads; empty: SubjectsUsage
	Description  string        // of what the handler does, for NATS and the log: "book usage"
	Linger       time.Duration // how long more messages are waited for after the first: larger batches, later
	Outstanding  int           // batches of all replicas together that may be unanswered
	Handler      Handler
	Positions    Positions // of Handler's store; nil: what it lost after it was acknowledged stays lost
	DeadLettered func()    // counts a dead letter
	Log          *slog.Logger
	Tracer       trace.Tracer // nil: no spans
}

// Consumer moves usage events from the stream to its handler:
//
//	fetch a batch -> Store -> refused ones to SubjectDead -> acknowledge the rest
//	                  ^  |
//	                  +--+ pause, while the store is away
//
// A message is acknowledged only after it is stored, so that a crash, a lost answer or a
// store that is down delays events and loses none. Any number of replicas share the work.
type Consumer struct {
	cfg      ConsumerConfig
	said     *retry.Troubles
	attached atomic.Pointer[jetstream.Consumer]
	at       position
}

// NewConsumer makes a consumer; Run starts it.
func NewConsumer(cfg ConsumerConfig) (*Consumer, error) {
	if cfg.JetStream == nil || cfg.Durable == "" || cfg.Description == "" || cfg.Linger <= 0 || cfg.Outstanding <= 0 || cfg.Handler == nil ||
		cfg.DeadLettered == nil || cfg.Log == nil {
		return nil, errors.New("make usage consumer: every member of its configuration is needed")
	}
	cfg.Subjects = cmp.Or(cfg.Subjects, SubjectsUsage)
	return &Consumer{cfg: cfg, said: retry.NewTroubles(cfg.Log)}, nil
}

// Run consumes until ctx ends. What fails is tried again, so it always returns nil.
func (c *Consumer) Run(ctx context.Context) error {
	_ = retry.Away().Do(ctx, c.consume, func(_ int, err error) { // until ctx ends
		if ctx.Err() == nil {
			c.said.Warn(ctx, c.unread(), err)
		}
	})
	return nil
}

// unread is said while NATS does not give what there is to read, or the store does not say how far it is.
func (c *Consumer) unread() string { return c.cfg.Description + " waits" }

// Attach makes sure that the streams and the durable consumer are there. Run does it, too.
func (c *Consumer) Attach(ctx context.Context) (jetstream.Consumer, error) {
	ctx, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	stream, err := EnsureStream(ctx, c.cfg.JetStream)
	if err != nil {
		return nil, err
	}
	consumer, err := c.cfg.JetStream.CreateOrUpdateConsumer(ctx, Stream, jetstream.ConsumerConfig{
		Durable: c.cfg.Durable, FilterSubject: c.cfg.Subjects, AckPolicy: jetstream.AckExplicitPolicy,
		DeliverPolicy: jetstream.DeliverAllPolicy, AckWait: ackWait, MaxDeliver: -1, MaxAckPending: c.cfg.Outstanding * BatchMost,
		Description: c.cfg.Description,
	})
	if err != nil {
		return nil, fmt.Errorf("make consumer %s: %w", c.cfg.Durable, err)
	}
	c.attached.Store(&consumer)
	c.at.stream = madeAt(stream)
	return consumer, nil
}

// consume works off the stream until ctx ends or NATS refuses.
func (c *Consumer) consume(ctx context.Context) error {
	first := c.attached.Load() == nil
	consumer, err := c.Attach(ctx)
	if err != nil {
		return err
	}
	if first {
		c.cfg.Log.LogAttrs(ctx, slog.LevelInfo, "consuming usage events", slog.String("stream", Stream), slog.String("consumer", c.cfg.Durable))
	}
	c.said.Over(ctx, c.unread(), c.cfg.Description+" reads on")
	for ctx.Err() == nil {
		if err := c.follow(ctx); err != nil {
			return err
		}
		messages, err := Fetch(ctx, consumer, BatchMost, idleWait, c.cfg.Linger)
		if len(messages) > 0 {
			c.process(ctx, messages)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// process stores one fetch and answers for it.
func (c *Consumer) process(ctx context.Context, messages []jetstream.Msg) {
	batch := make([]Delivery, len(messages))
	for i, msg := range messages {
		batch[i].Data = msg.Data()
		if meta, err := msg.Metadata(); err == nil {
			batch[i].Sequence = meta.Sequence.Stream
		}
	}
	begun := time.Now()
	refused, stored := c.store(ctx, batch)
	if !stored { // stopping: hand them to the next process at once
		for _, msg := range messages {
			_ = msg.Nak()
		}
		return
	}
	good := messages[:0:0]
	for i, msg := range messages {
		if reason, bad := refused[i]; bad {
			c.deadLetter(ctx, msg, batch[i].Sequence, reason)
			continue
		}
		good = append(good, msg)
	}
	c.traced(ctx, good, begun)
	c.acknowledge(ctx, good)
	if c.cfg.Log.Enabled(ctx, slog.LevelDebug) {
		c.tell(ctx, good)
	}
}

// store gives the handler a batch until it is stored, or ctx ends.
func (c *Consumer) store(ctx context.Context, batch []Delivery) (refused map[int]error, stored bool) {
	retry.Away().Forever(ctx, c.said, c.cfg.Description, func(ctx context.Context) (err error) {
		refused, err = c.cfg.Handler.Store(context.WithoutCancel(ctx), batch)
		if stored = err == nil; !stored {
			c.at.sure.Store(false)
		}
		return err
	}, retry.Waiting(func() int64 { return c.waiting(len(batch)) }))
	return refused, stored
}

// traced makes a span of the storing for each call whose spans are kept. They were stored together,
// so all spans of a batch are as long.
func (c *Consumer) traced(ctx context.Context, messages []jetstream.Msg, begun time.Time) {
	if c.cfg.Tracer == nil {
		return
	}
	for _, msg := range messages {
		above := msg.Headers().Get(tracing.Header)
		if !tracing.Sampled(above) {
			continue
		}
		_, span := c.cfg.Tracer.Start(tracing.Parent(ctx, above), c.cfg.Description, trace.WithTimestamp(begun),
			trace.WithSpanKind(trace.SpanKindConsumer),
			trace.WithAttributes(semconv.MessagingSystemKey.String("nats"), semconv.MessagingDestinationName(msg.Subject()),
				semconv.MessagingConsumerGroupName(c.cfg.Durable), semconv.MessagingBatchMessageCount(len(messages))))
		span.End()
	}
}

// tell says which calls are kept.
func (c *Consumer) tell(ctx context.Context, messages []jetstream.Msg) {
	for _, msg := range messages {
		if e, err := Decode(msg.Data()); err == nil {
			c.cfg.Log.LogAttrs(ctx, slog.LevelDebug, "call kept", slog.String("request_id", e.RequestID), slog.Int64("tokens", e.Charged))
		}
	}
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
	var err error
	for _, msg := range messages[:last] {
		if err = msg.Ack(); err != nil {
			break
		}
	}
	if err == nil {
		err = messages[last].DoubleAck(ctx)
	}
	if err != nil {
		c.said.Warn(ctx, unacknowledged, err, slog.Int("events", len(messages)))
		return
	}
	c.said.Over(ctx, unacknowledged, "usage events are acknowledged again")
}

// unacknowledged is said of events that are stored, which NATS does not know.
const unacknowledged = "acknowledge usage events failed, they will come again"

// deadLetter moves a message out of the way; where that fails it comes again later.
func (c *Consumer) deadLetter(ctx context.Context, msg jetstream.Msg, sequence uint64, reason error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askWait)
	defer cancel()
	// One letter for each reader that could not read it: each refuses other things.
	id := fmt.Sprintf("dead:%s:%s:%d", c.cfg.Durable, Stream, sequence)
	if err := DeadLetter(ctx, c.cfg.JetStream, msg, sequence, id, reason); err != nil {
		c.said.Warn(ctx, "publish dead letter failed, it will come again", err, slog.Uint64("sequence", sequence))
		_ = msg.NakWithDelay(ackWait)
		return
	}
	_ = msg.TermWithReason("not a usage event")
	c.cfg.DeadLettered()
	c.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "kept as a dead letter a message that is no usage event", slog.Uint64("sequence", sequence),
		slog.String("subject", msg.Subject()), slog.String("reason", Printable(reason.Error())))
}

// Info is what NATS says of the consumer; ErrDetached before it has answered for the first time.
func (c *Consumer) Info(ctx context.Context) (*jetstream.ConsumerInfo, error) {
	consumer := c.attached.Load()
	if consumer == nil {
		return nil, ErrDetached
	}
	return (*consumer).Info(ctx)
}

// Lag is how many events are published and not yet confirmed as stored.
func (c *Consumer) Lag(ctx context.Context) (int64, error) {
	info, err := c.Info(ctx)
	if err != nil {
		return 0, fmt.Errorf("lag of consumer %s: %w", c.cfg.Durable, err)
	}
	return int64(info.NumPending) + int64(info.NumAckPending), nil
}

// countWait bounds how long a line of the log waits for how many events wait.
const countWait = 500 * time.Millisecond

// waiting is how many events wait for the handler: as NATS counts them, or those at hand.
func (c *Consumer) waiting(hand int) int64 {
	ctx, cancel := context.WithTimeout(context.Background(), countWait)
	defer cancel()
	if lag, err := c.Lag(ctx); err == nil {
		return lag
	}
	return int64(hand)
}
