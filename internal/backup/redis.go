package backup

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/leaky-tokens/leaky-tokens/internal/redisconn"
)

const (
	redisFile  = "redis.jsonl.gz"
	scanned    = 500 // keys at once
	redisWait  = 10 * time.Second
	redisTries = 3
)

// entry is a line of Redis' file: a key's value as DUMP gives it.
type entry struct {
	Key     []byte `json:"key"`
	Value   []byte `json:"value"`
	Expires int64  `json:"expires,omitempty"` // ms since 1970
}

func openRedis(c Config) (redis.UniversalClient, error) {
	redisconn.SetLogger(c.Log)
	client, _, err := redisconn.Dial(redisconn.Config{URL: c.Redis, DialTimeout: redisWait, Timeout: redisWait, Retries: redisTries})
	return client, err
}

// pool reports whether a key is the state of a pool, which Redis asks for anew.
func pool(key string) bool {
	_, name, found := strings.Cut(key, "}:")
	return found && strings.HasPrefix(name, "p:")
}

// copyRedis copies levels of limits, holds and counters of the whole database.
func copyRedis(ctx context.Context, c Config, to *writer, _ *Manifest) error {
	client, err := openRedis(c)
	if err != nil {
		return err
	}
	defer client.Close()
	return to.file(redisFile, func(w io.Writer) (rows int64, err error) {
		var mu sync.Mutex // servers of a cluster are asked side by side
		out := json.NewEncoder(w)
		err = eachServer(ctx, client, func(ctx context.Context, server *redis.Client) error {
			return eachBatch(ctx, server, func(keys []string) error {
				found, err := dump(ctx, server, keys)
				if err != nil {
					return err
				}
				mu.Lock()
				defer mu.Unlock()
				for _, one := range found {
					if err := out.Encode(one); err != nil {
						return err
					}
					rows++
				}
				return nil
			})
		})
		return rows, err
	})
}

func eachServer(ctx context.Context, client redis.UniversalClient, do func(context.Context, *redis.Client) error) error {
	switch at := client.(type) {
	case *redis.ClusterClient:
		return at.ForEachMaster(ctx, do)
	case *redis.Client:
		return do(ctx, at)
	}
	return fmt.Errorf("a client of kind %T cannot be copied", client)
}

func eachBatch(ctx context.Context, server *redis.Client, do func(keys []string) error) error {
	for cursor := uint64(0); ; {
		keys, next, err := server.Scan(ctx, cursor, "*", scanned).Result()
		if err != nil {
			return fmt.Errorf("list keys: %w", err)
		}
		if err := do(keys); err != nil {
			return err
		}
		if cursor = next; cursor == 0 {
			return nil
		}
	}
}

// dump reads keys; one that is gone by now is left out.
func dump(ctx context.Context, server *redis.Client, keys []string) ([]entry, error) {
	values, lives := make([]*redis.StringCmd, len(keys)), make([]*redis.DurationCmd, len(keys))
	if len(keys) == 0 {
		return nil, nil
	}
	_, err := server.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, key := range keys {
			values[i], lives[i] = p.Dump(ctx, key), p.PExpireTime(ctx, key)
		}
		return nil
	})
	if err != nil && !errors.Is(err, redis.Nil) {
		return nil, fmt.Errorf("read keys: %w", err)
	}
	var found []entry
	for i, key := range keys {
		value, err := values[i].Bytes()
		if errors.Is(err, redis.Nil) || pool(key) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read keys: %w", err)
		}
		one := entry{Key: []byte(key), Value: value}
		if until := lives[i].Val(); until > 0 {
			one.Expires = until.Milliseconds()
		}
		found = append(found, one)
	}
	return found, nil
}

// fillRedis writes what has not expired since, many keys a round trip.
func fillRedis(ctx context.Context, c Config, from *reader) error {
	client, err := openRedis(c)
	if err != nil {
		return err
	}
	defer client.Close()
	return from.file(redisFile, func(r io.Reader) error {
		in, batch := json.NewDecoder(bufio.NewReader(r)), client.Pipeline()
		for end := false; !end; {
			var one entry
			err := in.Decode(&one)
			if end = errors.Is(err, io.EOF); !end && err != nil {
				return fmt.Errorf("read key: %w", err)
			}
			if life, alive := one.life(time.Now()); !end && alive {
				batch.Restore(ctx, string(one.Key), life, string(one.Value))
			}
			if batch.Len() == scanned || end && batch.Len() > 0 {
				if _, err := batch.Exec(ctx); err != nil {
					return fmt.Errorf("write keys: %w", err)
				}
			}
		}
		return nil
	})
}

// life is how long a key has from now on, 0 for ever; false: it has expired.
func (e entry) life(now time.Time) (time.Duration, bool) {
	if e.Expires == 0 {
		return 0, true
	}
	life := time.UnixMilli(e.Expires).Sub(now)
	return life, life >= time.Millisecond
}

func emptyRedis(ctx context.Context, c Config) error {
	client, err := openRedis(c)
	if err != nil {
		return err
	}
	defer client.Close()
	return eachServer(ctx, client, func(ctx context.Context, server *redis.Client) error {
		keys, err := server.DBSize(ctx).Result()
		if err != nil {
			return fmt.Errorf("look at Redis: %w", err)
		}
		if keys > 0 {
			return errors.New("the database of Redis has keys; a restore goes into an empty one (FLUSHDB)")
		}
		return nil
	})
}
