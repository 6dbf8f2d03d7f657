package meter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/retry"
)

// Publisher stores messages for good. Publish returns those that are not known to be
// stored, with the reason; publishing one twice MUST do no harm.
type Publisher interface {
	Publish(ctx context.Context, messages []usage.Message) (rest []usage.Message, err error)
}

// unpublished is said while events are not stored.
const unpublished = "publishing waits for NATS"

// settledBatch is a piece of the spool that is settled, with its events.
type settledBatch struct {
	messages []usage.Message
	end      position
	reading  int64 // of the spool, see Meter.wanted
}

const (
	// mostAtOnce bounds the events of one round of publishing.
	mostAtOnce = 2000
	// mostUnsure bounds the events that are kept until NATS has surely synced them.
	mostUnsure = 100_000
)

// publishLoop publishes settled batches in order and moves the checkpoint behind them, which it saves
// now and then: a sync for each batch would cost more than the batch.
func (m *Meter) publishLoop(ctx context.Context) error {
	save := time.NewTicker(m.cfg.SaveEvery)
	defer save.Stop()
	defer m.saveCheckpoint()
	for {
		queue := m.queue
		if m.acked.size >= mostUnsure { // more waits in the queue, which has a bound
			queue = nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-save.C:
			m.confirm(ctx)
			m.saveCheckpoint()
		case b := <-queue:
			m.publishBatch(ctx, m.more(b))
		}
	}
}

// more joins what else is waiting.
func (m *Meter) more(b settledBatch) settledBatch {
	for len(b.messages) < mostAtOnce {
		select {
		case next := <-m.queue:
			b.messages, b.end, b.reading = append(b.messages, next.messages...), next.end, next.reading
		default:
			return b
		}
	}
	return b
}

// errReconnected says that acknowledgements may be of a server that lost what it acknowledged.
var errReconnected = errors.New("the connection to NATS was lost in between")

// publishBatch tries until every event is stored or ctx ends.
func (m *Meter) publishBatch(ctx context.Context, b settledBatch) {
	rest := b.messages
	err := retry.Policy{First: 100 * time.Millisecond, Most: 2 * time.Second}.Do(ctx, func(ctx context.Context) error {
		if m.reconnected() { // what was stored of it before may be lost, too
			rest = b.messages
			if err := m.look(ctx); err != nil {
				return err
			}
		}
		if len(rest) == 0 {
			return nil
		}
		left, err := m.store(ctx, rest)
		rest = left
		return err
	}, func(_ int, err error) {
		m.refused.Store(&err)
		m.publishUp.Store(false)
		m.metrics.retries.WithLabelValues("publish").Inc()
		m.said.Warn(ctx, unpublished, err, retry.Waiting(m.waiting.Load))
	})
	if err != nil {
		return // ctx has ended
	}
	m.publishUp.Store(true)
	m.said.Over(ctx, unpublished, "publishing goes on")
	m.acked.add(b, time.Now())
	m.waiting.Add(int64(-len(b.messages)))
}

// store publishes messages on one connection, and gives those that are not known to be stored.
func (m *Meter) store(ctx context.Context, messages []usage.Message) ([]usage.Message, error) {
	rest, err := m.cfg.Publisher.Publish(ctx, messages)
	if m.reconnected() {
		return messages, errors.Join(err, errReconnected)
	}
	m.metrics.published.Add(float64(len(messages) - len(rest)))
	if s, is := m.cfg.Publisher.(stream); is {
		if newest := s.Newest(); newest > 0 {
			m.acked.newest = newest
		}
	}
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("%d events are not stored", len(rest))
	}
	return rest, err
}
