package usage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/leaky-tokens/leaky-tokens/internal/retry"
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

// Unstored is a message that is not known to be stored.
type Unstored struct {
	Message Message
	Err     error // why
	Poison  bool  // it never will be, not even without what callers may make long: see Poison
}

// Publisher publishes to the stream and makes it when it is missing. It is safe for
// concurrent use.
type Publisher struct {
	js      jetstream.JetStream
	said    *retry.Troubles
	ensured atomic.Bool
	newest  atomic.Uint64 // place in the stream of the newest event that was stored; 0: none since it was asked for
}

// NewPublisher wraps a connection; log says which events NATS takes in part only. The connection
// should be made with nats.ReconnectBufSize(-1): a message that waits in the client for a lost
// server is better kept by who published it.
func NewPublisher(nc *nats.Conn, log *slog.Logger) (*Publisher, error) {
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(maxPending), jetstream.WithPublishAsyncTimeout(ackTimeout))
	if err != nil {
		return nil, fmt.Errorf("make jetstream client: %w", err)
	}
	return &Publisher{js: js, said: retry.NewTroubles(log)}, nil
}

// Publish sends all messages and waits for their acknowledgements. Rest are those that are not known
// to be stored, each with its reason; publishing them again does no harm. One that NATS never takes
// keeps none of the others from being stored. It is published again without what callers may make
// long, such as tags, which is logged; what is refused even so is poison. The error is that of a
// message in rest, an outage before poison, and nil without a rest.
func (p *Publisher) Publish(ctx context.Context, messages []Message) (rest []Unstored, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*ackTimeout)
	defer cancel()
	rest = p.send(ctx, messages)
	if slices.ContainsFunc(rest, isPoison) {
		rest = p.sendLean(ctx, rest)
	}
	if len(rest) == 0 {
		return nil, nil
	}
	why := max(0, slices.IndexFunc(rest, func(u Unstored) bool { return !u.Poison }))
	return rest, fmt.Errorf("publish usage events: %w", rest[why].Err)
}

func isPoison(u Unstored) bool { return u.Poison }

// sendLean publishes what is poison in rest with less in it, and gives what is left of rest: always
// whole messages, so that a later try begins with the whole again.
func (p *Publisher) sendLean(ctx context.Context, rest []Unstored) (left []Unstored) {
	var lean []Message
	whole := map[string]Unstored{} // by id
	for _, u := range rest {
		if u.Poison {
			if less, err := u.Message.lean(); err == nil {
				lean, whole[u.Message.ID] = append(lean, less), u
				continue
			}
		}
		left = append(left, u)
	}
	refused := map[string]bool{}
	for _, u := range p.send(ctx, lean) {
		left = append(left, Unstored{Message: whole[u.Message.ID].Message, Err: u.Err, Poison: u.Poison})
		refused[u.Message.ID] = true
	}
	for id, u := range whole {
		if !refused[id] {
			p.said.Warn(ctx, "nats refuses a usage event for good: it is stored without tags, session and end user", u.Err,
				slog.String("event", id))
		}
	}
	return left
}

// send publishes messages once, and gives those that are not known to be stored.
func (p *Publisher) send(ctx context.Context, messages []Message) (rest []Unstored) {
	filters, err := p.ensure(ctx)
	if err != nil {
		for _, m := range messages {
			rest = append(rest, Unstored{Message: m, Err: err})
		}
		return rest
	}
	acks := make([]jetstream.PubAckFuture, len(messages))
	failures := make([]error, len(messages))
	var outage error // of the client: it takes no other message either
	for i, m := range messages {
		if failures[i] = outage; outage != nil {
			continue
		}
		acks[i], failures[i] = p.begin(m)
		if failures[i] != nil && !Poison(failures[i], m.Subject, filters) {
			outage = failures[i]
		}
	}
	for i, m := range messages {
		if failures[i] == nil {
			failures[i] = p.await(ctx, acks[i])
		}
		if err := failures[i]; err != nil {
			rest = append(rest, Unstored{Message: m, Err: err, Poison: Poison(err, m.Subject, filters)})
			if gone(err) {
				p.ensured.Store(false)
			}
		}
	}
	return rest
}

// ensure makes the stream once, and gives its subjects if it looked at it just now.
func (p *Publisher) ensure(ctx context.Context) (filters []string, err error) {
	if p.ensured.Load() {
		return nil, nil
	}
	stream, err := EnsureStream(ctx, p.js)
	if err != nil {
		return nil, err
	}
	p.ensured.Store(true)
	return stream.CachedInfo().Config.Subjects, nil
}

func (p *Publisher) begin(m Message) (jetstream.PubAckFuture, error) {
	msg := &nats.Msg{Subject: m.Subject, Data: m.Data}
	if m.Trace != "" {
		msg.Header = nats.Header{tracing.Header: {m.Trace}}
	}
	return p.js.PublishMsgAsync(msg, jetstream.WithMsgID(m.ID), jetstream.WithExpectStream(Stream))
}

// await waits until a message is stored, which a nil says.
func (p *Publisher) await(ctx context.Context, ack jetstream.PubAckFuture) error {
	select {
	case stored := <-ack.Ok():
		if !stored.Duplicate {
			p.newest.Store(stored.Sequence)
		}
		return nil
	case err := <-ack.Err():
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// gone reports whether an error may mean that the stream is gone, or not what it was.
func gone(err error) bool {
	answer, ok := errors.AsType[*jetstream.APIError](err)
	return errors.Is(err, nats.ErrNoResponders) || errors.Is(err, jetstream.ErrNoStreamResponse) || ok && answer.ErrorCode == otherStream
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
