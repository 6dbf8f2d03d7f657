package throttle

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// shared counts in Redis: a hash per subject with n, the failures, and u, the end of the
// wait in milliseconds of Redis' own clock. All keys carry one hash tag, so that a script
// may touch several.
type shared struct {
	client redis.UniversalClient
	prefix string
}

// The scripts are values, not state.
func takeScript() *redis.Script {
	return redis.NewScript(`
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local longest, window, first = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local wait = 0
for _, key in ipairs(KEYS) do
  wait = math.max(wait, tonumber(redis.call('HGET', key, 'u') or '0') - now)
end
if wait > 0 then return wait end
for i, key in ipairs(KEYS) do
  local over = redis.call('HINCRBY', key, 'n', 1) - tonumber(ARGV[3 + i])
  if over >= 0 then
    redis.call('HSET', key, 'u', now + math.min(longest, first * 2 ^ math.min(over, 20)))
  end
  redis.call('PEXPIRE', key, window + longest)
end
return 0`)
}

func forgiveScript() *redis.Script {
	return redis.NewScript(`
for i, key in ipairs(KEYS) do
  if redis.call('EXISTS', key) == 1 then
    local n = redis.call('HINCRBY', key, 'n', -1)
    if n <= 0 then redis.call('DEL', key)
    elseif n < tonumber(ARGV[i]) then redis.call('HDEL', key, 'u') end
  end
end
return 0`)
}

func (s *shared) key(name string) string { return s.prefix + "{throttle}:" + name }

func (s *shared) keys(subjects []subject) []string {
	keys := make([]string, len(subjects))
	for i, one := range subjects {
		keys[i] = s.key(one.key)
	}
	return keys
}

func (s *shared) take(ctx context.Context, subjects []subject, longest, window time.Duration) (time.Duration, error) {
	args := []any{longest.Milliseconds(), window.Milliseconds(), first.Milliseconds()}
	for _, one := range subjects {
		args = append(args, one.most)
	}
	wait, err := takeScript().Run(ctx, s.client, s.keys(subjects), args...).Int64()
	if err != nil {
		return 0, fmt.Errorf("count attempt: %w", err)
	}
	return time.Duration(wait) * time.Millisecond, nil
}

func (s *shared) forgive(ctx context.Context, subjects []subject) error {
	args := make([]any, len(subjects))
	for i, one := range subjects {
		args[i] = one.most
	}
	if err := forgiveScript().Run(ctx, s.client, s.keys(subjects), args...).Err(); err != nil {
		return fmt.Errorf("take attempt back: %w", err)
	}
	return nil
}

func (s *shared) forget(ctx context.Context, one subject) error {
	if err := s.client.Del(ctx, s.key(one.key)).Err(); err != nil {
		return fmt.Errorf("clear failures: %w", err)
	}
	return nil
}

func (s *shared) known(ctx context.Context, account, network string) (bool, error) {
	n, err := s.client.Exists(ctx, s.key("known:"+account+":"+network)).Result()
	if err != nil {
		return false, fmt.Errorf("look for known address: %w", err)
	}
	return n > 0, nil
}

func (s *shared) trust(ctx context.Context, account, network string) error {
	if err := s.client.Set(ctx, s.key("known:"+account+":"+network), 1, trusted).Err(); err != nil {
		return fmt.Errorf("remember address: %w", err)
	}
	return nil
}
