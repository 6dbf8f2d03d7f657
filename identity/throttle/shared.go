package throttle

import (
	"context"
	_ "embed"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// shared counts in Redis, a hash for each subject, by Redis' own clock. All keys carry one hash tag,
// so that a script may touch several.
type shared struct {
	client redis.UniversalClient
	prefix string
	rules  rules
	now    func() time.Time // of tests; nil: Redis' own clock
}

// tallyLua does what tally.go does.
//
//go:embed tally.lua
var tallyLua string

func (s *shared) key(name string) string { return s.prefix + "{throttle}:" + name }

// run asks the script to do one thing to all subjects.
func (s *shared) run(ctx context.Context, what string, subjects []subject) *redis.Cmd {
	now := int64(0)
	if s.now != nil {
		now = s.now().UnixMilli()
	}
	keys := make([]string, len(subjects))
	args := []any{what, now, s.rules.Longest.Milliseconds(), s.rules.Window.Milliseconds(), first.Milliseconds(), pendingLife.Milliseconds(),
		ticketLife.Milliseconds()}
	for i, one := range subjects {
		keys[i] = s.key(one.key)
		args = append(args, one.most, one.who)
	}
	return redis.NewScript(tallyLua).Run(ctx, s.client, keys, args...) // it remembers nothing but the text's digest
}

func (s *shared) take(ctx context.Context, subjects []subject) (verdict, error) {
	said, err := s.run(ctx, "take", subjects).Int64Slice()
	if err != nil || len(said) != 3 {
		return verdict{}, fmt.Errorf("count attempt: %w", err)
	}
	v := verdict{wait: time.Duration(said[0]) * time.Millisecond, line: said[1] == 1, fresh: said[2] == 1}
	if v.line {
		v.wait = 1
	}
	return v, nil
}

func (s *shared) fail(ctx context.Context, subjects []subject) error {
	if err := s.run(ctx, "fail", subjects).Err(); err != nil {
		return fmt.Errorf("count failure: %w", err)
	}
	return nil
}

func (s *shared) release(ctx context.Context, subjects []subject) error {
	if len(subjects) == 0 {
		return nil
	}
	if err := s.run(ctx, "release", subjects).Err(); err != nil {
		return fmt.Errorf("take attempt back: %w", err)
	}
	return nil
}

func (s *shared) forget(ctx context.Context, one subject) error {
	if err := s.run(ctx, "forget", []subject{one}).Err(); err != nil {
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
