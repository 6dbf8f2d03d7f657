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
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), balance.AskTimeout+s.timeout)
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
		_, err = s.store.SetBalance(ctx, state)
		return nil, err
	})
	return err
}

// holdKnown is the store's Hold after the pool was asked for where Redis does not know it.
func (s *Service) holdKnown(ctx context.Context, take store.Take) (store.Taken, error) {
	t, err := s.store.Hold(ctx, take)
	if err != nil || t.Outcome != store.Missing {
		return t, err
	}
	if err := s.fetchBalance(ctx, take.Account, take.Provider); err != nil {
		return store.Taken{}, err
	}
	t, err = s.store.Hold(ctx, take)
	if err == nil && t.Outcome == store.Missing { // flushed just now
		return store.Taken{}, errBalance
	}
	return t, err
}

// SetBalance takes over what the token service says of a pool, for those who read it off
// the stream. An error wraps balance.ErrMalformed if repeating it is of no use.
func (s *Service) SetBalance(ctx context.Context, b balance.State) error {
	_, err := s.store.SetBalance(ctx, b)
	switch {
	case err == nil:
		s.metrics.balances.applied.Inc()
	case errors.Is(err, balance.ErrMalformed):
		s.metrics.balances.malformed.Inc()
	}
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
