package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/usage"
)

// ErrBehind says that charges are published that the ledger has not booked yet, as far as
// could be told in time.
var ErrBehind = errors.New("the ledger has not caught up with the stream")

// CatchUp waits until everything is booked that was published before the call, or ctx ends
// (ErrBehind).
func (c *Consumer) CatchUp(ctx context.Context) error {
	attached := c.attached.Load()
	if attached == nil {
		return fmt.Errorf("%w: not connected to it yet", ErrBehind)
	}
	target := uint64(0) // the stream's sequence to reach; 0: not asked yet
	for wait := time.Millisecond; ; wait = min(2*wait, 20*time.Millisecond) {
		info, err := (*attached).Info(ctx)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrBehind, err)
		}
		if info.NumPending == 0 && info.NumAckPending == 0 || target > 0 && info.AckFloor.Stream >= target {
			return nil
		}
		if target == 0 {
			stream, err := c.cfg.JetStream.Stream(ctx, usage.Stream)
			if err != nil {
				return fmt.Errorf("%w: %w", ErrBehind, err)
			}
			last, err := stream.GetLastMsgForSubject(ctx, usage.SubjectsUsage)
			if err != nil {
				return fmt.Errorf("%w: %w", ErrBehind, err)
			}
			target = last.Sequence
		}
		select {
		case <-ctx.Done():
			return ErrBehind
		case <-time.After(wait):
		}
	}
}

// Lag is how many events are published and not yet booked.
func (c *Consumer) Lag(ctx context.Context) (int64, error) {
	attached := c.attached.Load()
	if attached == nil {
		return 0, ErrBehind
	}
	info, err := (*attached).Info(ctx)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrBehind, err)
	}
	return int64(info.NumPending) + int64(info.NumAckPending), nil
}
