package ratelimit

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
)

// Bounds on a listing of holds.
const (
	defaultHolds = 100
	maxHolds     = 10_000
)

// Renew is leaky.limit.v1.Limiter's: calls that still run keep their holds.
func (s *Service) Renew(ctx context.Context, r *limitpb.RenewRequest) (*limitpb.RenewResponse, error) {
	if n := len(r.GetRenewals()); n > maxSettlements {
		return nil, status.Errorf(codes.InvalidArgument, "%d renewals, at most %d at once", n, maxSettlements)
	}
	batch := make([]store.Renewal, len(r.GetRenewals()))
	for i, one := range r.GetRenewals() {
		batch[i] = store.Renewal{Account: tag(canonical(one.GetAccount())), ID: one.GetRequestId()}
	}
	n, err := s.store.Renew(ctx, batch)
	if err != nil {
		return nil, unavailable(err)
	}
	return &limitpb.RenewResponse{Renewed: int64(n)}, nil
}

// ListHolds is leaky.limit.v1.Limiter's. It reads every key of Redis, slowly: for people.
func (s *Service) ListHolds(ctx context.Context, r *limitpb.ListHoldsRequest) (*limitpb.ListHoldsResponse, error) {
	limit := int(r.GetLimit())
	switch {
	case r.GetLimit() == 0:
		limit = defaultHolds
	case r.GetLimit() < 0 || r.GetLimit() > maxHolds:
		return nil, status.Errorf(codes.InvalidArgument, "limit %d: 1 to %d holds are listed", r.GetLimit(), maxHolds)
	}
	account := r.GetAccount()
	if account != "" {
		account = tag(canonical(account))
	}
	holds, more, now, err := s.store.Holds(ctx, account, limit)
	if err != nil {
		return nil, unavailable(err)
	}
	out := &limitpb.ListHoldsResponse{More: more, Holds: make([]*limitpb.Held, len(holds))}
	for i, h := range holds {
		f := &limitpb.Facts{}
		if proto.Unmarshal(h.Record.Facts, f) != nil || f.GetRequestId() == "" { // a lease has none
			f = &limitpb.Facts{RequestId: h.ID}
		}
		out.Holds[i] = &limitpb.Held{Facts: f, Account: h.Account, Held: h.Record.Held, ExpiresUs: h.Record.Expires - now,
			AgeUs: max(0, now-h.Record.Taken)}
	}
	return out, nil
}
