package outbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/balance"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/retry"
	"github.com/leaky-tokens/leaky-tokens/internal/tracing"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/tokensdb"
)

const (
	// claimSlots is how many slots a worker takes at once: a part, so that others get some.
	claimSlots = 16
	// ackWait bounds the wait for JetStream's answers to one wave.
	ackWait = 5 * time.Second
	// roundWait bounds a round, and so how long a claim can last.
	roundWait = 30 * time.Second
	// source is the CloudEvents source of all events.
	source = "/tokensvc"
)

// Config is what New needs.
type Config struct {
	DB        *pgxpool.Pool
	NATS      *nats.Conn    // with ReconnectBufSize(-1), see New
	PollEvery time.Duration // without a NOTIFY; default 2 s
	Batch     int           // events of one round, default 1000
	Attempts  int           // of an event that JetStream refuses, before it is parked; default 8
	Workers   int           // rounds at once, default 2
	Keep      time.Duration // published events stay so long, default 1 h
	Metrics   prometheus.Registerer
	Log       *slog.Logger
}

// Relay publishes what is in the outbox. Any number of replicas share the work.
type Relay struct {
	cfg     Config
	js      jetstream.JetStream
	metrics metrics
	bell    *bell
	known   known
	said    *retry.Troubles
	pending atomic.Int64 // events when last counted
}

// New makes a relay; Run starts it. A connection that keeps messages while the link is down would send
// them first over the next one, before the relay could look whether the stream has what came before.
func New(cfg Config) (*Relay, error) {
	if cfg.DB == nil || cfg.NATS == nil || cfg.Metrics == nil || cfg.Log == nil {
		return nil, errors.New("make outbox relay: DB, NATS, Metrics and Log are needed")
	}
	if cfg.NATS.Opts.ReconnectBufSize >= 0 {
		return nil, errors.New("make outbox relay: NATS must not keep messages while the link is down")
	}
	setDefault(&cfg.PollEvery, 2*time.Second)
	setDefault(&cfg.Batch, 1000)
	setDefault(&cfg.Attempts, 8)
	setDefault(&cfg.Workers, 2)
	setDefault(&cfg.Keep, time.Hour)
	js, err := jetstream.New(cfg.NATS, jetstream.WithPublishAsyncMaxPending(cfg.Workers*cfg.Batch), jetstream.WithPublishAsyncTimeout(ackWait))
	if err != nil {
		return nil, fmt.Errorf("open jetstream: %w", err)
	}
	return &Relay{cfg: cfg, js: js, metrics: newMetrics(cfg.Metrics), bell: newBell(), known: known{link: never},
		said: retry.NewTroubles(cfg.Log)}, nil
}

func setDefault[T int | time.Duration](field *T, value T) {
	if *field <= 0 {
		*field = value
	}
}

// Run relays until ctx ends. What fails is tried again, so it always returns nil.
func (r *Relay) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for range r.cfg.Workers {
		g.Go(func() error { return r.work(ctx, r.Round) })
	}
	g.Go(func() error { return r.listen(ctx) })
	g.Go(func() error { return r.watch(ctx) })
	return g.Wait()
}

// Round claims slots, publishes what is pending in them, and answers of how many events
// it knows now: published, or refused for good reason. The claim is the transaction: if
// this process dies, it ends.
func (r *Relay) Round(ctx context.Context) (int, error) {
	stopping := ctx.Done()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), roundWait) // what is published is marked
	defer cancel()
	link, err := r.lookAtStream(ctx)
	if err != nil {
		return 0, fmt.Errorf("relay events: %w", err)
	}
	handled, confirmed := 0, 0
	err = pgx.BeginFunc(ctx, r.cfg.DB, func(tx pgx.Tx) error {
		q := tokensdb.New(tx)
		claimed, err := q.ClaimSlots(ctx, claimSlots)
		if err != nil || len(claimed) == 0 {
			return err
		}
		pending, err := q.PendingEvents(ctx, tokensdb.PendingEventsParams{Slots: claimed, MostOfSlot: int32(max(1, r.cfg.Batch/len(claimed)))})
		if err != nil {
			return err
		}
		done, refused, outage := r.publish(ctx, link, stopping, q, pending)
		if outage != nil && len(done)+refused == 0 {
			return outage
		}
		handled, confirmed = len(done)+refused, len(done)
		return mark(ctx, q, done) // whatever happened to the rest
	})
	if err != nil {
		return 0, fmt.Errorf("relay events: %w", err)
	}
	r.metrics.published.Add(float64(confirmed))
	return handled, nil
}

// published is an event that JetStream confirmed, with its place in the stream.
type published struct {
	id  uuid.UUID
	seq uint64
}

// mark notes what was published.
func mark(ctx context.Context, q *tokensdb.Queries, done []published) error {
	var p tokensdb.MarkPublishedParams
	for _, d := range done {
		p.Ids, p.StreamSeqs = append(p.Ids, d.id), append(p.StreamSeqs, int64(d.seq))
	}
	return q.MarkPublished(ctx, p)
}

// publish sends events in waves: about each thing one, and the next one only after
// JetStream has confirmed it. So a lost connection in the middle of a wave can make no
// hole in a thing's order. It answers what is published and how many events were refused;
// the error is an outage. link is the connection that the stream was looked at over.
func (r *Relay) publish(ctx context.Context, link uint64, stopping <-chan struct{}, q *tokensdb.Queries,
	pending []tokensdb.PendingEventsRow) (done []published, refused int, outage error) {
	for wave := range waves(pending) {
		select {
		case <-stopping:
			return done, refused, nil
		default:
		}
		confirmed, failed := r.send(ctx, link, wave)
		if done = append(done, confirmed...); len(failed) == 0 {
			continue
		}
		refused, outage, err := r.judge(ctx, q, failed)
		return done, refused, errors.Join(outage, err) // later events about these things wait; the next round knows
	}
	return done, refused, nil
}

// waves cuts events into such that are about each thing once, in its order.
func waves(pending []tokensdb.PendingEventsRow) func(yield func([]tokensdb.PendingEventsRow) bool) {
	return func(yield func([]tokensdb.PendingEventsRow) bool) {
		for len(pending) > 0 {
			seen := make(map[string]struct{}, len(pending))
			var wave, rest []tokensdb.PendingEventsRow
			for _, e := range pending {
				if e.AggregateID != nil {
					if _, behind := seen[*e.AggregateID]; behind {
						rest = append(rest, e)
						continue
					}
					seen[*e.AggregateID] = struct{}{}
				}
				wave = append(wave, e)
			}
			if !yield(wave) {
				return
			}
			pending = rest
		}
	}
}

// send publishes a wave and waits for every answer. Nothing goes over another connection than link, since
// the stream there may lack what a message comes after.
func (r *Relay) send(ctx context.Context, link uint64, wave []tokensdb.PendingEventsRow) (confirmed []published, failed []failure) {
	futures := make([]jetstream.PubAckFuture, len(wave))
	for i, e := range wave {
		msg, err := message(e)
		if err == nil && r.moved(link) {
			err = errMoved
		}
		if err == nil {
			futures[i], err = r.js.PublishMsgAsync(msg, jetstream.WithMsgID(e.ID.String()), jetstream.WithExpectStream(usage.Stream))
		}
		if err != nil {
			failed = append(failed, failure{e, err})
		}
	}
	deadline := time.NewTimer(ackWait)
	defer deadline.Stop()
	late := false
	for i, e := range wave {
		if futures[i] == nil {
			continue
		}
		if late { // the deadline is over for all; who has answered by now still counts
			select {
			case ack := <-futures[i].Ok():
				confirmed = append(confirmed, published{e.ID, ack.Sequence})
			default:
				failed = append(failed, failure{e, errNoAnswer})
			}
			continue
		}
		select {
		case ack := <-futures[i].Ok():
			confirmed = append(confirmed, published{e.ID, ack.Sequence})
		case err := <-futures[i].Err():
			failed = append(failed, failure{e, err})
		case <-deadline.C:
			late = true
			failed = append(failed, failure{e, errNoAnswer})
		case <-ctx.Done():
			late = true
			failed = append(failed, failure{e, ctx.Err()})
		}
	}
	return confirmed, failed
}

var errNoAnswer = errors.New("no answer from JetStream")

// message is what is published: a CloudEvent with the event's data, or, of a balance, the
// bare state, which ratelimit reads for every change of a pool.
func message(e tokensdb.PendingEventsRow) (*nats.Msg, error) {
	msg := nats.NewMsg(e.Subject)
	msg.Data = e.Payload
	if tracing.Sampled(e.Traceparent) {
		msg.Header.Set(tracing.Header, e.Traceparent) // where consumers look, who make spans of such calls alone
	}
	if strings.HasPrefix(e.Subject, balance.SubjectPrefix) {
		return msg, nil
	}
	var err error
	msg.Data, err = json.Marshal(usage.Envelope{SpecVersion: "1.0", ID: e.ID.String(), Source: source, Type: e.EventType,
		Time:            e.CreatedAt.UTC(),
		DataContentType: "application/json", CorrelationID: e.CorrelationID, TraceParent: e.Traceparent, Data: e.Payload})
	if err != nil {
		return nil, fmt.Errorf("encode event: %w", err)
	}
	return msg, nil
}
