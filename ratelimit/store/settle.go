package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
)

// Settle replaces holds by what was used, each once, in one round trip. On an error
// some may be settled and some not; settling all again is right.
func (s *Store) Settle(ctx context.Context, settlements []Settlement) ([]Settling, error) {
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
	for _, cmd := range cmds[len(settlements):] {
		if err := failure(cmd); errors.Is(err, ErrUnavailable) {
			return nil, err
		}
	}
	for i, cmd := range cmds[:len(settlements)] {
		if err = failure(cmd); errors.Is(err, ErrUnavailable) {
			return nil, err
		}
		if err == nil {
			out[i], err = parseSettling(cmd.Val())
		}
		if out[i].Status == Settled {
			s.ended(settlements[i].Account, settlements[i].ID)
			if s.cluster {
				s.ended(SharedAccount, settlements[i].ID)
			}
		}
		if err != nil { // one damaged hold must not keep the others from being settled
			out[i] = Settling{Status: Unknown, Err: err}
		}
	}
	return out, nil
}

func parseSettling(reply string) (Settling, error) {
	if len(reply) != 1+4*size {
		return Settling{}, fmt.Errorf("%w: a settlement of %d bytes", ErrReply, len(reply))
	}
	out := Settling{Status: Status(reply[0]), Held: int64(double(reply, 1, 0)), Charged: int64(double(reply, 1, 1)),
		Drawn: double(reply, 1, 2) >= 0, Taken: int64(double(reply, 1, 3))}
	if out.Status == Settled {
		out.Lacked, out.Taken = out.Taken == 1, 0
	}
	return out, nil
}

// settleArgs is the script's call; kept is for how many milliseconds it is remembered, 0: not at all.
func (s *Store) settleArgs(account, id string, charged int64, kept float64) []any {
	memory, print := s.memory(account, id)
	return append(s.settle.begin(2, 1), s.HoldKey(account, id), memory,
		bucket.Pack(s.now(), float64(charged), kept, millis(s.config.ExpiredKept))+print)
}
