package ratelimit

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/match"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
)

// maxLife is the longest that a caller of Hold may hold.
const maxLife = 24 * time.Hour

// Hold is leaky.limit.v1.Limiter's: the entrance to admission for tokensvc, which holds as
// Envoy does. Without Redis it decides nothing.
func (s *Service) Hold(ctx context.Context, r *limitpb.HoldRequest) (*limitpb.HoldResponse, error) {
	if err := checkHold(r); err != nil {
		return nil, err
	}
	a, err := s.enterHold(s.policy.Load(), r)
	if err != nil {
		return nil, err
	}
	s.admit(ctx, []*admission{a})
	if a.unknown {
		s.admitUnknown(ctx, a)
	}
	if a.err != nil {
		return nil, a.err
	}
	return a.holdResponse(), nil
}

// checkHold reports what of a request makes no sense.
func checkHold(r *limitpb.HoldRequest) error {
	f := r.GetFacts()
	switch {
	case !match.ValidID(f.GetRequestId()):
		return status.Error(codes.InvalidArgument, match.ErrNoID.Error())
	case len(r.GetDescriptors()) > match.MaxDescriptors:
		return status.Error(codes.InvalidArgument, match.ErrTooMany.Error())
	}
	for _, n := range []int64{r.GetInputTokens(), r.GetOutputTokens(), r.GetFillTokens()} {
		if n < 0 || n > match.MaxHits {
			return status.Errorf(codes.InvalidArgument, "%d tokens: 0 to %d may be held", n, int64(match.MaxHits))
		}
	}
	if r.GetLifetimeUs() < 0 || r.GetLifetimeUs() > maxLife.Microseconds() {
		return status.Errorf(codes.InvalidArgument, "lifetime of %d microseconds: 0 to %d (%s) are possible", r.GetLifetimeUs(),
			maxLife.Microseconds(), maxLife)
	}
	if r.GetBalance() != limitpb.BalancePolicy_BALANCE_UNSPECIFIED && r.GetBalance() != limitpb.BalancePolicy_BALANCE_NONE &&
		!providerName(f.GetProvider()) {
		return status.Errorf(codes.InvalidArgument, "provider %q: no pool has such a name", f.GetProvider())
	}
	return nil
}

// enterHold finds the limits of a hold.
func (s *Service) enterHold(p *policy, r *limitpb.HoldRequest) (*admission, error) {
	f := r.GetFacts()
	f.User, f.Org, f.Key = match.Canonical(f.GetUser()), match.Canonical(f.GetOrg()), match.Canonical(f.GetKey())
	record, err := proto.Marshal(f)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	descriptors := fromProto(r.GetDescriptors())
	if len(descriptors) == 0 {
		descriptors = match.Derive(p.Set().Paths(), f)
	}
	account := match.Account(f.GetOrg(), f.GetUser(), descriptors)
	a := &admission{rules: p.Rules, asked: descriptors, matched: p.Match(descriptors, account, f.GetTier(), match.OneCall()),
		mode: config.OutageClosed}
	a.books = a.matched.Long && s.windows.on()
	a.take = store.Take{Account: account, ID: f.GetRequestId(), Buckets: a.matched.Buckets, Requests: 1,
		Input: r.GetInputTokens(), Output: r.GetOutputTokens(), Fill: r.GetFillTokens(), Facts: record,
		Pool: s.part(p, r.GetBalance(), f.GetTier(), f.GetProvider()), Provider: f.GetProvider(),
		Life: time.Duration(r.GetLifetimeUs()) * time.Microsecond, Release: r.GetReleaseExpired()}
	return a, nil
}

// holdResponse is the answer to a hold that was decided.
func (a *admission) holdResponse() *limitpb.HoldResponse {
	t := &a.taken
	out := &limitpb.HoldResponse{Admitted: !t.Outcome.Refuses(), Held: t.Held, GrantedOutput: t.Output, Account: a.take.Account,
		Buckets: showBuckets(&a.matched, t.States, t.Now)}
	if t.Pool.Known {
		out.Balance = showPool(t.Pool, t.Now)
	}
	out.Refusal, out.Rule, out.RetryAfterUs = refusalOf(t.Outcome, a.refusal)
	return out
}

// fromProto and toProto are descriptors off and onto our own API.
func fromProto(ds []*limitpb.Descriptor) []match.Descriptor {
	out := make([]match.Descriptor, len(ds))
	for i, d := range ds {
		for _, e := range d.GetEntries() {
			out[i] = append(out[i], limits.Entry{Key: e.GetKey(), Value: match.Canonical(e.GetValue())})
		}
	}
	return out
}

func toProto(d match.Descriptor) *limitpb.Descriptor {
	out := &limitpb.Descriptor{}
	for _, e := range d {
		out.Entries = append(out.Entries, &limitpb.Entry{Key: e.Key, Value: e.Value})
	}
	return out
}

// showBuckets are the limits with their states for people and services.
func showBuckets(m *match.Matched, states []bucket.State, now int64) []*limitpb.Bucket {
	out := make([]*limitpb.Bucket, len(m.Limits))
	for i, l := range m.Limits {
		out[i] = &limitpb.Bucket{Rule: l.Rule.Name, Unit: l.Rule.Unit.String(), Capacity: l.Params.Capacity, Level: states[i].Level(),
			Held: states[i].Held, ResetUs: l.Params.Reset(states[i], now), Rate: l.PerSecond(), Shadow: !l.Kind.Refuses()}
	}
	return out
}
