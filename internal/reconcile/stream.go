package reconcile

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
)

const (
	streamBatch = 2000
	// streamWait is how long the end of the stream is waited for once more messages should come.
	streamWait = 5 * time.Second
)

// published reads the stream: every event of calls that began in [from, to), the newest version of
// each. An event is published after its call began, so those before from need not be read.
func (s Sources) published(ctx context.Context, from, to time.Time) (map[string]Call, error) {
	consumer, err := s.Stream.OrderedConsumer(ctx, usage.Stream, jetstream.OrderedConsumerConfig{FilterSubjects: []string{usage.SubjectsUsage},
		DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &from})
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return map[string]Call{}, nil // nobody has published yet
	}
	if err != nil {
		return nil, fmt.Errorf("read stream %s: %w", usage.Stream, err)
	}
	info, err := consumer.Info(ctx)
	if err != nil {
		return nil, fmt.Errorf("read stream %s: %w", usage.Stream, err)
	}
	calls := map[string]Call{}
	for left := info.NumPending; left > 0; {
		batch, err := consumer.Fetch(int(min(left, streamBatch)), jetstream.FetchMaxWait(streamWait))
		if err != nil {
			return nil, fmt.Errorf("read stream %s: %w", usage.Stream, err)
		}
		got := uint64(0)
		for m := range batch.Messages() {
			got++
			s.take(calls, m.Data(), from, to)
		}
		if got == 0 {
			return nil, fmt.Errorf("read stream %s: %d messages did not come: %w", usage.Stream, left, errors.Join(batch.Error(), ctx.Err()))
		}
		if left -= min(got, left); len(calls) > s.Most {
			return nil, ErrTooMany
		}
	}
	return calls, nil
}

// take adds a message. What is no event is the dead letters' business. Of one version the first in
// the stream stands, as everywhere.
func (s Sources) take(calls map[string]Call, data []byte, from, to time.Time) {
	e, err := usage.Decode(data)
	if err != nil || e.Timestamp.Before(from) || !e.Timestamp.Before(to) {
		return
	}
	c := s.callOf(&e)
	if before, there := calls[e.RequestID]; !there || before.Version < c.Version {
		calls[e.RequestID] = c
	}
}
