package store

import (
	"context"
	"errors"
)

// Revocation is a hold that is not wanted any more, whether it stands or not.
type Revocation struct {
	Take    Take
	Charged int64 // tokens that were used of it, >= 0
}

// Revoke settles holds of which it may not be known whether they stand, since the answer to Hold did
// not come, and keeps those that do not from coming to stand later.
//
// To settle them is not enough. A server that hung goes on with what lies in its sockets, and a
// network sends again what got lost: the command that takes a hold may be executed after the
// settlement, which went another way and found nothing. So a hold that is unknown is taken with
// nothing in it, and settled then:
//
//	settle         it stood and is given back; or it is unknown, then
//	hold nothing   a late Hold that was before this is found here, and one that comes after
//	               this finds it: whichever is second is Repeated and takes nothing
//	settle         gives back what is there, and is remembered for Config.SettledKept:
//	               a late Hold that comes now is Repeated too
//
// It takes one round trip, or three where a hold is unknown. On an error some may be revoked and some
// not; revoking all again is right.
func (s *Store) Revoke(ctx context.Context, holds []Revocation) error {
	settlements := make([]Settlement, len(holds))
	for i, one := range holds {
		settlements[i] = Settlement{Account: one.Take.Account, ID: one.Take.ID, Charged: one.Charged}
	}
	done, err := s.Settle(ctx, settlements)
	if err != nil {
		return err
	}
	var nothing []Take
	var again []Settlement
	for i, one := range holds {
		if done[i].Status != Unknown || done[i].Err != nil { // a damaged one is not mended by asking again
			continue
		}
		again = append(again, settlements[i])
		nothing = append(nothing, Take{Account: one.Take.Account, ID: one.Take.ID})
		if shared, _, split := s.split(one.Take); split {
			nothing = append(nothing, Take{Account: shared.Account, ID: shared.ID})
		}
	}
	if len(again) == 0 {
		return nil
	}
	taken, err := s.HoldAll(ctx, nothing)
	if err != nil {
		return err
	}
	for _, t := range taken {
		if errors.Is(t.Err, ErrUnavailable) {
			return t.Err
		}
	}
	_, err = s.Settle(ctx, again)
	return err
}
