package store

import (
	"context"

	"github.com/redis/go-redis/v9"
)

// get reads keys in one round trip; a missing one is empty.
func (s *Store) get(ctx context.Context, keys []string) ([]string, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	if s.cluster {
		texts, errs := s.getEach(ctx, keys)
		for _, err := range errs {
			if err != nil {
				return nil, err
			}
		}
		return texts, nil
	}
	values, err := s.client.MGet(ctx, keys...).Result()
	if err := s.verdict(err); err != nil {
		return nil, err
	}
	texts := make([]string, len(keys))
	for i, v := range values {
		texts[i], _ = v.(string)
	}
	return texts, nil
}

// getEach reads keys that may be on different servers, of which some may be away: each has an error of
// its own.
func (s *Store) getEach(ctx context.Context, keys []string) (texts []string, errs []error) {
	texts, errs = make([]string, len(keys)), make([]error, len(keys))
	pipe := s.client.Pipeline()
	cmds, breakers := make([]*redis.StringCmd, len(keys)), make([]*breaker, len(keys))
	for i, key := range keys {
		breakers[i] = s.breakerFor(ctx, key)
		if errs[i] = breakers[i].enter(); errs[i] == nil {
			cmds[i] = pipe.Get(ctx, key)
		}
	}
	_, _ = pipe.Exec(ctx) // each command has its own error
	for i, cmd := range cmds {
		switch {
		case cmd == nil:
		case redis.HasErrorPrefix(cmd.Err(), "WRONGTYPE"): // nothing of ours: as MGET has it, there is no such key
			breakers[i].leave(true)
		default:
			texts[i], errs[i] = cmd.Val(), breakers[i].verdict(cmd.Err())
		}
	}
	return texts, errs
}

// getSome is get for a walk: in a cluster a key whose server is away is as good as missing, and away says
// why, by key.
func (s *Store) getSome(ctx context.Context, keys []string) (texts []string, away map[string]error, err error) {
	if !s.cluster || len(keys) == 0 {
		texts, err = s.get(ctx, keys)
		return texts, nil, err
	}
	texts, errs := s.getEach(ctx, keys)
	for i, err := range errs {
		if err == nil {
			continue
		}
		if away == nil {
			away = map[string]error{}
		}
		away[keys[i]] = err
	}
	return texts, away, ctx.Err()
}
