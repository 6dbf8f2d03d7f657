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
		account = accountKey(account)
	}
	holds, more, now, err := s.store.ListHolds(ctx, account, limit)
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

// holdState is where a hold is in its life, for our own API.
func holdState(s store.HoldState) limitpb.HoldState_State {
	switch s {
	case store.StateHeld:
		return limitpb.HoldState_HELD
	case store.StateSettled:
		return limitpb.HoldState_SETTLED
	case store.StateExpired, store.StateClosed, store.StateMended:
		return limitpb.HoldState_EXPIRED
	}
	return limitpb.HoldState_UNKNOWN
}
