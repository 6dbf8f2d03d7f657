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
//	Redis is another                   ──▶ all pools that are not known wait
//	Redis evicts, and a pool is missed ──▶ this pool waits
//	each meter that lived then has published what was over then,
//	or a hold's life has passed (a meter that died then never will) ──▶ nothing waits
//
// What calls hold that run just then is lost all the same, and comes back when they end.
//
// All times are of this process' clock: Redis' may have been moved between what a meter said and what it
// lost. That clock is in what meters say, but only to tell one word from the next, and for how far behind
// a meter was when it spoke.
type meters struct {
	mu     sync.Mutex
	known  map[string]meter
	looked time.Time         // when the last look at what they say began
	lost   time.Time         // when Redis lost something
	missed map[string]missed // pools that were evicted and are not asked for yet
}

// missed is when a pool was missed first and last.
type missed struct{ first, last time.Time }

// meter is what is known of one.
type meter struct {
	said      store.Said
	heard     time.Time // when it last said something new
	published time.Time // everything that was over by then it has published
}

// lookFirst and lookMost are the pauses between two looks at what the meters say.
const (
	lookFirst = 50 * time.Millisecond
	lookMost  = 250 * time.Millisecond
)

// errUnpublished says that the books cannot know yet what was used.
var errUnpublished = fmt.Errorf("%w: not all that was used is published", errBalance)

// hears notes what the meters said by a look that began at a time. A meter that is heard first counts as
// alive by Redis' clock, for want of another; one that was silent for so long is gone.
func (m *meters) hears(p store.Progress, began time.Time, life time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !began.After(m.looked) { // another look that began later was faster
		return
	}
	if m.known == nil {
		m.known = map[string]meter{}
	}
	for name, said := range p.Meters {
		switch before, known := m.known[name]; {
		case !known:
			m.known[name] = meter{said: said, heard: began.Add(-microseconds(p.Now - said.At))}
		case before.said != said: // it spoke after the last look began
			m.known[name] = meter{said: said, heard: began, published: m.looked.Add(-microseconds(said.At - said.Settled))}
		}
	}
	m.looked = began
	maps.DeleteFunc(m.known, func(_ string, one meter) bool { return began.Sub(one.heard) > 2*life })
}

// microseconds is a span by Redis' clock; where it was set back meanwhile, none.
func microseconds(n int64) time.Duration { return time.Duration(max(0, n)) * time.Microsecond }

// lose notes that Redis lost something just now.
func (m *meters) lose() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lost = time.Now()
}

// misses notes that a pool was evicted. Whom nobody has missed for as long as a hold lives was there meanwhile.
func (m *meters) misses(pool string, life time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	if m.missed == nil {
		m.missed = map[string]missed{}
	}
	if len(m.missed) >= askedMost {
		maps.DeleteFunc(m.missed, func(_ string, at missed) bool { return now.Sub(at.last) > life })
	}
	at := m.missed[pool]
	if now.Sub(at.last) > life { // or never missed
		at.first = now
	}
	at.last = now
	m.missed[pool] = at
}

// has notes that Redis has a pool. Each call with a pool says so, and hardly ever is any missed.
func (m *meters) has(account, provider string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.missed) > 0 {
		delete(m.missed, poolName(account, provider))
	}
}

// lostAt is when Redis lost a pool, as far as is known; zero: it did not.
func (m *meters) lostAt(pool string) time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	if at := m.missed[pool].first; at.After(m.lost) {
		return at
	}
	return m.lost
}

// behind is a meter that is waited for to ask for what was lost at a time; empty: none is.
func (m *meters) behind(lost time.Time, life time.Duration) (name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if lost.IsZero() || time.Since(lost) > life {
		return ""
	}
	for name, one := range m.known {
		if lost.Sub(one.heard) < life && one.published.Before(lost) { // else it was gone before, or is done
			return name
		}
	}
	return ""
}

// look hears what the meters say. Calls that wait look together.
func (s *Service) look(ctx context.Context) error {
	_, err, _ := s.asker.flights.Do("", func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.timeout)
		defer cancel()
		began := time.Now()
		p, err := s.store.Progress(ctx)
		if err != nil {
			return nil, err
		}
		s.meters.hears(p, began, s.store.Lifetime())
		s.setUnwritten(ctx, p.Unwritable)
		return nil, nil
	})
	return err
}

// unpublished is why what was lost at a time cannot be told yet; nil: it can.
func (s *Service) unpublished(ctx context.Context, lost time.Time) error {
	if s.meters.behind(lost, s.store.Lifetime()) == "" {
		return nil
	}
	if err := s.look(ctx); err != nil {
		return err
	}
	if name := s.meters.behind(lost, s.store.Lifetime()); name != "" {
		return fmt.Errorf("%w: meter %s", errUnpublished, name)
	}
	return nil
}

// awaitMeters waits until the books can tell of a pool that Redis may have lost, or ctx ends.
func (s *Service) awaitMeters(ctx context.Context, pool string) error {
	lost := s.meters.lostAt(pool)
	ctx, cancel := context.WithTimeout(ctx, balance.AskWithin(s.timeout))
	defer cancel()
	return retry.Policy{First: lookFirst, Most: lookMost}.Do(ctx, func(ctx context.Context) error { return s.unpublished(ctx, lost) }, nil)
}
