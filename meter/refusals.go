package meter

import (
	"context"
	"fmt"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
)

const (
	// refusalsPerSecond is how many refusals of one account get an event of their own. A caller
	// who is always refused costs nothing else, so nothing else would slow them down.
	refusalsPerSecond = 10
	maxRefusing       = 10_000 // accounts remembered

	roomEvery   = 10 * time.Second
	roomTimeout = 2 * time.Second
	nearlyFull  = 0.8 // of the stream's bound
)

// refusals bounds the events of accounts that are refused again and again. The zero value
// is ready.
type refusals struct{ accounts map[string]*refusing }

type refusing struct {
	second  int64 // of the requests, not of the clock: a replay decides alike
	events  int64
	skipped int64
}

// pass says whether a refusal gets an event, which then tells how many before it got none.
func (r *refusals) pass(e *usage.Event) bool {
	if r.accounts == nil || len(r.accounts) >= maxRefusing {
		r.accounts = map[string]*refusing{}
	}
	a := r.accounts[e.Account]
	if a == nil {
		a = &refusing{}
		r.accounts[e.Account] = a
	}
	if second := e.Timestamp.Unix(); second > a.second {
		a.second, a.events = second, 0
	}
	if a.events >= refusalsPerSecond {
		a.skipped++
		return false
	}
	a.events++
	e.Skipped, a.skipped = a.skipped, 0
	return true
}

// room is a publisher that knows how full its stream is, in bytes; most is 0 without a bound.
type room interface {
	Room(ctx context.Context) (used, most int64, err error)
}

// watchRoom tells how full the stream is, and warns before the oldest events have to go.
func (m *Meter) watchRoom(ctx context.Context, now time.Time) {
	p, is := m.cfg.Publisher.(room)
	if !is || now.Sub(m.roomAt) < roomEvery {
		return
	}
	m.roomAt = now
	ctx, cancel := context.WithTimeout(ctx, roomTimeout)
	defer cancel()
	used, most, err := p.Room(ctx)
	if err != nil {
		if m.publishUp.Load() { // else it is said that NATS is away
			m.said.Warn(ctx, "the stream's room is not known", err)
		}
		return
	}
	m.metrics.used.Set(float64(used))
	m.metrics.most.Set(float64(most))
	if most > 0 && float64(used) > nearlyFull*float64(most) {
		m.said.Warn(ctx, "the stream of events is nearly full: the oldest events will go", fmt.Errorf("%d of %d bytes", used, most))
	}
}
