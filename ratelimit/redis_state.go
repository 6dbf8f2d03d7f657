package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/leaky-tokens/leaky-tokens/internal/retry"
)

// lookEvery is how often it is asked how Redis makes room.
const lookEvery = 10 * time.Second

// unwrittenRedis is said while Redis does not take what is written.
const unwrittenRedis = "redis does not take what is written"

// redisState is whether Redis takes what is written, and what it answers instead. It is looked at
// about once a second by a write of our own: a server that is full, read-only or loading answers a
// ping.
type redisState struct {
	mu  sync.Mutex
	err error // of the last write, or of the first connection; nil: it was taken

	evicts error // it forgets what is written when its memory is full; nil: it does not
}

// evictsReason is the label of leaky_ratelimit_redis_refuses for it.
const evictsReason = "EVICTS"

// evicting notes how the server makes room, and tells whether that is new.
func (r *redisState) evicting(policy string, evicted int64) (fresh bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	before := r.evicts
	if r.evicts = nil; policy != "" {
		r.evicts = fmt.Errorf("redis has maxmemory-policy %s and forgets limits and holds when its memory is full (%d keys so far); set noeviction",
			policy, evicted)
	}
	return r.evicts != nil && before == nil
}

// warning is what a person should change though Redis serves; nil: nothing.
func (r *redisState) warning() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.evicts
}

// wrote notes what came of a write.
func (r *redisState) wrote(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
}

// problem is why Redis does not take writes; nil: it does.
func (r *redisState) problem() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", unwrittenRedis, r.err)
}

// reasons are the first words of Redis' answers that say why it does not serve; any other trouble is
// one of the link.
func reasons() []string {
	return []string{"OOM", "READONLY", "MISCONF", "LOADING", "NOAUTH", "WRONGPASS", "NOPERM", "NOREPLICAS", "CLUSTERDOWN", "MASTERDOWN",
		"BUSY", evictsReason, "unreachable", "other"}
}

// reason is the word for what is wrong; empty: nothing is.
func (r *redisState) reason() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil && r.evicts != nil {
		return evictsReason
	}
	if r.err == nil {
		return ""
	}
	answered, ok := errors.AsType[redis.Error](r.err)
	if !ok {
		return "unreachable"
	}
	word, _, _ := strings.Cut(answered.Error(), " ")
	if slices.Contains(reasons(), word) {
		return word
	}
	return "other"
}

// watchRedis writes to Redis about once a second until ctx ends, which also tells of a server that
// went back in time (trust).
func (s *Service) watchRedis(ctx context.Context) {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	var looked time.Time
	for {
		if now := time.Now(); now.Sub(looked) >= lookEvery {
			looked = now
			s.lookAtEviction(ctx)
		}
		beating, cancel := context.WithTimeout(ctx, s.timeout)
		err := s.store.Beat(beating)
		cancel()
		if ctx.Err() != nil {
			return
		}
		s.heard(ctx, err)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// heard notes what Redis answered, and says it when that begins and ends.
func (s *Service) heard(ctx context.Context, err error) {
	if s.redis.wrote(err); err == nil {
		s.said.Over(ctx, unwrittenRedis, "redis takes writes again")
		return
	}
	s.said.Say(ctx, slog.LevelError, unwrittenRedis, err, slog.String("reason", s.redis.reason()), retry.Waiting(s.leases.Waiting))
}

// lookAtEviction asks how Redis makes room.
func (s *Service) lookAtEviction(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	policy, evicted, err := s.store.Evicts(ctx)
	if err == nil {
		s.windows.evicting(policy != "", s.evictions.saw(evicted, policy != ""))
	}
	if err == nil && s.redis.evicting(policy, evicted) {
		s.log.LogAttrs(ctx, slog.LevelError, "redis may forget what is written", slog.Any("error", s.redis.warning()))
	}
}

// Warning is what a person should change though the service serves; nil: nothing.
func (s *Service) Warning() error { return s.redis.warning() }
