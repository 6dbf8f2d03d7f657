package ratelimit

import (
	"context"
	"log/slog"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/match"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
)

// GetAccountState is leaky.limit.v1.Limiter's.
func (s *Service) GetAccountState(ctx context.Context, r *limitpb.GetAccountStateRequest) (*limitpb.GetAccountStateResponse, error) {
	if len(r.GetRequestIds()) > maxSettlements || len(r.GetDescriptors()) > match.MaxDescriptors ||
		len(r.GetProviders()) > match.MaxDescriptors {
		return nil, status.Error(codes.InvalidArgument, match.ErrTooMany.Error())
	}
	for _, p := range r.GetProviders() {
		if !providerName(p) {
			return nil, status.Errorf(codes.InvalidArgument, "provider %q: no pool has such a name", p)
		}
	}
	account, tier, descriptors := accountKey(r.GetAccount()), r.GetTier(), fromProto(r.GetDescriptors())
	p := s.policy.Load()
	if f := r.GetFacts(); f != nil {
		f.User, f.Org, f.Key = match.Canonical(f.GetUser()), match.Canonical(f.GetOrg()), match.Canonical(f.GetKey())
		tier, descriptors = f.GetTier(), match.Reachable(p.Set().Paths(), f, r.GetProviders())
		account = match.Account(f.GetOrg(), f.GetUser(), nil)
	}
	m := p.Match(descriptors, account, tier, match.OneCall())
	seen, err := s.store.ReadState(ctx, account, r.GetRequestIds(), m.Buckets, r.GetProviders()...)
	if err != nil {
		return nil, unavailable(err)
	}
	out := &limitpb.GetAccountStateResponse{Buckets: showBuckets(&m, seen.States, seen.Now), Holds: make([]*limitpb.HoldState,
		len(seen.Records)),
		Balances: make([]*limitpb.Balance, len(seen.Pools))}
	for i, one := range seen.Records {
		out.Holds[i] = &limitpb.HoldState{RequestId: r.GetRequestIds()[i], State: holdState(one.State), Held: one.Held, Charged: one.Charged}
	}
	for i, one := range seen.Pools {
		out.Balances[i] = showPool(one, seen.Now)
	}
	if r.GetFacts() != nil {
		tellDescriptors(p.Rules, &m, out.Buckets, descriptors, account, tier)
		s.askUnknown(ctx, account, r.GetProviders(), seen, out.Balances)
	}
	return out, nil
}

// tellDescriptors tells of each bucket by which descriptor it was found.
func tellDescriptors(rules *match.Rules, m *match.Matched, buckets []*limitpb.Bucket, descriptors []match.Descriptor, account,
	tier string) {
	for _, d := range descriptors {
		alone := rules.Match([]match.Descriptor{d}, account, tier, match.OneCall())
		for _, b := range alone.Buckets {
			i := slices.IndexFunc(m.Buckets, func(have bucket.Bucket) bool { return have.Key == b.Key })
			if i >= 0 && buckets[i].GetFound() == nil {
				buckets[i].Found = toProto(d)
			}
		}
	}
}

// askUnknown asks for the pools that Redis does not know.
func (s *Service) askUnknown(ctx context.Context, account string, providers []string, seen store.AccountState,
	balances []*limitpb.Balance) {
	if s.asker.balances == nil {
		return
	}
	for i, p := range providers {
		if seen.Pools[i].Known {
			continue
		}
		err := s.learnBalance(ctx, account, p)
		if err == nil {
			var again store.AccountState
			if again, err = s.store.ReadState(ctx, account, nil, nil, p); err == nil {
				balances[i] = showPool(again.Pools[0], again.Now)
				continue
			}
		}
		s.log.LogAttrs(ctx, slog.LevelDebug, "a pool is not known", slog.String("account", account), slog.String("provider", p),
			slog.Any("error", err))
		balances[i] = &limitpb.Balance{Unknown: true}
	}
}
