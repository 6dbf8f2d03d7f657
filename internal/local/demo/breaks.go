package demo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/local/demo/judge"
	"github.com/leaky-tokens/leaky-tokens/internal/retry"

	"github.com/leaky-tokens/leaky-tokens/internal/local/supervisor"
)

// restartSoonest is less than the supervisor waits before it starts a killed part again.
const restartSoonest = 150 * time.Millisecond

// readyWait is how long a part may take to be back, from its start.
const readyWait = 30 * time.Second

// Break is a part to kill while the clients ask.
type Break struct {
	Part string        // as the supervisor names it
	At   time.Duration // after the clients began
	Down time.Duration // it is kept down so long; 0: the supervisor starts it again at once
}

// UnmarshalText reads "redis@10s" or, with how long it stays down, "redis@10s+3s".
func (b *Break) UnmarshalText(text []byte) error {
	part, when, found := strings.Cut(string(text), "@")
	at, down, stays := strings.Cut(when, "+")
	var err error
	if b.Part = part; !found || part == "" {
		return fmt.Errorf("%q: want PART@WHEN or PART@WHEN+DOWN, such as redis@10s+3s", text)
	}
	if b.At, err = time.ParseDuration(at); err == nil && stays {
		b.Down, err = time.ParseDuration(down)
	}
	if err != nil || b.At < 0 || b.Down < 0 {
		return fmt.Errorf("%q: %q is no time, such as 10s or 10s+3s", text, when)
	}
	return nil
}

// Control is the supervisor, as far as parts are killed.
type Control interface {
	Kill(ctx context.Context, part string) (supervisor.Status, error)
	Stop(ctx context.Context, part string) (supervisor.Status, error)
	Start(ctx context.Context, part string) (supervisor.Status, error)
	WaitReady(ctx context.Context, part string) (supervisor.Status, error)
}

// breaker carries out the breaks.
type breaker struct {
	control Control
	breaks  []Break
	leased  func(context.Context) (float64, error) // of all limiters together
	start   time.Time

	mu      sync.Mutex
	down    []string
	outages []judge.Outage
}

// run kills what is to be killed, each at its time, and returns when all are back. An
// error says that the demo is not the one that was asked for.
func (b *breaker) run(ctx context.Context) error {
	var (
		group sync.WaitGroup
		mu    sync.Mutex
		all   []error
	)
	for _, one := range b.breaks {
		group.Go(func() {
			retry.Pause(ctx, one.At-time.Since(b.start))
			if ctx.Err() != nil {
				return
			}
			if err := b.carry(ctx, one); err != nil {
				mu.Lock()
				all = append(all, fmt.Errorf("kill %s: %w", one.Part, err))
				mu.Unlock()
			}
		})
	}
	group.Wait()
	slices.SortFunc(b.outages, func(a, o judge.Outage) int { return cmp.Compare(a.Begun, o.Begun) })
	return errors.Join(all...)
}

// carry kills one part and sees that it comes back, whatever happens in between.
func (b *breaker) carry(ctx context.Context, one Break) error {
	o := judge.Outage{Part: one.Part, Begun: time.Since(b.start)}
	if _, err := b.control.Kill(ctx, one.Part); err != nil {
		return err
	}
	o.Dead = time.Since(b.start)
	o.Started = o.Dead
	b.mark(one.Part, true)
	defer b.mark(one.Part, false)
	lasting, cancel := context.WithTimeout(context.WithoutCancel(ctx), one.Down+readyWait)
	defer cancel()
	if one.Down > 0 {
		if _, err := b.control.Stop(lasting, one.Part); err != nil { // or the supervisor starts it
			return err
		}
		o.Dead = time.Since(b.start) // on a busy machine it may have been started meanwhile
	}
	if one.Part == judge.PartRedis && b.leased != nil {
		leased, err := b.leased(lasting)
		if now := time.Since(b.start); err == nil && (one.Down > 0 || now < o.Dead+restartSoonest) {
			o.Leased, o.Counted = leased, now
		}
	}
	if one.Down > 0 {
		retry.Pause(ctx, o.Dead+one.Down-time.Since(b.start))
		o.Started = time.Since(b.start)
		if _, err := b.control.Start(lasting, one.Part); err != nil {
			return err
		}
	}
	if _, err := b.control.WaitReady(lasting, one.Part); err != nil {
		return err
	}
	o.Back = time.Since(b.start)
	b.mu.Lock()
	b.outages = append(b.outages, o)
	b.mu.Unlock()
	return nil
}

func (b *breaker) mark(part string, down bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if down {
		b.down = append(b.down, part)
		return
	}
	b.down = slices.DeleteFunc(b.down, func(p string) bool { return p == part })
}

// missing names the parts that are down now.
func (b *breaker) missing() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.down)
}
