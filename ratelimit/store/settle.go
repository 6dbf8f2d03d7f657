package store

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

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
		calls[i] = append(s.settle.begin(1, 4), s.HoldKey(one.Account, one.ID), s.now(), one.Charged, s.kept)
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
	status, rest, _ := strings.Cut(reply, " ")
	held, charged, _ := strings.Cut(rest, " ")
	var bad [2]error
	var s Settling
	s.Held, bad[0] = strconv.ParseInt(held, 10, 64)
	s.Charged, bad[1] = strconv.ParseInt(charged, 10, 64)
	if err := errors.Join(bad[:]...); err != nil || len(status) != 1 {
		return Settling{}, errors.Join(fmt.Errorf("%w: %.80q", ErrReply, reply), err)
	}
	s.Status = Status(status[0])
	return s, nil
}
