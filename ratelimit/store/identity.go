package store

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"
)

// identity is which data the server has, as far as that can be known. A server that started anew,
// was restored, or took over from another has another run id; whether its data is older than what
// we saw is told by a number that only grows (Beat).
//
//	a new connection -> its run id is one that we know: the same data
//	                  \- another, and the number is as high as ours: Changed(false)
//	                   \- another, and the number is lower, gone, or one of a cluster: Changed(true)
//	Beat             -> the number is lower than ours: Changed(true)
//
// A connection is looked at before it carries a call: what comes after a restore meets a limiter
// that knows of it.
type identity struct {
	changed func(older bool)

	mu   sync.Mutex
	runs map[string]bool // run ids seen
	beat int64           // highest number seen
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
	older := s.cluster
	if !s.cluster {
		number, err := cn.Get(ctx, s.beatKey()).Int64()
		answered, refused := errors.AsType[redis.Error](err)
		switch {
		case err == nil || errors.Is(err, redis.Nil):
		case refused && !busy(answered):
			return nil // a Sentinel, or a user who may not ask
		default:
			return err // LOADING, for one: it is looked at again with the next connection
		}
		older = s.identity.isOlder(number)
	}
	s.identity.note(run, older)
	return nil
}

// runID is the server's from INFO; empty: it did not say.
func runID(info string) string {
	_, rest, _ := strings.Cut(info, "run_id:")
	id, _, _ := strings.Cut(rest, "\r\n")
	return id
}

// Beat makes the server's number grow by one. It is called about once a second.
func (s *Store) Beat(ctx context.Context) error {
	var number int64
	err := s.gated(func() (err error) {
		number, err = s.client.Incr(ctx, s.beatKey()).Result()
		return err
	})
	if err != nil {
		return err
	}
	older := s.identity.isOlder(number)
	s.identity.mu.Lock()
	s.identity.beat = number
	s.identity.mu.Unlock()
	if older && s.identity.changed != nil {
		s.identity.changed(true)
	}
	return nil
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

// note remembers a run id, and tells of it unless it is among the first.
func (i *identity) note(run string, older bool) {
	i.mu.Lock()
	defer i.mu.Unlock() // so that no other connection passes before all is told
	first := len(i.runs) == 0 || i.beat == 0
	if i.runs == nil {
		i.runs = map[string]bool{}
	}
	i.runs[run] = true
	if older {
		i.beat = 0 // the next Beat says where it goes on
	}
	if !first && i.changed != nil {
		i.changed(older)
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
