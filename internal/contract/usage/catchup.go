package usage

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/leaky-tokens/leaky-tokens/internal/retry"
)

// ErrBehind says that events are published that the consumer has not stored yet, as far as could be
// told in time.
var ErrBehind = errors.New("the books have not caught up with the stream")

// CatchUp waits until everything is stored that was published before the call, or ctx ends
// (ErrBehind).
func (c *Consumer) CatchUp(ctx context.Context) error {
	target, err := c.Published(ctx)
	if err != nil {
		return err
	}
	return c.Reach(ctx, target)
}

// Reach waits until everything is stored up to a sequence number of the stream, or ctx ends
// (ErrBehind).
func (c *Consumer) Reach(ctx context.Context, target uint64) error {
	policy := retry.Policy{First: time.Millisecond, Most: 20 * time.Millisecond}
	return policy.Do(ctx, func(ctx context.Context) error {
		info, err := c.Info(ctx)
		if err != nil {
			return retry.Permanent(fmt.Errorf("%w: %w", ErrBehind, err))
		}
		if info.AckFloor.Stream < target || c.cfg.Positions != nil && !c.at.sure.Load() {
			return ErrBehind
		}
		return nil
	}, nil)
}

// Published is the sequence number of the last usage event in the stream, 0 without any (ErrBehind if
// NATS does not tell). What the consumer counts as pending would not do: it hears of a message only
// after its publisher.
func (c *Consumer) Published(ctx context.Context) (uint64, error) {
	stream, err := c.cfg.JetStream.Stream(ctx, Stream)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrBehind, err)
	}
	last, err := stream.GetLastMsgForSubject(ctx, SubjectsUsage)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrBehind, err)
	}
	return last.Sequence, nil
}
