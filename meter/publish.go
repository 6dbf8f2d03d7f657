package meter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/retry"
)

// Publisher stores messages for good. Publish returns those that are not known to be stored, each
// with its reason, and whether it is the message's own; publishing one twice MUST do no harm.
type Publisher interface {
	Publish(ctx context.Context, messages []usage.Message) (rest []usage.Unstored, err error)
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

// publishBatch tries until every event is stored, or kept as one that NATS never takes, or ctx ends.
func (m *Meter) publishBatch(ctx context.Context, b settledBatch) {
	waited := len(b.messages)
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
		left, kept, err := m.store(ctx, rest)
		rest, b.messages = left, without(b.messages, kept)
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
	m.waiting.Add(int64(-waited))
}

// store publishes messages on one connection, and gives those that are not known to be stored. What
// NATS never takes is put aside, so that it holds up no other: kept has its ids. It is no longer
// anything to publish.
func (m *Meter) store(ctx context.Context, messages []usage.Message) (rest []usage.Message, kept map[string]bool, err error) {
	unstored, err := m.cfg.Publisher.Publish(ctx, messages)
	if m.reconnected() {
		return messages, nil, errors.Join(err, errReconnected)
	}
	m.metrics.published.Add(float64(len(messages) - len(unstored)))
	if s, is := m.cfg.Publisher.(stream); is {
		if newest := s.Newest(); newest > 0 {
			m.acked.newest = newest
		}
	}
	var poison []usage.Unstored
	for _, u := range unstored {
		if u.Poison {
			poison = append(poison, u)
			continue
		}
		rest = append(rest, u.Message)
	}
	kept, keepErr := m.keepPoison(ctx, poison)
	if keepErr != nil { // it waits like any other: nothing is passed that stands nowhere
		for _, u := range poison {
			rest = append(rest, u.Message)
		}
		return rest, nil, errors.Join(err, keepErr)
	}
	if len(rest) == 0 {
		return nil, kept, nil
	}
	if err == nil {
		err = fmt.Errorf("%d events are not stored", len(rest))
	}
	return rest, kept, err
}

// keepPoison puts events that NATS takes in no form where damaged lines are kept, for a person to
// publish, and gives their ids.
func (m *Meter) keepPoison(ctx context.Context, poison []usage.Unstored) (kept map[string]bool, err error) {
	if len(poison) == 0 {
		return nil, nil
	}
	kept = make(map[string]bool, len(poison))
	lines := make([][]byte, len(poison))
	for i, u := range poison {
		lines[i], kept[u.Message.ID] = u.Message.Data, true
	}
	if err := m.damage.keepSafely(lines); err != nil {
		return nil, fmt.Errorf("keep what nats never takes: %w", err)
	}
	m.metrics.kept.Add(float64(len(poison)))
	m.said.Say(ctx, slog.LevelError, "nats refuses usage events in any form: they are kept beside the spool, and in no book",
		poison[0].Err, slog.String("event", poison[0].Message.ID), slog.Int("events", len(poison)), slog.String("file", m.damage.path))
	return kept, nil
}

// without are the messages but for those whose ids are given.
func without(messages []usage.Message, ids map[string]bool) []usage.Message {
	if len(ids) == 0 {
		return messages
	}
	left := make([]usage.Message, 0, len(messages))
	for _, one := range messages {
		if !ids[one.ID] {
			left = append(left, one)
		}
	}
	return left
}
