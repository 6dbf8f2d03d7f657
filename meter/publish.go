package meter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/retry"
)

// Message is one event ready to be published.
type Message struct {
	ID      string // of the request; JetStream drops a repeat
	Subject string
	Data    []byte
}

// Publisher stores messages for good. Publish returns those that are not known to be
// stored, with the reason; publishing one twice MUST do no harm.
type Publisher interface {
	Publish(ctx context.Context, messages []Message) (rest []Message, err error)
}

const (
	maxPending = 4096 // messages without an acknowledgement
	ackTimeout = 5 * time.Second
)

// JetStream publishes to the stream LEAKY and makes it when it is missing.
type JetStream struct {
	js      jetstream.JetStream
	ensured bool
}

// NewJetStream wraps a connection. It should be made with nats.ReconnectBufSize(-1): a
// message that waits in the client for a lost server is better kept in the spool.
func NewJetStream(nc *nats.Conn) (*JetStream, error) {
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(maxPending), jetstream.WithPublishAsyncTimeout(ackTimeout))
	if err != nil {
		return nil, fmt.Errorf("make jetstream client: %w", err)
	}
	return &JetStream{js: js}, nil
}

// Publish sends all messages and waits for their acknowledgements.
func (j *JetStream) Publish(ctx context.Context, messages []Message) ([]Message, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*ackTimeout)
	defer cancel()
	if !j.ensured {
		if _, err := usage.EnsureStream(ctx, j.js); err != nil {
			return messages, err
		}
		j.ensured = true
	}
	var rest []Message
	var failure error
	acks := make([]jetstream.PubAckFuture, len(messages))
	for i, m := range messages {
		ack, err := j.js.PublishMsgAsync(&nats.Msg{Subject: m.Subject, Data: m.Data}, jetstream.WithMsgID(m.ID),
			jetstream.WithExpectStream(usage.Stream))
		if err != nil {
			rest, failure = append(rest, messages[i:]...), err
			break
		}
		acks[i] = ack
	}
	for i, ack := range acks {
		if ack == nil {
			break
		}
		select {
		case <-ack.Ok():
		case err := <-ack.Err():
			rest, failure = append(rest, messages[i]), err
		case <-ctx.Done():
			rest, failure = append(rest, messages[i]), ctx.Err()
		}
	}
	if errors.Is(failure, nats.ErrNoResponders) || errors.Is(failure, jetstream.ErrNoStreamResponse) {
		j.ensured = false // the stream may be gone
	}
	if failure != nil {
		return rest, fmt.Errorf("publish usage: %w", failure)
	}
	return nil, nil
}

// settledBatch is a piece of the spool that is settled, with its events.
type settledBatch struct {
	messages []Message
	end      position
}

// mostAtOnce bounds the events of one round of publishing.
const mostAtOnce = 2000

// publishLoop publishes settled batches in order and moves the checkpoint behind each.
func (m *Meter) publishLoop(ctx context.Context) error {
	for {
		var b settledBatch
		select {
		case <-ctx.Done():
			return nil
		case b = <-m.queue:
		}
		b = m.more(b)
		if err := m.publishBatch(ctx, b); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
	}
}

// more joins what else is waiting.
func (m *Meter) more(b settledBatch) settledBatch {
	for len(b.messages) < mostAtOnce {
		select {
		case next := <-m.queue:
			b.messages, b.end = append(b.messages, next.messages...), next.end
		default:
			return b
		}
	}
	return b
}

// publishBatch tries until every event is stored or ctx ends, and then checkpoints. An
// error is one that only a person can mend (the state folder cannot be written).
func (m *Meter) publishBatch(ctx context.Context, b settledBatch) error {
	rest := b.messages
	err := retry.Policy{First: 100 * time.Millisecond, Most: 2 * time.Second}.Do(ctx, func(ctx context.Context) error {
		if len(rest) == 0 {
			return nil
		}
		left, err := m.cfg.Publisher.Publish(ctx, rest)
		m.metrics.published.Add(float64(len(rest) - len(left)))
		if rest = left; err == nil && len(rest) > 0 {
			err = fmt.Errorf("%d events are not stored", len(rest))
		}
		return err
	}, func(_ int, err error) {
		m.publishUp.Store(false)
		m.metrics.retries.WithLabelValues("publish").Inc()
		m.quietly.warn("publishing waits for NATS", err)
	})
	if err != nil {
		return nil //nolint:nilerr // ctx has ended
	}
	m.publishUp.Store(true)
	if b.end.Inode != 0 {
		if err := b.end.save(m.cfg.checkpoint()); err != nil {
			return err
		}
	}
	m.done.Store(&b.end)
	m.waiting.Add(int64(-len(b.messages)))
	return nil
}
