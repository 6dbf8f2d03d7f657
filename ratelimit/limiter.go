package ratelimit

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
)

const (
	// maxHeld bounds what one call may hold, in tokens.
	maxHeld = 1 << 50
	// maxSettlements is how many holds one call settles.
	maxSettlements = 10_000
	// maxLife is the longest that a caller of Hold may hold.
	maxLife = 24 * time.Hour
)

// Hold is leaky.limit.v1.Limiter's: tokensvc holds as Envoy does.
func (s *Service) Hold(ctx context.Context, r *limitpb.HoldRequest) (*limitpb.HoldResponse, error) {
	f := r.GetFacts()
	switch {
	case f.GetRequestId() == "" || len(f.GetRequestId()) > maxID || !plain(f.GetRequestId()):
		return nil, status.Error(codes.InvalidArgument, errNoID.Error())
	case len(r.GetDescriptors()) > maxDescriptors:
		return nil, status.Error(codes.InvalidArgument, errTooMany.Error())
	}
	for _, n := range []int64{r.GetInputTokens(), r.GetOutputTokens(), r.GetFillTokens()} {
		if n < 0 || n > maxHeld {
			return nil, status.Errorf(codes.InvalidArgument, "%d tokens: 0 to %d may be held", n, int64(maxHeld))
		}
	}
	if r.GetLifetimeUs() < 0 || r.GetLifetimeUs() > maxLife.Microseconds() {
		return nil, status.Errorf(codes.InvalidArgument, "lifetime of %d microseconds: 0 to %d (%s) are possible", r.GetLifetimeUs(),
			maxLife.Microseconds(), maxLife)
	}
	if r.GetBalance() != limitpb.BalancePolicy_BALANCE_UNSPECIFIED && r.GetBalance() != limitpb.BalancePolicy_BALANCE_NONE &&
		!providerName(f.GetProvider()) {
		return nil, status.Errorf(codes.InvalidArgument, "provider %q: no pool has such a name", f.GetProvider())
	}
	f.User, f.Org, f.Key = canonical(f.GetUser()), canonical(f.GetOrg()), canonical(f.GetKey())
	record, err := proto.Marshal(f)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	p := s.policy.Load()
	descriptors := fromProto(r.GetDescriptors())
	if len(descriptors) == 0 {
		descriptors = derive(p.set.Paths(), f)
	}
	account := accountOf(f.GetOrg(), f.GetUser(), descriptors)
	m := p.match(descriptors, account, f.GetTier(), counting{tokens: true, hits: 1})
	take := store.Take{Account: account, ID: f.GetRequestId(), Buckets: m.buckets, Requests: 1,
		Input: r.GetInputTokens(), Output: r.GetOutputTokens(), Fill: r.GetFillTokens(), Facts: record,
		Pool: s.part(p, r.GetBalance(), f.GetTier(), f.GetProvider()), Provider: f.GetProvider(),
		Life: time.Duration(r.GetLifetimeUs()) * time.Microsecond, Release: r.GetReleaseExpired()}
	t, err := s.holdKnown(ctx, take)
	if err != nil {
		s.metrics.holds.failed.Inc()
		return nil, unavailable(err)
	}
	s.count(t.Outcome)
	shadow := s.record(ctx, m, t, take)
	out := &limitpb.HoldResponse{Admitted: !t.Outcome.Refuses(), Held: t.Held, GrantedOutput: t.Output, Account: account,
		Buckets: show(m, t.States, t.Now)}
	if t.Pool.Known {
		out.Balance = showPool(t.Pool, t.Now)
	}
	no := refused{wait: bucket.Never}
	if t.Outcome == store.Refused {
		no = s.blame(m, t, take)
		s.metrics.refused(no.label)
	}
	out.Refusal, out.Rule, out.RetryAfterUs = refusalOf(t.Outcome, no)
	s.memory.add(&recalled{at: t.Now, take: take, matched: m, taken: t, no: no, shadow: shadow, rules: p.rules, asked: descriptors,
		admitted: out.Admitted})
	return out, nil
}

func fromProto(ds []*limitpb.Descriptor) []descriptor {
	out := make([]descriptor, len(ds))
	for i, d := range ds {
		for _, e := range d.GetEntries() {
			out[i] = append(out[i], limits.Entry{Key: e.GetKey(), Value: canonical(e.GetValue())})
		}
	}
	return out
}

func show(m matched, states []bucket.State, now int64) []*limitpb.Bucket {
	out := make([]*limitpb.Bucket, len(m.limits))
	for i, l := range m.limits {
		out[i] = &limitpb.Bucket{Rule: l.rule.Name, Unit: l.rule.Unit.String(), Capacity: l.store.Params.Capacity, Level: states[i].Level(),
			Held: states[i].Held, ResetUs: l.store.Params.Reset(states[i], now), Rate: l.perSecond(), Shadow: !l.store.Kind.Refuses()}
	}
	return out
}

// Settle is leaky.limit.v1.Limiter's.
func (s *Service) Settle(ctx context.Context, r *limitpb.SettleRequest) (*limitpb.SettleResponse, error) {
	if n := len(r.GetSettlements()); n > maxSettlements {
		return nil, status.Errorf(codes.InvalidArgument, "%d settlements, at most %d at once", n, maxSettlements)
	}
	batch := make([]store.Settlement, len(r.GetSettlements()))
	for i, one := range r.GetSettlements() {
		if one.GetCharged() < 0 || one.GetCharged() > maxHeld {
			return nil, status.Errorf(codes.InvalidArgument, "settlement %d charges %d tokens: 0 to %d may be charged", i, one.GetCharged(),
				int64(maxHeld))
		}
		batch[i] = store.Settlement{Account: tag(canonical(one.GetAccount())), ID: one.GetRequestId(), Charged: one.GetCharged()}
	}
	if err := s.adoptSettled(ctx, batch); err != nil {
		s.metrics.settles.failed.Add(float64(len(batch)))
		return nil, unavailable(err)
	}
	done, err := s.store.Settle(ctx, batch)
	if err != nil {
		s.metrics.settles.failed.Add(float64(len(batch)))
		return nil, unavailable(err)
	}
	out := &limitpb.SettleResponse{Settled: make([]*limitpb.Settled, len(done))}
	for i, one := range done {
		if one.Err != nil {
			s.log.LogAttrs(ctx, slog.LevelError, "hold cannot be settled", slog.String("request_id", batch[i].ID), slog.Any("error", one.Err))
		}
		s.metrics.settled(one.Status)
		out.Settled[i] = &limitpb.Settled{RequestId: batch[i].ID, Status: settledStatus(one.Status), Held: one.Held, Charged: one.Charged,
			Drawn: drawn(one)}
	}
	return out, nil
}

func drawn(s store.Settling) limitpb.Settled_Drawn {
	switch {
	case s.Status == store.Unknown:
		return limitpb.Settled_DRAWN_UNSPECIFIED
	case s.Drawn:
		return limitpb.Settled_DRAWN_POOL
	}
	return limitpb.Settled_DRAWN_NONE
}

func settledStatus(s store.Status) limitpb.Settled_Status {
	switch s {
	case store.Settled:
		return limitpb.Settled_SETTLED
	case store.Duplicate:
		return limitpb.Settled_DUPLICATE
	case store.Late:
		return limitpb.Settled_LATE
	}
	return limitpb.Settled_UNKNOWN
}

func holdState(s store.HoldState) limitpb.HoldState_State {
	switch s {
	case store.StateHeld:
		return limitpb.HoldState_HELD
	case store.StateSettled:
		return limitpb.HoldState_SETTLED
	case store.StateExpired, store.StateClosed:
		return limitpb.HoldState_EXPIRED
	}
	return limitpb.HoldState_UNKNOWN
}

// unavailable gives a store's error its gRPC code, so that callers know what to repeat.
func unavailable(err error) error {
	if errors.Is(err, store.ErrUnavailable) {
		return status.Error(codes.Unavailable, err.Error())
	}
	return status.Error(codes.Internal, err.Error())
}
