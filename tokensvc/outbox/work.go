package outbox

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/pgconn"
	"github.com/leaky-tokens/leaky-tokens/internal/retry"
)

// bell wakes everybody who listens, and nobody can use a ring up for another: a single
// channel of wake-ups would let one worker take them all, find what they are about claimed
// by a second one, and sleep, while the second one has looked too early to see it and finds
// no wake-up left.
type bell struct {
	mu   sync.Mutex
	rung chan struct{}
}

func newBell() *bell { return &bell{rung: make(chan struct{})} }

// next is closed by the next ring. Whoever asks before looking for work and waits after it
// misses no ring in between.
func (b *bell) next() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.rung
}

func (b *bell) ring() {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.rung)
	b.rung = make(chan struct{})
}

// unrelayed is said while events are not published, with how many there were when last counted.
const unrelayed = "relay outbox failed, trying again"

// work does rounds while there is something to do, and else waits for the bell. A round sees
// what was committed before it began; what is committed during it, and that another worker
// therefore could not claim, rings the bell that was taken up before it began.
func (r *Relay) work(ctx context.Context, round func(context.Context) (int, error)) error {
	most := min(3200*time.Millisecond, r.cfg.PollEvery)
	pauses := retry.Policy{First: min(100*time.Millisecond, most), Most: most}.Pauses()
	for ctx.Err() == nil {
		rung := r.bell.next()
		handled, err := round(ctx)
		if err != nil && ctx.Err() == nil {
			r.said.Warn(ctx, unrelayed, err, retry.Waiting(r.pending.Load))
			sleep(ctx, nil, pauses.NextBackOff()) // it looks again anyway
			continue
		}
		r.said.Over(ctx, unrelayed, "relay outbox goes on")
		pauses.Reset()
		if handled == 0 {
			sleep(ctx, rung, r.cfg.PollEvery)
		}
	}
	return nil
}

// sleep waits for the bell, or so long.
func sleep(ctx context.Context, rung <-chan struct{}, wait time.Duration) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-rung:
	}
}

// listen turns NOTIFYs into rings. While it can't, polling goes on.
func (r *Relay) listen(ctx context.Context) error {
	_ = retry.Policy{First: time.Second}.Do(ctx, func(ctx context.Context) error { // until ctx ends
		return pgconn.Listen(ctx, r.cfg.DB, channel, r.bell.ring)
	}, func(_ int, err error) { // the workers say it when Postgres is away
		r.cfg.Log.LogAttrs(ctx, slog.LevelDebug, "outbox listener lost Postgres, polling meanwhile", slog.Any("error", err))
	})
	return nil
}
