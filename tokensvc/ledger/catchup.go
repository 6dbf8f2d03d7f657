package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/retry"
)

// ErrBehind says that charges are published that the ledger has not booked yet, as far as
// could be told in time.
var ErrBehind = errors.New("the ledger has not caught up with the stream")

// CatchUp waits until everything is booked that was published before the call, or ctx ends
// (ErrBehind).
func (c *Consumer) CatchUp(ctx context.Context) error {
	target, err := c.published(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBehind, err)
	}
	policy := retry.Policy{First: time.Millisecond, Most: 20 * time.Millisecond}
	return policy.Do(ctx, func(ctx context.Context) error {
		info, err := c.Info(ctx)
		if err != nil {
			return retry.Permanent(fmt.Errorf("%w: %w", ErrBehind, err))
		}
		if info.AckFloor.Stream < target {
			return ErrBehind
		}
		return nil
	}, nil)
}

// published is the sequence of the last event in the stream, 0 without any. What the
// consumer counts as pending would not do: it hears of a message only after its publisher.
func (c *Consumer) published(ctx context.Context) (uint64, error) {
	stream, err := c.js.Stream(ctx, usage.Stream)
	if err != nil {
		return 0, err
	}
	last, err := stream.GetLastMsgForSubject(ctx, usage.SubjectsUsage)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return last.Sequence, nil
}
