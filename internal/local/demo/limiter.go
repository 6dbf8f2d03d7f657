package demo

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/local/demo/judge"

	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
)

const (
	lookTimeout = 5 * time.Second
	lookBatch   = 500 // request ids of one Look
)

// limiterBook reads the limiter's books: buckets and holds.
type limiterBook struct {
	client   limitpb.LimiterClient
	accounts []judge.Account
}

// limit looks at the token bucket of an account at a provider.
func (b *limiterBook) limit(ctx context.Context, p judge.Pair) (judge.Limit, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	a := b.accounts[p.Account]
	entries := []*limitpb.Entry{{Key: "count", Value: "tokens"}, {Key: "user", Value: a.User}, {Key: "provider", Value: p.Provider}}
	resp, err := b.client.GetAccountState(ctx, &limitpb.GetAccountStateRequest{Account: "user:" + a.User, Tier: a.Tier,
		Descriptors: []*limitpb.Descriptor{{Entries: entries}}})
	if err != nil {
		return judge.Limit{}, fmt.Errorf("look at the limit of %s at %s: %w", a.Name, p.Provider, err)
	}
	for _, bucket := range resp.GetBuckets() {
		if bucket.GetUnit() == "tokens" {
			return judge.Limit{Capacity: bucket.GetCapacity(), Leak: bucket.GetRate(), Level: bucket.GetLevel(), Held: bucket.GetHeld()}, nil
		}
	}
	return judge.Limit{}, nil
}

// leasePrefix begins the id of what a limiter holds for an outage, as ratelimit writes it.
const leasePrefix = "lease-"

// leased is what the limiters hold of an account in case Redis goes away. Leases of
// requests count as well: nothing tells them from those of tokens.
func (b *limiterBook) leased(ctx context.Context, account int) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	resp, err := b.client.ListHolds(ctx, &limitpb.ListHoldsRequest{Account: "user:" + b.accounts[account].User, Limit: 10_000})
	if err != nil {
		return 0, fmt.Errorf("list the holds of %s: %w", b.accounts[account].Name, err)
	}
	sum := int64(0)
	for _, h := range resp.GetHolds() {
		if strings.HasPrefix(h.GetFacts().GetRequestId(), leasePrefix) {
			sum += h.GetHeld()
		}
	}
	return float64(sum), nil
}

// charges looks at the holds of one account.
func (b *limiterBook) charges(ctx context.Context, account int, ids []string) (map[string]judge.Charge, error) {
	found := make(map[string]judge.Charge, len(ids))
	for len(ids) > 0 {
		batch := ids[:min(len(ids), lookBatch)]
		ids = ids[len(batch):]
		if err := b.look(ctx, account, batch, found); err != nil {
			return nil, err
		}
	}
	return found, nil
}

func (b *limiterBook) look(ctx context.Context, account int, ids []string, into map[string]judge.Charge) error {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	a := b.accounts[account]
	resp, err := b.client.GetAccountState(ctx, &limitpb.GetAccountStateRequest{Account: "user:" + a.User, Tier: a.Tier, RequestIds: ids})
	if err != nil {
		return fmt.Errorf("look at the holds of %s: %w", a.Name, err)
	}
	for _, h := range resp.GetHolds() {
		into[h.GetRequestId()] = judge.Charge{State: state(h.GetState()), Held: h.GetHeld(), Charged: h.GetCharged()}
	}
	return nil
}

func state(s limitpb.HoldState_State) judge.State {
	switch s {
	case limitpb.HoldState_HELD:
		return judge.Held
	case limitpb.HoldState_SETTLED:
		return judge.Settled
	case limitpb.HoldState_EXPIRED:
		return judge.Expired
	}
	return judge.Unknown
}
