package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sync/singleflight"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/balance"
	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
)

// Balances is the token service as the limiter sees it.
type Balances interface {
	// Ask gives the state of an account's pool. A State that is not Present is an answer; an
	// error says that nothing is known. The state MUST hold all usage published before.
	Ask(ctx context.Context, account, provider string) (balance.State, error)
}

// errBalance says that nobody can tell what an account owns: it is neither let through
// nor told that it owns nothing.
var errBalance = fmt.Errorf("%w: the account's balance is not known yet", store.ErrUnavailable)

// asker asks for pools that Redis does not know, for each only once at a time.
type asker struct {
	balances Balances
	flights  singleflight.Group
}

// part is what the pool has to do with a call: what the call asks for, else what the
// caller's tier says. Without anybody to ask there are no pools, and none can be required.
func (s *Service) part(p *policy, asked limitpb.BalancePolicy, tier, provider string) store.PoolPart {
	if p.noPools {
		return store.PoolNone
	}
	if !p.Knows(provider) && asked == limitpb.BalancePolicy_BALANCE_UNSPECIFIED {
		return store.PoolNone
	}
	part := store.PoolIfPresent
	switch asked {
	case limitpb.BalancePolicy_BALANCE_NONE:
		return store.PoolNone
	case limitpb.BalancePolicy_BALANCE_REQUIRED:
		return store.PoolRequired
	case limitpb.BalancePolicy_BALANCE_UNSPECIFIED:
		part = p.parts[tier]
		if _, known := p.parts[tier]; !known {
			part = p.parts[p.FallbackTier()]
		}
	}
	if part == store.PoolIfPresent && s.asker.balances == nil {
		return store.PoolNone
	}
	return part
}

// parts are what each tier says of balances.
func parts(tiers config.Tiers) map[string]store.PoolPart {
	out := map[string]store.PoolPart{}
	for name, tier := range tiers.Levels {
		switch tier.Balance {
		case config.BalanceRequired:
			out[name] = store.PoolRequired
		case config.BalanceNone:
			out[name] = store.PoolNone
		default:
			out[name] = store.PoolIfPresent
		}
	}
	return out
}

// fetchBalance asks for a pool and writes down the answer.
func (s *Service) fetchBalance(ctx context.Context, account, provider string) error {
	if s.asker.balances == nil {
		return errBalance
	}
	_, err, _ := s.asker.flights.Do(account+" "+provider, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), balance.AskWithin(s.timeout)+s.timeout)
		defer cancel()
		state, err := s.asker.balances.Ask(ctx, account, provider)
		if err != nil {
			s.metrics.asks.failed.Inc()
			return nil, fmt.Errorf("%w: %w", errBalance, err)
		}
		if state.Account != account || state.Provider != provider {
			s.metrics.asks.failed.Inc()
			return nil, fmt.Errorf("%w: asked for %s at %s, told of %s at %s", errBalance, account, provider, state.Account, state.Provider)
		}
		s.metrics.asks.answered.Inc()
		if _, err = s.store.SetBalance(ctx, state); err == nil {
			s.trust.answered(account, provider)
			s.meters.has(account, provider)
		}
		return nil, err
	})
	return err
}

// learnLost is fetchBalance of a pool that Redis has, perhaps with less than it had.
func (s *Service) learnLost(ctx context.Context, account, provider string) error {
	if err := s.awaitMeters(ctx, ""); err != nil {
		return err
	}
	return s.fetchBalance(ctx, account, provider)
}

// learnBalance is fetchBalance of a pool that Redis may have lost.
func (s *Service) learnBalance(ctx context.Context, account, provider string) error {
	pool := poolName(account, provider)
	if err := s.lookForLoss(ctx); err != nil {
		return err
	}
	if s.evicted(ctx) {
		s.meters.misses(pool, s.store.Lifetime())
	}
	if err := s.awaitMeters(ctx, pool); err != nil {
		return err
	}
	return s.fetchBalance(ctx, account, provider)
}

// lookForLoss asks whether Redis has what it had. A cluster tells that by its connections, and the server that
// could be asked may be away while that of the account is there.
func (s *Service) lookForLoss(ctx context.Context) error {
	if s.store.Clustered() {
		return nil
	}
	return s.store.Look(ctx)
}

// evicted reports whether Redis took keys lately for want of memory, so that a pool that it does not know may be
// one of them. It is asked just then: the look that is made now and then may be too old. Calls that ask at the
// same time ask together.
func (s *Service) evicted(ctx context.Context) bool {
	_, _, _ = s.asker.flights.Do("evictions", func() (any, error) {
		s.lookAtEviction(context.WithoutCancel(ctx))
		return nil, nil
	})
	return s.evictions.within(s.store.Lifetime())
}

// dry reports whether a call is refused for want of money.
func dry(o store.Outcome) bool { return o == store.Short || o == store.NoPool }

// doubts reports whether Redis is not believed about the pool of a call.
func (s *Service) doubts(take *store.Take) bool {
	return take.Pool != store.PoolNone && !s.trust.believes(take.Account, take.Provider)
}

// checks reports whether the token service is to be asked before an outcome counts. A pool of a window that
// has not begun is as good as lost: what was spent before, while Redis' clock was ahead, it does not know.
func (s *Service) checks(take *store.Take, t *store.Taken) bool {
	if t.Outcome == store.Missing {
		if t.Pool.Known {
			s.meters.misses(poolName(take.Account, take.Provider), s.store.Lifetime())
		}
		return true
	}
	return dry(t.Outcome) && s.asker.balances != nil && s.trust.mayAsk(take.Account, take.Provider)
}

// holdChecked is a hold of a call whose account's pool Redis does not know, is not believed about,
// or refused it for want of money; that refusal stands where the token service is away.
func (s *Service) holdChecked(ctx context.Context, a *admission) (store.Taken, error) {
	if begun := s.trust.begun(); a.dry == nil && !a.doubtful && !s.doubts(&a.take) {
		t, err := s.store.Hold(ctx, a.take)
		a.doubtful = a.take.Pool != store.PoolNone && s.trust.begun() != begun
		if err != nil || !a.doubtful && !s.checks(&a.take, &t) {
			return t, err
		}
		if !a.doubtful && dry(t.Outcome) {
			a.dry = &t
		}
	}
	if a.doubtful {
		if err := s.store.Forget(ctx, a.take.Account, a.take.ID); err != nil {
			return store.Taken{}, err
		}
	}
	if a.take.Pool == store.PoolNone {
		return s.store.Hold(ctx, a.take)
	}
	t, err := s.holdKnown(ctx, a)
	if a.dry != nil && errors.Is(err, errBalance) {
		return *a.dry, nil
	}
	return t, err
}

// holdKnown is the store's Hold after the pool was asked for.
func (s *Service) holdKnown(ctx context.Context, a *admission) (store.Taken, error) {
	ask := s.learnBalance
	if a.dry != nil { // Redis knows the pool, and takes over only what is later
		ask = s.fetchBalance
	}
	if err := ask(ctx, a.take.Account, a.take.Provider); err != nil {
		return store.Taken{}, err
	}
	t, err := s.store.Hold(ctx, a.take)
	if err == nil && t.Outcome == store.Missing { // flushed just now
		return store.Taken{}, errBalance
	}
	return t, err
}

// SetBalance takes over what the token service says of a pool, for those who read it off
// the stream. An error wraps balance.ErrMalformed if repeating it is of no use.
func (s *Service) SetBalance(ctx context.Context, b balance.State) error {
	err := s.takeBalance(ctx, b)
	switch {
	case err == nil:
		s.metrics.balances.applied.Inc()
	case errors.Is(err, balance.ErrMalformed):
		s.metrics.balances.malformed.Inc()
	}
	return err
}

// takeBalance writes a state down, but makes no pool that may be lost: it waits where Redis is another, and
// leaves a pool that may be evicted to the next call, which asks for it.
func (s *Service) takeBalance(ctx context.Context, b balance.State) error {
	if err := s.unpublished(ctx, s.meters.lostAt("")); err != nil {
		return err
	}
	if known, err := s.store.UpdateBalance(ctx, b); err != nil || known {
		return err
	}
	if err := s.lookForLoss(ctx); err != nil {
		return err
	}
	if err := s.unpublished(ctx, s.meters.lostAt("")); err != nil || s.evicted(ctx) {
		return err
	}
	_, err := s.store.SetBalance(ctx, b)
	return err
}

// showPool is a pool for people and services.
func showPool(p store.Pool, now int64) *limitpb.Balance {
	return &limitpb.Balance{Present: p.Present, Credits: p.Credits, Spent: p.Spent, Held: p.Held, ResetUs: p.Reset(now), Version: p.Version}
}

// providerName reports whether a pool can have such a name.
func providerName(name string) bool {
	return len(name) > 0 && len(name) <= 64 && !strings.ContainsAny(name, ".*> \t\r\n{}")
}
