package chaos

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/leaky-tokens/leaky-tokens/internal/local/supervisor"
	"github.com/leaky-tokens/leaky-tokens/internal/retry"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/stacktest"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// world is what faults happen to.
type world struct {
	*stacktest.Stack
	redis *redis.Client
	disks bool              // each store has a small one
	clock *testenv.Clock    // of Redis
	since time.Time         // no event is older, not even by a clock that is behind
	whole map[string]string // the files as they should be, by their names here

	unknown map[string]bool // calls that nobody of us knows of, by their ids

	mu      sync.Mutex
	evicted map[string]int64 // keys that Redis evicted, and how often
}

const (
	appendOnly = "appendonlydir" // of Valkey's folder
	keptOlder  = "older"         // beside it: what it was
	replaced   = "replaced"      // and what somebody took it for

	limitKeys  = "}:b:" // in the key of a limit in Redis
	limitBytes = 40     // that it has, or more
	holdKeys   = "}:h:" // in that of a hold
)

// paths of the files that are cut.
func (w *world) path(name string) string { return filepath.Join(filepath.Dir(w.Config), name) }

// remember takes the copy that Redis may come back with.
func (w *world) remember() error {
	dir := filepath.Join(w.Dir, topology.Redis)
	return errors.Join(os.RemoveAll(filepath.Join(dir, keptOlder)), copied(filepath.Join(dir, appendOnly), filepath.Join(dir, keptOlder)))
}

// inflict makes a fault, and gives what lifts it. Nothing else heals what it did.
func (w *world) inflict(ctx context.Context, f fault) (lift func(context.Context) error, err error) {
	nothing := func(context.Context) error { return nil }
	switch {
	case f.kind == full && w.disks:
		dir := filepath.Join(w.Dir, f.on)
		return func(context.Context) error { return clear(dir) }, fill(dir)
	case f.kind == full && f.on == spool:
		return w.freeze(ctx, topology.Meter)
	case f.kind == full, f.kind == frozen:
		return w.freeze(ctx, f.on)
	case f.kind == killed:
		return nothing, w.kill(ctx, f.on)
	case f.kind == emptied, f.kind == cut:
		content := ""
		if f.kind == cut {
			content = w.whole[f.on][:len(w.whole[f.on])/2]
		}
		mend := func(context.Context) error { return os.WriteFile(w.path(f.on), []byte(w.whole[f.on]), 0o644) }
		return mend, os.WriteFile(w.path(f.on), []byte(content), 0o644)
	}
	return w.ofRedis(ctx, f.kind)
}

// ofRedis are the faults that only Redis has.
func (w *world) ofRedis(ctx context.Context, what kind) (lift func(context.Context) error, err error) {
	nothing := func(context.Context) error { return nil }
	room := func(ctx context.Context) error {
		return errors.Join(w.redis.ConfigSet(ctx, "maxmemory", "0").Err(), w.redis.ConfigSet(ctx, "maxmemory-policy", "noeviction").Err())
	}
	switch what {
	case older, empty:
		return nothing, w.replaceRedis(ctx, what)
	case fast, slow, slower:
		right := func(ctx context.Context) error { return w.moveClock(ctx, 0) }
		return right, w.moveClock(ctx, map[kind]time.Duration{fast: time.Hour, slow: -45 * time.Second, slower: -5 * time.Minute}[what])
	}
	if err := w.redisAnswers(ctx); err != nil {
		return nil, err
	}
	switch what {
	case evicts:
		used, err := w.used(ctx)
		return room, errors.Join(err, w.redis.ConfigSet(ctx, "notify-keyspace-events", "Ee").Err(), w.redis.ConfigSet(ctx, "maxmemory-policy", "allkeys-random").Err(),
			w.redis.ConfigSet(ctx, "maxmemory", strconv.Itoa(used-16<<10)).Err())
	case starved:
		return room, w.redis.ConfigSet(ctx, "maxmemory", "1mb").Err()
	case demoted: // of a master that is not there
		promote := func(ctx context.Context) error { return w.redis.Do(ctx, "REPLICAOF", "NO", "ONE").Err() }
		return promote, w.redis.Do(ctx, "REPLICAOF", "127.0.0.1", "1").Err()
	case ahead:
		return nothing, w.stampAhead(ctx, 24*time.Hour)
	}
	return nil, fmt.Errorf("nobody knows how redis %s", what)
}

// redisAnswers waits until it does: it may still be on its way up after the fault before.
func (w *world) redisAnswers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, mends)
	defer cancel()
	return retry.Policy{First: 100 * time.Millisecond}.Do(ctx, func(ctx context.Context) error { return w.redis.Ping(ctx).Err() }, nil)
}

// watchEvictions notes what Redis evicts until ctx ends. While it evicts it may take the same key again
// and again.
func (w *world) watchEvictions(ctx context.Context) error {
	heard := w.redis.PSubscribe(ctx, "__keyevent@*__:evicted")
	if _, err := heard.Receive(ctx); err != nil {
		return err
	}
	go func() {
		defer heard.Close()
		for keys := heard.Channel(); ; {
			select {
			case <-ctx.Done():
				return
			case key, open := <-keys:
				if !open {
					return
				}
				w.mu.Lock()
				w.evicted[key.Payload]++
				w.mu.Unlock()
			}
		}
	}()
	return nil
}

// lost is the most that a limit of an account does not count because of what was evicted, in tokens: all
// that was in it, or a call whose hold is gone.
func (w *world) lost(account string, burst, call int64) (tokens int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for key, times := range w.evicted {
		switch {
		case !strings.Contains(key, account):
		case strings.Contains(key, limitKeys):
			tokens += times * burst
		case strings.Contains(key, holdKeys):
			tokens += times * call
		}
	}
	return tokens
}

// moveClock moves Redis' clock, and looks whether it did where Redis answers.
func (w *world) moveClock(ctx context.Context, ahead time.Duration) error {
	const looks, pause, apart = 20, 50 * time.Millisecond, 20 * time.Second
	if err := w.clock.Set(ahead); err != nil {
		return err
	}
	for range looks {
		now, err := w.redis.Time(ctx).Result()
		if err != nil || time.Until(now.Add(-ahead)).Abs() < apart {
			return nil
		}
		<-time.After(pause)
	}
	return errors.New("redis' clock did not move")
}

// used is what Redis' data take, in bytes.
func (w *world) used(ctx context.Context) (int, error) {
	info, err := w.redis.InfoMap(ctx, "memory").Result()
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(info["Memory"]["used_memory"])
}

// replaceRedis puts other data below a Redis that runs, and kills it.
func (w *world) replaceRedis(ctx context.Context, what kind) error {
	dir := filepath.Join(w.Dir, topology.Redis)
	next := filepath.Join(dir, "next")
	if what == older {
		if err := copied(filepath.Join(dir, keptOlder), next); err != nil {
			return err
		}
	}
	if err := os.Rename(filepath.Join(dir, appendOnly), filepath.Join(dir, replaced)); err != nil {
		return err
	}
	if what == older {
		if err := os.Rename(next, filepath.Join(dir, appendOnly)); err != nil {
			return err
		}
	}
	return errors.Join(w.kill(ctx, topology.Redis), os.RemoveAll(filepath.Join(dir, replaced)))
}

// stampAhead sets the time of every bucket ahead. A bucket is three doubles, the third its time in
// microseconds, and what says its form.
func (w *world) stampAhead(ctx context.Context, by time.Duration) error {
	const at = 16
	keys := w.redis.Scan(ctx, 0, "*"+limitKeys+"*", 1000).Iterator()
	for keys.Next(ctx) {
		value, err := w.redis.Get(ctx, keys.Val()).Bytes()
		if err != nil || len(value) < limitBytes {
			continue // gone
		}
		stamp := double(value, at)
		if age := float64(time.Now().UnixMicro()) - stamp; math.Abs(age) > float64(time.Hour.Microseconds()) {
			continue // no time
		}
		binary.LittleEndian.PutUint64(value[at:], math.Float64bits(stamp+float64(by.Microseconds())))
		if err := w.redis.SetArgs(ctx, keys.Val(), value, redis.SetArgs{KeepTTL: true}).Err(); err != nil {
			return err
		}
	}
	return keys.Err()
}

// keysOf is what Redis has of an account, a key a line, with the doubles of limits in words.
func (w *world) keysOf(ctx context.Context, account string) string {
	var all strings.Builder
	keys := w.redis.Scan(ctx, 0, "*"+account+"*", 1000).Iterator()
	for keys.Next(ctx) {
		value, err := w.redis.Get(ctx, keys.Val()).Bytes()
		fmt.Fprintf(&all, "%s (%v): ", keys.Val(), w.redis.PTTL(ctx, keys.Val()).Val())
		switch {
		case err != nil:
			fmt.Fprintln(&all, err)
		case len(value) >= limitBytes && strings.Contains(keys.Val(), limitKeys):
			fmt.Fprintf(&all, "settled %.1f, held %.1f, at %v\n", double(value, 0), double(value, 8), time.UnixMicro(int64(double(value, 16))).UTC())
		default:
			fmt.Fprintf(&all, "%.60q\n", value)
		}
	}
	if err := keys.Err(); err != nil {
		fmt.Fprintln(&all, err)
	}
	return all.String()
}

func double(value []byte, at int) float64 {
	return math.Float64frombits(binary.LittleEndian.Uint64(value[at:]))
}

// kill ends a part, which may still be on its way up after the fault before.
func (w *world) kill(ctx context.Context, part string) error {
	ctx, cancel := context.WithTimeout(ctx, mends)
	defer cancel()
	return retry.Policy{First: 100 * time.Millisecond, Most: time.Second}.Do(ctx, func(ctx context.Context) error {
		out, err := w.Leaky(ctx, "kill", part)
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}, nil)
}

// freeze stops a part and every process that it has started.
func (w *world) freeze(ctx context.Context, part string) (thaw func(context.Context) error, err error) {
	out, err := w.Leaky(ctx, "ps", "-o", "json")
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	var parts []supervisor.Status
	if err := json.Unmarshal([]byte(out), &parts); err != nil {
		return nil, err
	}
	for _, p := range parts {
		if p.Name != part || p.PID == 0 {
			continue
		}
		all := stacktest.Family(p.PID)
		signal := func(s syscall.Signal) {
			for _, pid := range all {
				_ = syscall.Kill(pid, s) // gone meanwhile
			}
		}
		signal(syscall.SIGSTOP)
		return func(context.Context) error { signal(syscall.SIGCONT); return nil }, nil
	}
	return func(context.Context) error { return nil }, nil // it is just being started, which is fault enough
}
