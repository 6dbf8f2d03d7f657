package analytics

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"
)

const (
	firstWait = 100 * time.Millisecond
	mostWait  = 3 * time.Second
)

// persist calls f until it succeeds or ctx ends, and then returns nil. It waits longer
// after each failure, and logs the first and every tenth.
func persist(ctx context.Context, log *slog.Logger, what string, f func(context.Context) error) error {
	for attempt := 0; ctx.Err() == nil; attempt++ {
		err := f(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			break
		}
		if attempt%10 == 0 {
			log.LogAttrs(ctx, slog.LevelWarn, what+" failed, trying again", slog.Int("attempt", attempt+1), slog.Any("error", err))
		}
		pause(ctx, attempt)
	}
	return nil
}

// pause waits before the next attempt: doubling, with jitter so that replicas spread.
func pause(ctx context.Context, attempt int) {
	wait := min(firstWait<<min(attempt, 10), mostWait)
	timer := time.NewTimer(wait/2 + rand.N(wait/2+1))
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
