package ratelimit

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/leaky-tokens/leaky-tokens/internal/retry"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/lease"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
)

const (
	// askAgain is the least pause between two questions for a pool whose account is refused.
	askAgain = 3 * time.Second
	// askedMost is how many pools are remembered to have been asked for, before old ones are looked for.
	askedMost = 1 << 14
	// asksAtOnce is how many pools are asked for together when all are.
	asksAtOnce = 64
	beatEvery  = time.Second
)

// trust is how far Redis is believed about pools. What it says is a copy of the ledger's truth, and
// a copy can be lost in part: changes that never arrived, a Redis that was restored from an older
// one.
//
//	believed      the state in Redis decides; but a refusal that asks for money is checked with the
//	              token service first (mayAsk)
//	doubted       Redis came back with older data: a pool decides nothing until the token service
//	              has been asked for it since
//
// Whenever Redis is another (a new run id) all of its pools are asked for in the background, after
// which everything is believed again.
type trust struct {
	mu      sync.Mutex
	doubted bool
	since   time.Time           // when doubt began; holds from before may be settled long ago
	epoch   int                 // grows with each change of Redis
	doubts  int                 // how often doubt began
	known   map[string]struct{} // pools asked for since doubt began
	asked   map[string]time.Time
	walk    chan struct{} // Redis is another
}

func newTrust() *trust {
	return &trust{asked: map[string]time.Time{}, walk: make(chan struct{}, 1)}
}

func poolName(account, provider string) string { return account + " " + provider }

// changed hears that Redis is another, and whether its data is older than what it had.
func (t *trust) changed(older bool) {
	t.mu.Lock()
	t.epoch++
	clear(t.asked)
	if older {
		t.doubts++
		t.doubted, t.since, t.known = true, time.Now(), map[string]struct{}{}
	}
	t.mu.Unlock()
	select {
	case t.walk <- struct{}{}:
	default: // it is told already
	}
}

// believes reports whether Redis' state of a pool may decide.
func (t *trust) believes(account, provider string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.doubted {
		return true
	}
	_, known := t.known[poolName(account, provider)]
	return known
}

// mayAsk reports whether a pool that refuses has not been asked for lately, and notes that it is now.
func (t *trust) mayAsk(account, provider string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	now, name := time.Now(), poolName(account, provider)
	if now.Sub(t.asked[name]) < askAgain {
		return false
	}
	if len(t.asked) >= askedMost {
		for other, at := range t.asked {
			if now.Sub(at) >= askAgain {
				delete(t.asked, other)
			}
		}
	}
	t.asked[name] = now
	return true
}

// answered notes that Redis has what the token service says of a pool.
func (t *trust) answered(account, provider string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.asked[poolName(account, provider)] = time.Now()
	if t.doubted {
		t.known[poolName(account, provider)] = struct{}{}
	}
}

// begun is how often doubt began. An answer of Redis counts only if it is the same before the
// question and after the answer: in between doubt may have come and gone.
func (t *trust) begun() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.doubts
}

// doubt is when doubt began and whether it lasts.
func (t *trust) doubt() (since time.Time, epoch int, doubted bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.since, t.epoch, t.doubted
}

// settle ends the doubt if Redis has stayed the same since the epoch.
func (t *trust) settle(epoch int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.epoch == epoch {
		t.doubted, t.known = false, nil
	}
}

// poolsWait is said while not all pools could be asked for.
const poolsWait = "pools wait to be asked for"

// keepTrust asks for all pools at the begin and whenever Redis is another, until ctx ends.
func (s *Service) keepTrust(ctx context.Context) {
	if s.asker.balances == nil {
		return
	}
	for {
		_, epoch, _ := s.trust.doubt()
		err := retry.Away().Do(ctx, s.askAll, func(_ int, err error) {
			if ctx.Err() == nil {
				s.said.Warn(ctx, poolsWait, err)
			}
		})
		if err == nil {
			s.said.Over(ctx, poolsWait, "all pools are asked for")
		}
		s.trust.settle(epoch)
		select {
		case <-ctx.Done():
			return
		case <-s.trust.walk:
			s.log.LogAttrs(ctx, slog.LevelWarn, "redis is another than before, asking for all pools")
		}
	}
}

// askAll asks the token service for every pool that Redis has, after it has released holds that
// came back with older data: whoever held them may have settled since. In a cluster a server that
// changes is only taken for an older one, and its holds are those of calls that run: they stand until
// they are settled or due, as a call that is over has its event already and is not charged twice.
func (s *Service) askAll(ctx context.Context) error {
	since, _, doubted := s.trust.doubt()
	if doubted && !s.store.Clustered() {
		if err := s.forgetHolds(ctx, since); err != nil {
			return err
		}
	}
	ask := s.fetchBalance
	if doubted {
		ask = s.learnLost
	}
	g, asking := errgroup.WithContext(ctx)
	g.SetLimit(asksAtOnce)
	err := s.store.Pools(asking, func(account, provider string) error {
		if doubted && s.trust.believes(account, provider) {
			return nil
		}
		g.Go(func() error { return ask(asking, account, provider) })
		return asking.Err()
	})
	return errors.Join(g.Wait(), err)
}

// forgetHolds releases what was held before Redis' data went back, but for leases, which their replica settles.
func (s *Service) forgetHolds(ctx context.Context, since time.Time) error {
	before, err := s.store.WentBack(ctx, time.Since(since))
	if err != nil || before == 0 {
		return err
	}
	released := 0
	err = s.store.Holds(ctx, func(h store.Hold) error {
		if h.Record.Taken >= before || lease.IsLease(h.ID) {
			return nil
		}
		released++
		return s.store.Forget(ctx, h.Account, h.ID)
	})
	if released > 0 {
		s.log.LogAttrs(ctx, slog.LevelWarn, "redis came back with older data: holds from before are released", slog.Int("holds", released))
	}
	return err
}
