package store

import (
	"context"
	"fmt"
)

// Adoption is how a call that was admitted without Redis came into the books.
type Adoption byte

// Adoptions.
const (
	FromLease Adoption = 'L' // moved from the lease that covered it
	Forced    Adoption = 'F' // taken whether it fitted or not
	Known     Adoption = 'D' // it was there before
)

// Adopt writes down a call that was admitted while Redis was away: take with its output
// granted, and the id of the lease of the same account, buckets and pool that covered it,
// or nothing. Once for each request id. Only tokens are taken.
func (s *Store) Adopt(ctx context.Context, take Take, lease string) (Adoption, error) {
	shared, own, ok := s.split(take)
	if ok {
		if _, err := s.adoptOne(ctx, shared, lease); err != nil {
			return 0, err
		}
	}
	return s.adoptOne(ctx, own, lease)
}

func (s *Store) adoptOne(ctx context.Context, take Take, lease string) (Adoption, error) {
	keys := 1
	if lease != "" {
		keys = 2
	}
	args := append(s.adopt.begin(keys, 2), s.HoldKey(take.Account, take.ID))
	if lease != "" {
		args = append(args, s.HoldKey(take.Account, lease))
	}
	args = append(args, doubles(s.now(), float64(take.Input+take.Output), float64(take.Output), s.lifeOf(take)), s.tail(take))
	reply, err := s.run(ctx, s.adopt, args)
	if err != nil {
		return 0, err
	}
	if len(reply) != 1 {
		return 0, fmt.Errorf("%w: an adoption of %d bytes", ErrReply, len(reply))
	}
	return Adoption(reply[0]), nil
}
