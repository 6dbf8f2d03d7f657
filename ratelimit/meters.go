package ratelimit

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/balance"
	"github.com/leaky-tokens/leaky-tokens/internal/retry"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
)

// meters is who tells the books what calls used, and whether the books can have heard of everything that
// a Redis knew which is no more.
//
// What a pool spent is in Redis first and in the books last: between them it is in the spools of the
// meters, for as long as NATS stores no events. The token service answers with all that was published,
// so when Redis loses a pool, that answer is too little by what still is in a spool, and the account
// would spend that twice. So a pool that may be lost is asked for only when each meter has published
// what was over by then.
//
//	Redis is another, or evicted keys ──▶ lost: pools that are not known wait
//	each meter that lived then has published what was over then,
//	or a hold's life has passed (a meter that died then never will) ──▶ nothing waits
//
// What calls hold that run just then is lost all the same, and comes back when they end.
type meters struct {
	mu    sync.Mutex
	heard map[string]time.Time // meters, and when each last said something
	lost  time.Time            // when Redis lost something; zero: all that it lost is published
}

// lookFirst and lookMost are the pauses between two looks at what the meters say.
const (
	lookFirst = 50 * time.Millisecond
	lookMost  = 250 * time.Millisecond
)

// errUnpublished says that the books cannot know yet what was used.
var errUnpublished = fmt.Errorf("%w: not all that was used is published", errBalance)

// hears notes which meters live, from what they said; one that was silent for so long is gone.
func (m *meters) hears(p store.Progress, life time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.heard == nil {
		m.heard = map[string]time.Time{}
	}
	for name, said := range p.Meters {
		m.heard[name] = time.Now().Add(-max(0, time.Duration(p.Now-said.At)*time.Microsecond))
	}
	maps.DeleteFunc(m.heard, func(_ string, at time.Time) bool { return time.Since(at) > 2*life })
}

// lose notes that Redis lost something just now.
func (m *meters) lose() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lost = time.Now()
}

// waits is since when something is lost, and the meters that are waited for; false: nothing is waited for.
func (m *meters) waits(life time.Duration) (lost time.Time, names []string, waits bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.lost.IsZero() || time.Since(m.lost) > life {
		return m.lost, nil, false
	}
	for name, at := range m.heard {
		if m.lost.Sub(at) < life { // else it was gone before
			names = append(names, name)
		}
	}
	return m.lost, names, len(names) > 0
}

// published notes that nothing is waited for, unless more was lost meanwhile.
func (m *meters) published(lost time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.lost.Equal(lost) {
		m.lost = time.Time{}
	}
}

// unpublished is why pools that Redis may have lost cannot be told yet; nil: they can.
func (s *Service) unpublished(ctx context.Context) error {
	lost, names, waits := s.meters.waits(s.store.Lifetime())
	if !waits {
		return nil
	}
	p, err := s.store.Progress(ctx)
	if err != nil {
		return err
	}
	by := p.Now - time.Since(lost).Microseconds() // by Redis' clock, as meters are told
	for _, name := range names {
		if said, there := p.Meters[name]; !there || said.Settled < by {
			return fmt.Errorf("%w: meter %s", errUnpublished, name)
		}
	}
	s.meters.published(lost)
	return nil
}

// awaitMeters waits until the books can tell of pools that Redis may have lost, or ctx ends.
func (s *Service) awaitMeters(ctx context.Context) error {
	if _, _, waits := s.meters.waits(s.store.Lifetime()); !waits {
		return nil
	}
	_, err, _ := s.asker.flights.Do("", func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), balance.AskWithin(s.timeout))
		defer cancel()
		return nil, retry.Policy{First: lookFirst, Most: lookMost}.Do(ctx, s.unpublished, nil)
	})
	return err
}
