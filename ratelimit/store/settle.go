package store

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"
)

// Settle replaces holds by what was used, each once, in one round trip. On an error
// some may be settled and some not; settling all again is right.
func (s *Store) Settle(ctx context.Context, settlements []Settlement) ([]Settling, error) {
	if len(settlements) == 0 {
		return nil, nil
	}
	if err := s.gate.enter(); err != nil {
		return nil, err
	}
	calls := make([][]any, len(settlements))
	pipe := s.client.Pipeline()
	cmds := make([]*redis.Cmd, len(settlements))
	for i, one := range settlements {
		calls[i] = append(s.settle.begin(1, 1), s.HoldKey(one.Account, one.ID), doubles(s.now(), float64(one.Charged), s.kept))
		cmds[i] = pipe.Do(ctx, calls[i]...)
	}
	_, err := pipe.Exec(ctx)
	if isNoScript(err) {
		pipe = s.client.Pipeline()
		for i := range calls {
			if isNoScript(cmds[i].Err()) {
				cmds[i] = pipe.Do(ctx, s.settle.whole(calls[i])...)
			}
		}
		_, err = pipe.Exec(ctx)
	}
	if err := s.verdict(err); err != nil {
		return nil, err
	}
	out := make([]Settling, len(settlements))
	for i, cmd := range cmds {
		text, err := cmd.Text()
		if err != nil {
			return nil, fmt.Errorf("settle: %w", err)
		}
		if out[i], err = parseSettling(text); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func parseSettling(reply string) (Settling, error) {
	if len(reply) != 1+2*size {
		return Settling{}, fmt.Errorf("%w: a settlement of %d bytes", ErrReply, len(reply))
	}
	return Settling{Status: Status(reply[0]), Held: int64(double(reply, 1, 0)), Charged: int64(double(reply, 1, 1))}, nil
}
