package ratelimit

import (
	"context"
	"log/slog"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
)

// GetAccountState is leaky.limit.v1.Limiter's.
func (s *Service) GetAccountState(ctx context.Context, r *limitpb.GetAccountStateRequest) (*limitpb.GetAccountStateResponse, error) {
	if len(r.GetRequestIds()) > maxSettlements || len(r.GetDescriptors()) > maxDescriptors || len(r.GetProviders()) > maxDescriptors {
		return nil, status.Error(codes.InvalidArgument, errTooMany.Error())
	}
	for _, p := range r.GetProviders() {
		if !providerName(p) {
			return nil, status.Errorf(codes.InvalidArgument, "provider %q: no pool has such a name", p)
		}
	}
	account, tier, descriptors := tag(canonical(r.GetAccount())), r.GetTier(), fromProto(r.GetDescriptors())
	p := s.policy.Load()
	if f := r.GetFacts(); f != nil {
		f.User, f.Org, f.Key = canonical(f.GetUser()), canonical(f.GetOrg()), canonical(f.GetKey())
		tier, descriptors = f.GetTier(), reach(p.set.Paths(), f, r.GetProviders())
		account = accountOf(f.GetOrg(), f.GetUser(), nil)
	}
	m := p.match(descriptors, account, tier, counting{tokens: true, hits: 1})
	seen, err := s.store.Look(ctx, account, r.GetRequestIds(), m.buckets, r.GetProviders()...)
	if err != nil {
		return nil, unavailable(err)
	}
	out := &limitpb.GetAccountStateResponse{Buckets: show(m, seen.States, seen.Now), Holds: make([]*limitpb.HoldState, len(seen.Records)),
		Balances: make([]*limitpb.Balance, len(seen.Pools))}
	for i, one := range seen.Records {
		out.Holds[i] = &limitpb.HoldState{RequestId: r.GetRequestIds()[i], State: holdState(one.State), Held: one.Held, Charged: one.Charged}
	}
	for i, one := range seen.Pools {
		out.Balances[i] = showPool(one, seen.Now)
	}
	if r.GetFacts() != nil {
		p.found(m, out.Buckets, descriptors, account, tier)
		s.known(ctx, account, r.GetProviders(), seen, out.Balances)
	}
	return out, nil
}

// reach is a descriptor for each path that one caller's calls can fall under: of all
// routes with limits of their own, and of each provider where the facts name none.
func reach(paths []limits.Path, f *limitpb.Facts, providers []string) []descriptor {
	if f.GetProvider() != "" {
		providers = []string{f.GetProvider()}
	}
	values := callerValues(f)
	var all []descriptor
paths:
	for _, path := range paths {
		d, split := make(descriptor, 0, len(path)), -1
		for i, k := range path {
			value := k.Value
			switch {
			case value != "":
			case k.Key == attributes.Provider:
				split = i
			default:
				if value = values[k.Key]; value == "" {
					continue paths
				}
			}
			d = append(d, limits.Entry{Key: k.Key, Value: value})
		}
		if split < 0 {
			all = append(all, d)
			continue
		}
		for _, p := range providers {
			one := slices.Clone(d)
			one[split].Value = p
			all = append(all, one)
		}
	}
	return all
}

// found tells of each bucket by which descriptor it was found.
func (r *rules) found(m matched, buckets []*limitpb.Bucket, descriptors []descriptor, account, tier string) {
	for _, d := range descriptors {
		alone := r.match([]descriptor{d}, account, tier, counting{tokens: true, hits: 1})
		for _, b := range alone.buckets {
			i := slices.IndexFunc(m.buckets, func(have store.Bucket) bool { return have.Key == b.Key })
			if i >= 0 && buckets[i].GetFound() == nil {
				buckets[i].Found = toProto(d)
			}
		}
	}
}

// known asks for the pools that Redis does not know.
func (s *Service) known(ctx context.Context, account string, providers []string, seen store.Looked, balances []*limitpb.Balance) {
	if s.asker.balances == nil {
		return
	}
	for i, p := range providers {
		if seen.Pools[i].Known {
			continue
		}
		err := s.learn(ctx, account, p)
		if err == nil {
			var again store.Looked
			if again, err = s.store.Look(ctx, account, nil, nil, p); err == nil {
				balances[i] = showPool(again.Pools[0], again.Now)
				continue
			}
		}
		s.log.LogAttrs(ctx, slog.LevelDebug, "a pool is not known", slog.String("account", account), slog.String("provider", p),
			slog.Any("error", err))
		balances[i] = &limitpb.Balance{Unknown: true}
	}
}

func toProto(d descriptor) *limitpb.Descriptor {
	out := &limitpb.Descriptor{}
	for _, e := range d {
		out.Entries = append(out.Entries, &limitpb.Entry{Key: e.Key, Value: e.Value})
	}
	return out
}
