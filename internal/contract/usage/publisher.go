package usage

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/leaky-tokens/leaky-tokens/internal/tracing"
)

const (
	maxPending = 4096 // messages without an acknowledgement
	ackTimeout = 5 * time.Second
)

// Message is one event ready to be published.
type Message struct {
	ID      string // of the event; JetStream drops a repeat
	Subject string
	Data    []byte
	Trace   string // the traceparent, if the spans of the call are kept: a header, for who reads no envelope
}

// MessageOf is an event of a source, "/meter", as it is published.
func MessageOf(e Event, source, correlationID, traceParent string) (Message, error) {
	data, err := Encode(e, source, correlationID, traceParent)
	m := Message{ID: e.ID(), Subject: Subject(e.Provider), Data: data}
	if tracing.Sampled(traceParent) {
		m.Trace = traceParent
	}
	return m, err
}

// Publisher publishes to the stream and makes it when it is missing. It is safe for
// concurrent use.
type Publisher struct {
	js      jetstream.JetStream
	ensured atomic.Bool
	newest  atomic.Uint64 // place in the stream of the newest event that was stored; 0: none since it was asked for
}

// NewPublisher wraps a connection. It should be made with nats.ReconnectBufSize(-1): a
// message that waits in the client for a lost server is better kept by who published it.
func NewPublisher(nc *nats.Conn) (*Publisher, error) {
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(maxPending), jetstream.WithPublishAsyncTimeout(ackTimeout))
	if err != nil {
		return nil, fmt.Errorf("make jetstream client: %w", err)
	}
	return &Publisher{js: js}, nil
}

// Publish sends all messages and waits for their acknowledgements. Rest are those that are
// not known to be stored, with the reason of the last; publishing them again does no harm.
func (p *Publisher) Publish(ctx context.Context, messages []Message) (rest []Message, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*ackTimeout)
	defer cancel()
	if !p.ensured.Load() {
		if _, err := EnsureStream(ctx, p.js); err != nil {
			return messages, err
		}
		p.ensured.Store(true)
	}
	acks := make([]jetstream.PubAckFuture, len(messages))
	var failure error
	for i, m := range messages {
		msg := &nats.Msg{Subject: m.Subject, Data: m.Data}
		if m.Trace != "" {
			msg.Header = nats.Header{tracing.Header: {m.Trace}}
		}
		ack, err := p.js.PublishMsgAsync(msg, jetstream.WithMsgID(m.ID), jetstream.WithExpectStream(Stream))
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
		case stored := <-ack.Ok():
			if !stored.Duplicate {
				p.newest.Store(stored.Sequence)
			}
		case err := <-ack.Err():
			rest, failure = append(rest, messages[i]), err
		case <-ctx.Done():
			rest, failure = append(rest, messages[i]), ctx.Err()
		}
	}
	if errors.Is(failure, nats.ErrNoResponders) || errors.Is(failure, jetstream.ErrNoStreamResponse) {
		p.ensured.Store(false) // the stream may be gone
	}
	if failure != nil {
		return rest, fmt.Errorf("publish usage events: %w", failure)
	}
	return nil, nil
}

// Newest is where in the stream the newest event stands that was stored since the last call, 0 for none.
func (p *Publisher) Newest() uint64 { return p.newest.Swap(0) }

// Connection changes with each connection to a server: one that comes back may have forgotten what it
// acknowledged before it had synced it.
func (p *Publisher) Connection() uint64 { return p.js.Conn().Stats().Reconnects }

// Last is where the stream ends, as the server says now; 0 without a stream.
func (p *Publisher) Last(ctx context.Context) (uint64, error) {
	stream, err := p.js.Stream(ctx, Stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("look at stream %s: %w", Stream, err)
	}
	return stream.CachedInfo().State.LastSeq, nil
}

// Room is how full the stream is and how large it may grow, in bytes; most is 0 without a bound.
func (p *Publisher) Room(ctx context.Context) (used, most int64, err error) {
	stream, err := p.js.Stream(ctx, Stream)
	if err != nil {
		return 0, 0, fmt.Errorf("look at stream %s: %w", Stream, err)
	}
	info := stream.CachedInfo()
	return int64(min(info.State.Bytes, 1<<62)), max(0, info.Config.MaxBytes), nil
}
