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
)

// sayAgain is the least pause between two lines about a Redis that does not serve.
const sayAgain = 10 * time.Second

// redisState is whether Redis takes what is written, and what it answers instead. It is looked at
// about once a second by a write of our own: a server that is full, read-only or loading answers a
// ping.
type redisState struct {
	mu     sync.Mutex
	err    error     // of the last write; nil: it was taken
	said   time.Time // when it was last logged
	failed int       // writes since

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

// wrote notes what came of a write, and returns a line to log, or nothing.
func (r *redisState) wrote(err error, now time.Time) (line string, failed int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	before := r.err
	r.err = err
	switch {
	case err == nil && before != nil:
		r.said, r.failed = time.Time{}, 0
		return "redis takes writes again", 0
	case err == nil:
		return "", 0
	}
	r.failed++
	if now.Sub(r.said) < sayAgain {
		return "", 0
	}
	failed, r.said, r.failed = r.failed, now, 0
	return "redis does not take what is written", failed
}

// problem is why Redis does not take writes; nil: it does.
func (r *redisState) problem() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		return nil
	}
	return fmt.Errorf("redis does not take what is written: %w", r.err)
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
		if now := time.Now(); now.Sub(looked) >= sayAgain {
			looked = now
			s.lookAtEviction(ctx)
		}
		beating, cancel := context.WithTimeout(ctx, s.timeout)
		err := s.store.Beat(beating)
		cancel()
		if ctx.Err() != nil {
			return
		}
		switch line, failed := s.redis.wrote(err, time.Now()); {
		case line != "" && err == nil:
			s.log.LogAttrs(ctx, slog.LevelInfo, line)
		case line != "":
			s.log.LogAttrs(ctx, slog.LevelError, line, slog.String("reason", s.redis.reason()), slog.Int("tries", failed), slog.Any("error", err))
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// lookAtEviction asks how Redis makes room.
func (s *Service) lookAtEviction(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	policy, evicted, err := s.store.Evicts(ctx)
	if err == nil {
		s.windows.evicting(policy != "", s.evictions.saw(evicted))
	}
	if err == nil && s.redis.evicting(policy, evicted) {
		s.log.LogAttrs(ctx, slog.LevelError, "redis may forget what is written", slog.Any("error", s.redis.warning()))
	}
}

// Warning is what a person should change though the service serves; nil: nothing.
func (s *Service) Warning() error { return s.redis.warning() }
