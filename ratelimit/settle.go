package ratelimit

import (
	"context"
	"log/slog"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/match"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
)

// maxSettlements is how many holds one call settles or renews.
const maxSettlements = 10_000

// Settle is leaky.limit.v1.Limiter's: the meter and tokensvc replace holds by what was
// really used.
func (s *Service) Settle(ctx context.Context, r *limitpb.SettleRequest) (*limitpb.SettleResponse, error) {
	if n := len(r.GetSettlements()); n > maxSettlements {
		return nil, status.Errorf(codes.InvalidArgument, "%d settlements, at most %d at once", n, maxSettlements)
	}
	batch := make([]store.Settlement, len(r.GetSettlements()))
	for i, one := range r.GetSettlements() {
		if one.GetCharged() < 0 || one.GetCharged() > match.MaxHits {
			return nil, status.Errorf(codes.InvalidArgument, "settlement %d charges %d tokens: 0 to %d may be charged", i, one.GetCharged(),
				int64(match.MaxHits))
		}
		batch[i] = store.Settlement{Account: accountKey(one.GetAccount()), ID: one.GetRequestId(), Charged: one.GetCharged()}
	}
	if m := r.GetMeter(); len(m) > maxName {
		return nil, status.Errorf(codes.InvalidArgument, "the name of the meter has %d bytes, at most %d", len(m), maxName)
	}
	done, err := s.settleEach(ctx, batch)
	if err == nil && !r.GetSome() {
		err = firstAway(done)
	}
	if err != nil {
		s.metrics.settles.failed.Add(float64(len(batch)))
		return nil, unavailable(err)
	}
	var late []string
	out := &limitpb.SettleResponse{Settled: make([]*limitpb.Settled, len(done))}
	for i, one := range done {
		if one.Err != nil && one.Status != store.Away {
			s.log.LogAttrs(ctx, slog.LevelError, "hold cannot be settled", slog.String("request_id", batch[i].ID), slog.Any("error", one.Err))
		}
		s.metrics.settled(one.Status)
		if one.Lacked || one.Status == store.Unknown && (batch[i].Charged > 0 || s.windows.hasLost()) {
			late = append(late, batch[i].Account)
		}
		out.Settled[i] = &limitpb.Settled{RequestId: batch[i].ID, Status: settledStatus(one.Status), Held: one.Held, Charged: one.Charged,
			Drawn: drawn(one), TakenUs: one.Taken}
	}
	s.tellLate(ctx, late)
	if m := r.GetMeter(); m != "" {
		if err := s.store.SetProgress(ctx, m, time.Duration(r.GetBehindUs())*time.Microsecond, r.GetUnwritable()); err != nil {
			return nil, unavailable(err)
		}
	}
	return out, nil
}

// settleEach writes down what is settled and was admitted in an outage, and settles. What cannot be
// written down is Away, as what cannot be settled: without its hold it would be taken for unknown.
func (s *Service) settleEach(ctx context.Context, batch []store.Settlement) ([]store.Settling, error) {
	unwritten := s.leases.RecordSettled(ctx, batch)
	if len(unwritten) == 0 {
		return s.store.SettleEach(ctx, batch)
	}
	written := make([]store.Settlement, 0, len(batch))
	for i, one := range batch {
		if unwritten[i] == nil {
			written = append(written, one)
		}
	}
	done, err := s.store.SettleEach(ctx, written)
	if err != nil {
		return nil, err
	}
	out := make([]store.Settling, len(batch))
	for i := range batch {
		if err := unwritten[i]; err != nil {
			out[i] = store.Settling{Status: store.Away, Err: err}
			continue
		}
		out[i], done = done[0], done[1:]
	}
	return out, nil
}

// firstAway is why the first settlement is Away, if one is.
func firstAway(done []store.Settling) error {
	for i := range done {
		if done[i].Status == store.Away {
			return done[i].Err
		}
	}
	return nil
}

// accountKey is an account of our own API as keys name it.
func accountKey(account string) string { return match.HashTag(match.Canonical(account)) }

func drawn(s store.Settling) limitpb.Settled_Drawn {
	switch {
	case s.Status == store.Unknown, s.Status == store.Away:
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
	case store.Away:
		return limitpb.Settled_AWAY
	}
	return limitpb.Settled_UNKNOWN
}

// Renew is leaky.limit.v1.Limiter's: calls that still run keep their holds.
func (s *Service) Renew(ctx context.Context, r *limitpb.RenewRequest) (*limitpb.RenewResponse, error) {
	if n := len(r.GetRenewals()); n > maxSettlements {
		return nil, status.Errorf(codes.InvalidArgument, "%d renewals, at most %d at once", n, maxSettlements)
	}
	batch := make([]store.Renewal, len(r.GetRenewals()))
	for i, one := range r.GetRenewals() {
		batch[i] = store.Renewal{Account: accountKey(one.GetAccount()), ID: one.GetRequestId()}
	}
	n, err := s.store.Renew(ctx, batch)
	if err != nil {
		return nil, unavailable(err)
	}
	return &limitpb.RenewResponse{Renewed: int64(n)}, nil
}
