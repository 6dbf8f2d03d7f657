package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
)

// batch is how many buckets go into one round trip.
const batch = 500

// weigh fills a bucket for each account through the store, as a request does, and
// divides what Redis' memory grew by: the whole cost of a bucket with its key, its expiry
// and its share of Redis' tables.
func weigh(ctx context.Context, w io.Writer, addr string, accounts int) error {
	client := redis.NewClient(&redis.Options{Addr: addr})
	defer client.Close()
	if err := client.Do(ctx, "FLUSHDB", "SYNC").Err(); err != nil { // else memory comes back while the buckets are filled
		return err
	}
	before, err := usedMemory(ctx, client)
	if err != nil {
		return err
	}
	if err := fill(ctx, addr, accounts); err != nil {
		return err
	}
	after, err := usedMemory(ctx, client)
	if err != nil {
		return err
	}
	keys, err := client.DBSize(ctx).Result()
	if err != nil {
		return err
	}
	key, err := client.RandomKey(ctx).Result()
	if err != nil {
		return err
	}
	one, err := client.MemoryUsage(ctx, key).Result()
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "\n%d accounts, one bucket each: %.1f MB in Redis, %.0f bytes for each idle bucket (MEMORY USAGE of one says %d, its key has %d)\n",
		keys, float64(after-before)/1e6, float64(after-before)/float64(keys), one, len(key))
	return nil
}

func fill(ctx context.Context, addr string, accounts int) error {
	fmt.Fprintf(os.Stderr, "filling the buckets of %d accounts ...\n", accounts)
	s, err := store.New(store.Config{URL: "redis://" + addr, Lifetime: time.Minute, SettledKept: time.Minute, Timeout: 10 * time.Second})
	if err != nil {
		return err
	}
	defer s.Close()
	// Drains in a day, so that all stand until they are weighed.
	limit := bucket.NewLimit(bucket.Requests, bucket.Params{Capacity: 1, Rate: 1 / (24 * time.Hour).Seconds() / 1e6})
	for n := 0; n < accounts; n += batch {
		takes := make([]store.Take, min(batch, accounts-n))
		for i := range takes {
			user := fmt.Sprintf("7b0c1f2e-0a51-4d8c-9a37-%012d", n+i)
			name := (&limits.Rule{}).AppendAccountKey(nil, "user:"+user, []limits.Entry{{Key: "count", Value: "requests"},
				{Key: "user", Value: user}})
			takes[i] = store.Take{Account: "user:" + user, Requests: 1, Buckets: []bucket.Bucket{{Limit: limit, Key: bucket.Key("user:"+user,
				false, name)}}}
		}
		if _, err := s.HoldAll(ctx, takes); err != nil {
			return err
		}
	}
	return nil
}

// usedMemory is what Redis uses without the buffers of its clients: those of the callers
// before shrink while the buckets are filled.
func usedMemory(ctx context.Context, client *redis.Client) (int64, error) {
	info, err := client.Info(ctx, "memory").Result()
	if err != nil {
		return 0, err
	}
	found := map[string]int64{}
	for line := range strings.Lines(info) {
		if name, text, ok := strings.Cut(strings.TrimSpace(line), ":"); ok && (name == "used_memory" || name == "mem_clients_normal") {
			if found[name], err = strconv.ParseInt(text, 10, 64); err != nil {
				return 0, fmt.Errorf("read %s: %w", line, err)
			}
		}
	}
	if len(found) != 2 {
		return 0, fmt.Errorf("redis tells no used_memory or mem_clients_normal")
	}
	return found["used_memory"] - found["mem_clients_normal"], nil
}
