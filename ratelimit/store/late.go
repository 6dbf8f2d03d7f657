package store

import (
	"context"
	"fmt"

	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
)

// LateWay is how a call that was admitted without Redis came into the books.
type LateWay byte

// Ways into the books.
const (
	FromLease LateWay = 'L' // moved from the lease that covered it
	Forced    LateWay = 'F' // taken whether it fitted or not
	Known     LateWay = 'D' // it was there before
)

// RecordLate writes down a call that was admitted while Redis was away: take with its output
// granted, and the id of the lease of the same account, buckets and pool that covered it,
// or nothing. Once for each request id. Only tokens are taken.
func (s *Store) RecordLate(ctx context.Context, take Take, lease string) (LateWay, error) {
	shared, own, ok := s.split(take)
	if ok {
		if _, err := s.recordOneLate(ctx, shared, lease); err != nil {
			return 0, err
		}
	}
	return s.recordOneLate(ctx, own, lease)
}

func (s *Store) recordOneLate(ctx context.Context, take Take, lease string) (LateWay, error) {
	keys := 2
	if lease != "" {
		keys = 3
	}
	memory, print := s.memory(take.Account, take.ID)
	args := append(s.late.begin(keys, 2), s.HoldKey(take.Account, take.ID), memory)
	if lease != "" {
		args = append(args, s.HoldKey(take.Account, lease))
	}
	args = append(args, bucket.Pack(s.now(), float64(take.Input+take.Output), float64(take.Output), s.lifeOf(take))+print, s.tail(take))
	reply, err := s.run(ctx, s.late, args)
	if err != nil {
		return 0, err
	}
	if len(reply) != 1 {
		return 0, fmt.Errorf("%w: a late record of %d bytes", ErrReply, len(reply))
	}
	now, err := s.Clock(ctx)
	if err != nil { // it is written down: a scan finds it
		s.lacks()
		return LateWay(reply[0]), nil //nolint:nilerr // as said
	}
	s.stands(s.HoldKey(take.Account, take.ID), float64(now)+s.lifeOf(take))
	return LateWay(reply[0]), nil
}
