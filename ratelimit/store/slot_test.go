package store_test

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/balance"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
)

// slotMove moves one slot between two servers of a cluster, key by key.
type slotMove struct {
	t        *testing.T
	slot     int64
	all      []*redis.Client
	from, to int // in all
}

// moving begins to move the slot of a key.
func moving(t *testing.T, servers []*testenv.RedisProcess, key string) *slotMove {
	t.Helper()
	m := &slotMove{t: t}
	for _, server := range servers {
		m.all = append(m.all, server.Client())
	}
	m.slot = m.all[0].ClusterKeySlot(t.Context(), key).Val()
	m.from = int(m.slot) * len(servers) / 16384
	m.to = (m.from + 1) % len(servers)
	m.do(m.to, "CLUSTER", "SETSLOT", m.slot, "IMPORTING", m.id(m.from))
	m.do(m.from, "CLUSTER", "SETSLOT", m.slot, "MIGRATING", m.id(m.to))
	return m
}

func (m *slotMove) do(server int, args ...any) {
	m.t.Helper()
	if err := m.all[server].Do(m.t.Context(), args...).Err(); err != nil {
		m.t.Fatalf("%v: %v", args, err)
	}
}

func (m *slotMove) id(server int) string {
	m.t.Helper()
	id, err := m.all[server].ClusterMyID(m.t.Context()).Result()
	if err != nil {
		m.t.Fatal(err)
	}
	return id
}

// keys are those of the slot that have not moved yet.
func (m *slotMove) keys() []string {
	m.t.Helper()
	keys, err := m.all[m.from].ClusterGetKeysInSlot(m.t.Context(), int(m.slot), 100).Result()
	if err != nil {
		m.t.Fatal(err)
	}
	return keys
}

// move moves keys.
func (m *slotMove) move(keys ...string) {
	m.t.Helper()
	host, port, err := net.SplitHostPort(m.all[m.to].Options().Addr)
	if err != nil {
		m.t.Fatal(err)
	}
	for _, key := range keys {
		m.do(m.from, "MIGRATE", host, port, key, 0, 60_000)
	}
}

// end moves the rest, and tells every server where the slot is.
func (m *slotMove) end() {
	m.t.Helper()
	m.move(m.keys()...)
	for _, server := range []int{m.to, m.from, 3 - m.to - m.from} {
		m.do(server, "CLUSTER", "SETSLOT", m.slot, "NODE", m.id(m.to))
	}
}

// memoryOf is where the settled call "a" of an account is remembered in a cluster (Store.memory).
func memoryOf(account string) string {
	hash := sha256.Sum256([]byte(account + "\x00a"))
	return fmt.Sprintf("{%s}:s:%x", account, binary.LittleEndian.Uint32(hash[10:])&(1<<12-1))
}

// TestASlotThatMovesLosesNoSettlement settles, expires and corrects a call while the slot of its account
// moves, with each of its keys the first and the last to go: before the slot has moved that is left for
// later, and changes nothing; then it is done, once, in the bucket and in the pool.
func TestASlotThatMovesLosesNoSettlement(t *testing.T) {
	t.Parallel()
	url, servers := testenv.RedisOfThree(t)
	limit := bucket.NewLimit(bucket.Tokens, bucket.Params{Capacity: 1e6, Rate: 1e-9})
	s := openOn(t, url)
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{servers[0].Client().Options().Addr}})
	defer client.Close()
	settle := func(account string) (store.Status, error) {
		done, err := s.Settle(t.Context(), []store.Settlement{{Account: account, ID: "a", Charged: 30}})
		if err != nil {
			return 0, err
		}
		return done[0].Status, done[0].Err
	}
	expire := func(account string) (store.Status, error) {
		_, due, err := s.Expire(t.Context(), account, "a", true)
		if err != nil || !due {
			return store.Unknown, err
		}
		return store.Late, nil
	}
	for name, op := range map[string]struct {
		before, run func(account string) (store.Status, error)
		done        store.Status
		spent       int64
	}{
		"settle":  {run: settle, done: store.Settled, spent: 30},
		"expire":  {run: expire, done: store.Late, spent: 400},
		"correct": {before: expire, run: settle, done: store.Late, spent: 30},
	} {
		for _, key := range []string{"h:a", "b:x", "p:openai", "all"} {
			for _, first := range []bool{true, false} {
				account := "user:" + name + key + map[bool]string{true: "first", false: "last"}[first]
				of := func(key string) string { return "{" + account + "}:" + key }
				b := []bucket.Bucket{{Limit: limit, Key: of("b:x")}}
				if _, err := s.SetBalance(t.Context(), balance.State{Account: account, Provider: "openai", Present: true, Credits: 1000, Version: 1}); err != nil {
					t.Fatal(err)
				}
				got, err := s.Hold(t.Context(), store.Take{Account: account, ID: "a", Output: 400, Buckets: b, Pool: store.PoolRequired, Provider: "openai"})
				if err != nil || got.Outcome != store.Admitted {
					t.Fatalf("hold: %+v, %v", got, err)
				}
				// Where the memory of settled calls is not there yet the server asks to try again for its sake.
				if err := client.Set(t.Context(), memoryOf(account), make([]byte, 33), time.Hour).Err(); err != nil {
					t.Fatal(err)
				}
				if op.before != nil {
					if _, err := op.before(account); err != nil {
						t.Fatal(err)
					}
				}
				m := moving(t, servers, of("b:x"))
				all := m.keys()
				switch {
				case key == "all" && first:
					m.move(all...)
				case key == "all":
				case first:
					m.move(of(key))
				default:
					m.move(slices.DeleteFunc(slices.Clone(all), func(k string) bool { return k == of(key) })...)
				}
				status, err := op.run(account)
				if !errors.Is(err, store.ErrUnavailable) && (err != nil || status != op.done) {
					t.Errorf("%s while it moves: want it done or left for later, got %c, %v", account, status, err)
				}
				m.end()
				if err != nil {
					testenv.Eventually(t, "the settlement after the move", func() bool {
						status, err = op.run(account)
						return !errors.Is(err, store.ErrUnavailable)
					})
				}
				if err != nil || status != op.done {
					t.Errorf("%s after it moved: want %c, got %c, %v", account, op.done, status, err)
				}
				seen, err := s.ReadState(t.Context(), account, nil, b, "openai")
				if err != nil || seen.States[0].Held != 0 || int64(seen.States[0].Settled+0.5) != op.spent {
					t.Errorf("%s: want %d used and nothing held of the limit, got %+v, %v", account, op.spent, seen, err)
				}
				if p := seen.Pools[0]; p.Held != 0 || p.Spent != op.spent {
					t.Errorf("%s: want %d spent and nothing held of the pool, got %+v", account, op.spent, p)
				}
			}
		}
	}
}
