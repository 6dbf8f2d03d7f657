package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
)

// Settle replaces holds by what was used, each once, in one round trip. On an error
// some may be settled and some not; settling all again is right.
func (s *Store) Settle(ctx context.Context, settlements []Settlement) ([]Settling, error) {
	done, err := s.SettleEach(ctx, settlements)
	for i := range done {
		if done[i].Status == Away {
			return nil, done[i].Err
		}
	}
	return done, err
}

// SettleEach is Settle where some servers of a cluster may be away: what is on those is answered Away, and
// the others are settled. One of which only the part in shared buckets is out of reach is Away, too: its
// own part is settled then, and is a Duplicate the next time.
func (s *Store) SettleEach(ctx context.Context, settlements []Settlement) ([]Settling, error) {
	if len(settlements) == 0 {
		return nil, nil
	}
	calls := make([][]any, 0, len(settlements))
	for _, one := range settlements {
		calls = append(calls, s.settleArgs(one.Account, one.ID, one.Charged, s.kept))
	}
	if s.cluster { // and the parts of the holds that are in shared buckets, which few have
		for _, one := range settlements {
			calls = append(calls, s.settleArgs(SharedAccount, one.ID, one.Charged, s.kept))
		}
	}
	cmds, err := s.runAll(ctx, s.settle, calls)
	if err != nil {
		return nil, err
	}
	out := make([]Settling, len(settlements))
	for i, one := range settlements {
		var shared error
		if s.cluster {
			shared = failure(cmds[len(settlements)+i])
		}
		out[i] = settling(cmds[i], shared)
		if err := out[i].Err; errors.Is(err, ErrUnavailable) && !s.cluster {
			return nil, err
		}
		if out[i].Status != Settled {
			continue
		}
		s.ended(one.Account, one.ID)
		if s.cluster && shared == nil {
			s.ended(SharedAccount, one.ID)
		}
	}
	return out, nil
}

// settling is what a settlement came to by the script's answer and what went wrong with its part in
// shared buckets.
func settling(cmd *redis.StringCmd, shared error) Settling {
	var out Settling
	err := failure(cmd)
	if err == nil {
		out, err = parseSettling(cmd.Val())
	}
	if err == nil && !out.alone && errors.Is(shared, ErrUnavailable) {
		err = shared
	}
	switch {
	case errors.Is(err, ErrUnavailable):
		return Settling{Status: Away, Err: err}
	case err != nil: // one damaged hold must not keep the others from being settled
		return Settling{Status: Unknown, Err: err}
	}
	return out
}

func parseSettling(reply string) (Settling, error) {
	if len(reply) != 1+4*size {
		return Settling{}, fmt.Errorf("%w: a settlement of %d bytes", ErrReply, len(reply))
	}
	out := Settling{Status: Status(reply[0]), Held: int64(double(reply, 1, 0)), Charged: int64(double(reply, 1, 1)),
		Drawn: double(reply, 1, 2) >= 0, Taken: int64(double(reply, 1, 3))}
	if out.Status == Settled {
		out.Lacked, out.alone, out.Taken = out.Taken&1 != 0, out.Taken&2 != 0, 0
	}
	return out, nil
}

// settleArgs is the script's call; kept is for how many milliseconds it is remembered, 0: not at all.
func (s *Store) settleArgs(account, id string, charged int64, kept float64) []any {
	memory, print := s.memory(account, id)
	return append(s.settle.begin(2, 1), s.HoldKey(account, id), memory,
		bucket.Pack(s.now(), float64(charged), kept, millis(s.config.ExpiredKept))+print)
}
