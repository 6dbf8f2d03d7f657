package meter

import (
	"context"
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

// settledBatch is a piece of the spool that is settled, with its events.
type settledBatch struct {
	messages []usage.Message
	end      position
}

// mostAtOnce bounds the events of one round of publishing.
const mostAtOnce = 2000

// publishLoop publishes settled batches in order and moves the checkpoint behind them, which it saves
// now and then: a sync for each batch would cost more than the batch.
func (m *Meter) publishLoop(ctx context.Context) error {
	save := time.NewTicker(m.cfg.SaveEvery)
	defer save.Stop()
	defer m.saveCheckpoint()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-save.C:
			m.saveCheckpoint()
		case b := <-m.queue:
			m.publishBatch(ctx, m.more(b))
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

// publishBatch tries until every event is stored or ctx ends.
func (m *Meter) publishBatch(ctx context.Context, b settledBatch) {
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
		m.refused.Store(&err)
		m.publishUp.Store(false)
		m.metrics.retries.WithLabelValues("publish").Inc()
		m.quietly.warn("publishing waits for NATS", err)
	})
	if err != nil {
		return // ctx has ended
	}
	m.publishUp.Store(true)
	if b.end.Inode != 0 {
		m.published = b.end
	}
	m.waiting.Add(int64(-len(b.messages)))
}
