package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/retry"
)

const (
	durable = "ledger"
	// fetchMost is the largest batch, in events.
	fetchMost = 5000
	// idleWait is how long one request for a first message stands, and how long a stop waits.
	idleWait = 500 * time.Millisecond
	// linger is how long more messages are waited for after the first. A lost Redis waits
	// for the books to catch up, so it is short.
	linger = 25 * time.Millisecond
	// ackWait is how long a delivery may stay unanswered: after a crash between commit and
	// ack, the next process sees the batch again that much later.
	ackWait = 5 * time.Second
	// askWait bounds every other call to NATS, applyWait one batch.
	askWait, applyWait = 5 * time.Second, 30 * time.Second
)

// ConsumerConfig is what NewConsumer needs.
type ConsumerConfig struct {
	JetStream jetstream.JetStream
	DB        *pgxpool.Pool
	Metrics   prometheus.Registerer
	Log       *slog.Logger
}

// Consumer books the usage events of the stream. A message is acknowledged after the
// commit of its batch: a crash between the two brings the batch again, and it is known.
// Any number of replicas share the one durable consumer.
type Consumer struct {
	cfg      ConsumerConfig
	attached atomic.Pointer[jetstream.Consumer]
	events   *prometheus.CounterVec
	seconds  prometheus.Histogram
}

// NewConsumer makes a consumer; Run starts it.
func NewConsumer(cfg ConsumerConfig) (*Consumer, error) {
	if cfg.JetStream == nil || cfg.DB == nil || cfg.Metrics == nil || cfg.Log == nil {
		return nil, errors.New("make ledger consumer: JetStream, DB, Metrics and Log are needed")
	}
	c := &Consumer{cfg: cfg,
		events: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "token_ledger_events_total", Help: "Usage events taken from the stream."},
			[]string{"outcome"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "token_ledger_batch_seconds",
			Help:    "Duration of the transactions that book usage.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5}})}
	cfg.Metrics.MustRegister(c.events, c.seconds)
	return c, nil
}

// Run books until ctx ends. What fails is tried again, so it always returns nil.
func (c *Consumer) Run(ctx context.Context) error {
	retry.Away().Forever(ctx, c.cfg.Log, "consume usage events", c.consume)
	return nil
}

func (c *Consumer) consume(ctx context.Context) error {
	asking, cancel := context.WithTimeout(ctx, askWait)
	consumer, err := attach(asking, c.cfg.JetStream)
	cancel()
	if err != nil {
		return err
	}
	c.attached.Store(&consumer)
	for ctx.Err() == nil {
		messages, err := usage.Fetch(ctx, consumer, fetchMost, idleWait, linger)
		if len(messages) > 0 {
			c.book(ctx, messages)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// attach makes sure that the streams and the durable consumer are there.
func attach(ctx context.Context, js jetstream.JetStream) (jetstream.Consumer, error) {
	if _, err := usage.EnsureStream(ctx, js); err != nil {
		return nil, err
	}
	consumer, err := js.CreateOrUpdateConsumer(ctx, usage.Stream, jetstream.ConsumerConfig{
		Durable: durable, FilterSubject: usage.SubjectsUsage, AckPolicy: jetstream.AckExplicitPolicy, DeliverPolicy: jetstream.DeliverAllPolicy,
		AckWait: ackWait, MaxDeliver: -1, MaxAckPending: 8 * fetchMost, Description: "usage events to the ledger",
	})
	if err != nil {
		return nil, fmt.Errorf("make ledger consumer: %w", err)
	}
	return consumer, nil
}

// delivery is a message and what it costs.
type delivery struct {
	msg    jetstream.Msg
	charge Charge
}

// book applies one fetch and acknowledges it.
func (c *Consumer) book(ctx context.Context, messages []jetstream.Msg) {
	var free []jetstream.Msg
	charged := make([]delivery, 0, len(messages))
	for _, msg := range messages {
		charge, costs, err := decode(msg.Data())
		switch {
		case err != nil:
			c.bury(ctx, msg, err)
		case costs:
			charged = append(charged, delivery{msg, charge})
		default:
			free = append(free, msg)
		}
	}
	c.events.WithLabelValues("free").Add(float64(len(free)))
	c.acknowledge(ctx, append(free, c.apply(ctx, charged)...))
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

// apply books until everything is, and answers the messages to acknowledge: none if ctx
// ended before. What Postgres refuses for its contents is looked for by halves and buried.
func (c *Consumer) apply(ctx context.Context, charged []delivery) []jetstream.Msg {
	if len(charged) == 0 {
		return nil
	}
	messages, charges := make([]jetstream.Msg, len(charged)), make([]Charge, len(charged))
	for i, d := range charged {
		messages[i], charges[i] = d.msg, d.charge
	}
	booked, refused := false, error(nil)
	retry.Away().Forever(ctx, c.cfg.Log, "book usage", func(ctx context.Context) error {
		start := time.Now()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), applyWait) // what has begun may end
		defer cancel()
		done, err := Apply(ctx, c.cfg.DB, charges)
		if unbookable(err) {
			refused = err
			return nil
		}
		if err != nil {
			return err
		}
		booked = true
		c.seconds.Observe(time.Since(start).Seconds())
		c.events.WithLabelValues("booked").Add(float64(done.New))
		c.events.WithLabelValues("repeated").Add(float64(done.Repeated))
		c.events.WithLabelValues("no_pool").Add(float64(done.NoPool))
		return nil
	})
	switch {
	case booked:
		return messages
	case refused == nil: // stopping: hand them to the next process at once
		for _, msg := range messages {
			_ = msg.Nak()
		}
	case len(charged) == 1:
		c.bury(ctx, messages[0], refused)
	default:
		half := len(charged) / 2
		return append(c.apply(ctx, charged[:half]), c.apply(ctx, charged[half:])...)
	}
	return nil
}

// unbookable says that trying again is no use: Postgres refuses the data (classes 22 and
// 23), or the books contradict it.
func unbookable(err error) bool {
	answer, answered := errors.AsType[*pgconn.PgError](err)
	return answered && (strings.HasPrefix(answer.Code, "22") || strings.HasPrefix(answer.Code, "23")) ||
		errors.Is(err, ErrReferenceTaken) || errors.Is(err, ErrInvalid)
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
		c.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "acknowledge usage events failed, they will come again", slog.Any("error", err))
	}
}

// bury moves what is no usage event to the dead-letter subject; where that fails it comes
// again later.
func (c *Consumer) bury(ctx context.Context, msg jetstream.Msg, reason error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askWait)
	defer cancel()
	var sequence uint64
	if meta, err := msg.Metadata(); err == nil {
		sequence = meta.Sequence.Stream
	}
	// One letter for each reader that could not read it: each refuses other things.
	id := fmt.Sprintf("dead:%s:%s:%d", durable, usage.Stream, sequence)
	if err := usage.Bury(ctx, c.cfg.JetStream, msg, sequence, id, reason); err != nil {
		c.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "bury poison failed, it will come again", slog.Uint64("sequence", sequence),
			slog.Any("error", err))
		_ = msg.NakWithDelay(ackWait)
		return
	}
	_ = msg.TermWithReason("not a usage event")
	c.events.WithLabelValues("dead").Inc()
	c.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "buried a message that is no usage event", slog.Uint64("sequence", sequence),
		slog.String("reason", usage.Printable(reason.Error())))
}
