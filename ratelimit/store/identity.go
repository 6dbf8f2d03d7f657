package store

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// identity is which data the server has, as far as that can be known. A server that started anew,
// was restored, or took over from another has another run id; whether its data is older than what
// we saw is told by a number that only grows (Beat).
//
//	a new connection -> its run id is one that we know: the same data
//	                  \- another, and the number is as high as ours: Changed(false)
//	                   \- another, and the number is lower, gone, or one of a cluster: Changed(true)
//	Beat, Look       -> the number is lower than ours: Changed(true)
//
// A connection is looked at before it carries a call: what comes after a restore meets a limiter
// that knows of it.
type identity struct {
	changed func(older bool)

	mu      sync.Mutex
	runs    map[string]bool // run ids seen
	run     string          // the last of them
	beats   bool            // the number was ever made to grow from here
	beat    int64           // highest number seen
	emptied bool            // when the data was last older, nothing of before was left
}

// beatKey is the number's; in a cluster it is on one of the servers.
func (s *Store) beatKey() string { return s.config.Prefix + "{" + SharedAccount + "}:beat" }

// onConnect looks at the server behind a new connection. An answer that refuses the question is
// left for the calls to meet.
func (s *Store) onConnect(ctx context.Context, cn *redis.Conn) error {
	info, err := cn.Info(ctx, "server").Result()
	if _, refused := errors.AsType[redis.Error](err); err != nil && !refused {
		return err
	}
	run := runID(info)
	if run == "" || !s.identity.isNew(run) {
		return nil
	}
	if s.cluster {
		s.identity.note(run, true, 0)
		return nil
	}
	number, err := cn.Get(ctx, s.beatKey()).Int64()
	answered, refused := errors.AsType[redis.Error](err)
	switch {
	case err == nil || errors.Is(err, redis.Nil):
		s.identity.note(run, s.identity.isOlder(number), number)
		return nil
	case refused && !busy(answered):
		return nil // a Sentinel, or a user who may not ask
	default:
		return err // LOADING, for one: it is looked at again with the next connection
	}
}

// runID is the server's from INFO; empty: it did not say.
func runID(info string) string {
	_, rest, _ := strings.Cut(info, "run_id:")
	id, _, _ := strings.Cut(rest, "\r\n")
	return id
}

// Beat makes the server's number grow by one. It is called about once a second.
func (s *Store) Beat(ctx context.Context) error {
	known := s.identity.known()
	var number int64
	err := s.gated(func() (err error) {
		number, err = s.client.Incr(ctx, s.beatKey()).Result()
		return err
	})
	if err != nil {
		return err
	}
	s.identity.saw(known, number)
	return nil
}

// Look asks whether the server has the data that it had, for who misses something just then. Changed has
// heard of it when it returns.
func (s *Store) Look(ctx context.Context) error {
	known := s.identity.known()
	var number int64
	err := s.gated(func() (err error) {
		if number, err = s.client.Get(ctx, s.beatKey()).Int64(); errors.Is(err, redis.Nil) {
			err = nil
		}
		return err
	})
	if err != nil {
		return err
	}
	s.identity.saw(known, number)
	return nil
}

// lostKept is how long it is remembered when the server's data went back, far longer than a hold lives.
const lostKept = 24 * time.Hour

// WentBack is by when holds of the server were taken that came with older data, in microseconds of its
// clock: who noticed that first says when, noticed so long ago, and everybody goes by that. What was taken
// since is of calls that run. 0: there are none, as nothing of before was left.
func (s *Store) WentBack(ctx context.Context, noticed time.Duration) (by int64, err error) {
	now, err := s.Clock(ctx)
	if err != nil {
		return 0, err
	}
	run, emptied := s.identity.last()
	if by = now - noticed.Microseconds(); emptied {
		by = 0
	}
	key := s.config.Prefix + "{" + SharedAccount + "}:lost:" + run // gone with the data, and another in a copy of it
	err = s.gated(func() error {
		mine, err := s.client.SetNX(ctx, key, by, lostKept).Result()
		if err != nil || mine {
			return err
		}
		first, err := s.client.Get(ctx, key).Int64()
		by = min(by, first)
		return err
	})
	return by, err
}

func (i *identity) isNew(run string) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return !i.runs[run]
}

func (i *identity) isOlder(number int64) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return number < i.beat
}

// known is the highest number that was seen.
func (i *identity) known() int64 {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.beat
}

// last is the run id that was noted last, and whether nothing was left when data was older.
func (i *identity) last() (run string, emptied bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.run, i.emptied
}

// note remembers a run id, and tells of it unless it is among the first.
func (i *identity) note(run string, older bool, number int64) {
	i.mu.Lock()
	defer i.mu.Unlock() // so that no other connection passes before all is told
	if i.runs == nil {
		i.runs = map[string]bool{}
	}
	i.runs[run], i.run = true, run
	if older {
		i.beat, i.emptied = number, number == 0 // the next Beat says where it goes on
	}
	if i.beats && i.changed != nil {
		i.changed(older)
	}
}

// saw hears of a number that was read or made to grow after known was the highest, and tells of one that is
// lower, unless somebody did meanwhile.
func (i *identity) saw(known, number int64) {
	i.mu.Lock()
	defer i.mu.Unlock() // so that nobody passes before all is told
	older := number < known && number < i.beat
	if older || number > i.beat {
		i.beat = number
	}
	i.beats = i.beats || number > 0
	if older {
		if i.emptied = number <= 1; i.changed != nil {
			i.changed(true)
		}
	}
}

// Clustered reports whether the server is a cluster, where data that is older cannot be told from data
// that is not.
func (s *Store) Clustered() bool { return s.cluster }

// Pools gives each pool that the server knows to visit, at the pace of Sweep.
func (s *Store) Pools(ctx context.Context, visit func(account, provider string) error) error {
	servers, err := s.servers(ctx)
	if err != nil {
		return err
	}
	for _, server := range servers {
		err := s.scan(ctx, server, "{*}:p:*", func(keys []string) error {
			for _, key := range keys {
				key, ours := strings.CutPrefix(key, s.config.Prefix+"{")
				account, provider, ok := strings.Cut(key, "}:p:")
				if !ours || !ok {
					continue
				}
				if err := visit(account, provider); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Forget releases a hold as if it had never been.
func (s *Store) Forget(ctx context.Context, account, id string) error {
	for _, account := range []string{account, SharedAccount} {
		if account == SharedAccount && !s.cluster {
			continue
		}
		if _, err := s.run(ctx, s.settle, s.settleArgs(account, id, 0, 0)); err != nil {
			return err
		}
	}
	return nil
}

// Evicts is how the server makes room when its memory is full, empty: it takes nothing, but refuses to
// write; and how many keys it took for that since it started. Limits and holds that it takes are forgotten.
func (s *Store) Evicts(ctx context.Context) (policy string, evicted int64, err error) {
	servers, err := s.servers(ctx)
	if err != nil {
		return "", 0, err
	}
	for _, server := range servers {
		var info string
		if err := s.gated(func() (err error) {
			var stats string
			if info, err = server.Info(ctx, "memory").Result(); err == nil {
				stats, err = server.Info(ctx, "stats").Result()
			}
			info += stats
			return err
		}); err != nil {
			return "", 0, err
		}
		n, _ := strconv.ParseInt(field(info, "evicted_keys"), 10, 64) // 0 where it is not told
		evicted += n
		if most := field(info, "maxmemory"); most == "" || most == "0" {
			continue
		}
		if how := field(info, "maxmemory_policy"); how != "" && how != "noeviction" {
			policy = how
		}
	}
	return policy, evicted, nil
}

// field is a line of INFO.
func field(info, name string) string {
	_, rest, found := strings.Cut(info, "\n"+name+":")
	if !found {
		return ""
	}
	value, _, _ := strings.Cut(rest, "\r\n")
	return value
}
