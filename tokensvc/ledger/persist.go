package ledger

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"
)

// persist calls f until it succeeds or ctx ends, and then returns nil. It waits longer
// after each failure, with jitter so that replicas spread, and logs the first and every
// tenth.
func persist(ctx context.Context, log *slog.Logger, what string, f func(context.Context) error) error {
	wait := 100 * time.Millisecond
	for attempt := 0; ctx.Err() == nil; attempt++ {
		err := f(ctx)
		if err == nil {
			return nil
		}
		if attempt%10 == 0 && ctx.Err() == nil {
			log.LogAttrs(ctx, slog.LevelWarn, what+" failed, trying again", slog.Int("attempt", attempt+1), slog.Any("error", err))
		}
		timer := time.NewTimer(wait/2 + rand.N(wait/2+1))
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
		wait = min(2*wait, 3*time.Second)
	}
	return nil
}
