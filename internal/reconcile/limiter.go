package reconcile

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/ledgerbook"
	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
)

const (
	limiterWait  = 30 * time.Second // one question
	limiterBatch = 500              // request ids of one question
	mostHolds    = 10_000
	// leasePrefix begins the id of what a limiter holds for an outage; it is no call's.
	leasePrefix = "lease-"
)

// standing reads the holds, oldest first.
func (s Sources) standing(ctx context.Context) ([]Hold, error) {
	ctx, cancel := context.WithTimeout(ctx, limiterWait)
	defer cancel()
	answer, err := s.Limiter.ListHolds(ctx, &limitpb.ListHoldsRequest{Limit: mostHolds})
	if err != nil {
		return nil, fmt.Errorf("list holds: %w", err)
	}
	holds := []Hold{}
	for _, h := range answer.GetHolds() {
		f := h.GetFacts()
		if strings.HasPrefix(f.GetRequestId(), leasePrefix) {
			continue
		}
		holds = append(holds, Hold{RequestID: f.GetRequestId(), Account: h.GetAccount(), Provider: f.GetProvider(), Tokens: h.GetHeld(),
			Age: time.Duration(h.GetAgeUs()) * time.Microsecond, Overdue: time.Duration(-h.GetExpiresUs()) * time.Microsecond})
	}
	return holds, nil
}

// settled asks what became of the holds of calls. Redis forgets them after a while (holds.settled_kept).
func (s Sources) settled(ctx context.Context, books ...map[string]Call) (map[string]Settled, error) {
	byAccount := map[string]map[string]struct{}{}
	for _, calls := range books {
		for id, c := range calls {
			if byAccount[c.Account] == nil {
				byAccount[c.Account] = map[string]struct{}{}
			}
			byAccount[c.Account][id] = struct{}{}
		}
	}
	found := map[string]Settled{}
	for account, ids := range byAccount {
		for batch := range slices.Chunk(slices.Collect(maps.Keys(ids)), limiterBatch) {
			answer, err := s.state(ctx, &limitpb.GetAccountStateRequest{Account: account, RequestIds: batch})
			if err != nil {
				return nil, fmt.Errorf("read settled holds of %s: %w", account, err)
			}
			for _, h := range answer.GetHolds() {
				if h.GetState() == limitpb.HoldState_SETTLED || h.GetState() == limitpb.HoldState_EXPIRED {
					found[h.GetRequestId()] = Settled{Charged: h.GetCharged()}
				}
			}
		}
	}
	return found, nil
}

func (s Sources) state(ctx context.Context, r *limitpb.GetAccountStateRequest) (*limitpb.GetAccountStateResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, limiterWait)
	defer cancel()
	return s.Limiter.GetAccountState(ctx, r)
}

// pools reads the balances of all accounts that the calls and entries are of.
func (s Sources) pools(ctx context.Context, events, calls map[string]Call, entries map[string]Entry) (map[PoolKey]Pool, error) {
	keys := map[ledgerbook.Key]struct{}{}
	for _, book := range []map[string]Call{events, calls} {
		for _, c := range book {
			keys[ledgerbook.Key{Account: c.Account, Provider: c.Provider}] = struct{}{}
		}
	}
	for _, e := range entries {
		keys[ledgerbook.Key{Account: e.Account, Provider: e.Provider}] = struct{}{}
	}
	there, err := s.Ledger.Pools(ctx, slices.Collect(maps.Keys(keys)))
	if err != nil {
		return nil, err
	}
	pools := map[PoolKey]Pool{}
	for _, one := range there {
		p := Pool{Ledger: one.Remaining, InLedger: true}
		answer, err := s.state(ctx, &limitpb.GetAccountStateRequest{Account: one.Account, Providers: []string{one.Provider}})
		if err != nil {
			return nil, fmt.Errorf("read the balance of %s at %s: %w", one.Account, one.Provider, err)
		}
		if b := answer.GetBalances(); len(b) == 1 && b[0].GetPresent() && !b[0].GetUnknown() {
			p.Redis, p.InRedis = b[0].GetCredits()-b[0].GetSpent(), true
		}
		pools[PoolKey{one.Account, one.Provider}] = p
	}
	return pools, nil
}
