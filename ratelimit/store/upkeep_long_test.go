//go:build long

package store

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
)

// upkeep is a store that holds and settles calls, and what of its server that takes.
type upkeep struct {
	t      *testing.T
	store  *Store
	client *redis.Client
	clock  *atomic.Int64
	serial int
}

func newUpkeep(t *testing.T, server *testenv.RedisProcess, prefix string) *upkeep {
	t.Helper()
	clock := &atomic.Int64{}
	clock.Store(1_790_000_000_000_000)
	s, err := New(Config{URL: server.URL(), Prefix: prefix, Lifetime: 10 * time.Minute, SettledKept: 10 * time.Minute, Timeout: time.Minute,
		DialTimeout: time.Minute, Now: clock.Load})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return &upkeep{t: t, store: s, client: server.Client(), clock: clock}
}

// calls are the next so many, of 10 000 accounts.
func (u *upkeep) calls(n int) []Take {
	limit := bucket.NewLimit(bucket.Tokens, bucket.Params{Capacity: 1e12, Rate: 1e-3})
	all := make([]Take, n)
	for i := range all {
		u.serial++
		account := "user:7b0c1f2e-0a51-4d8c-9a37-" + strconv.Itoa(u.serial%10_000)
		all[i] = Take{Account: account, ID: fmt.Sprintf("3d9c0f7a-33a1-4ba1-8a26-%012d", u.serial), Input: 10, Facts: make([]byte, 180),
			Buckets: []bucket.Bucket{{Limit: limit, Key: "{" + account + "}:b:count_tokens.user_x"}}}
	}
	return all
}

// upkeepBatch is how many calls are decided or settled in one round trip.
const upkeepBatch = 100

func (u *upkeep) hold(all []Take) {
	u.t.Helper()
	for some := range slices.Chunk(all, upkeepBatch) {
		taken, err := u.store.HoldAll(u.t.Context(), some)
		if err != nil {
			u.t.Fatal(err)
		}
		for i := range taken {
			if taken[i].Err != nil || taken[i].Outcome != Admitted {
				u.t.Fatalf("hold: %+v", taken[i])
			}
		}
	}
}

// settle ends calls, remembered or not.
func (u *upkeep) settle(all []Take, remember bool) {
	u.t.Helper()
	for some := range slices.Chunk(all, upkeepBatch) {
		if remember {
			batch := make([]Settlement, len(some))
			for i := range some {
				batch[i] = Settlement{Account: some[i].Account, ID: some[i].ID, Charged: 7}
			}
			if _, err := u.store.Settle(u.t.Context(), batch); err != nil {
				u.t.Fatal(err)
			}
			continue
		}
		calls := make([][]any, len(some))
		for i := range some {
			calls[i] = u.store.settleArgs(some[i].Account, some[i].ID, 7, 0)
			u.store.ended(some[i].Account, some[i].ID)
		}
		if _, err := u.store.runAll(u.t.Context(), u.store.settle, calls); err != nil {
			u.t.Fatal(err)
		}
	}
}

// took is what the server's thread took of a core while f ran.
func (u *upkeep) took(f func()) time.Duration {
	u.t.Helper()
	cpu := func() (sum float64) {
		info, err := u.client.Info(u.t.Context(), "cpu").Result()
		if err != nil {
			u.t.Fatal(err)
		}
		for line := range strings.Lines(info) {
			name, text, _ := strings.Cut(strings.TrimSpace(line), ":")
			if name == "used_cpu_user_main_thread" || name == "used_cpu_sys_main_thread" {
				seconds, err := strconv.ParseFloat(text, 64)
				if err != nil {
					u.t.Fatal(err)
				}
				sum += seconds
			}
		}
		return sum
	}
	before := cpu()
	f()
	return time.Duration((cpu() - before) * float64(time.Second))
}

// quiet is what a call takes of a core without upkeep where the machine does nothing else. Where it does,
// everything takes longer, and the test reckons with that.
const quiet = 30 * time.Microsecond

// remember writes a memory of so many calls, as settling them would in ten minutes.
func (u *upkeep) remember(calls int) {
	u.t.Helper()
	second := uint32(u.clock.Load() / 1_000_000)
	pipe := u.client.Pipeline()
	keys := 1 << u.store.memoryBits
	for key := range keys {
		var memory []byte
		for i := range calls / keys {
			memory = binary.LittleEndian.AppendUint64(memory, uint64(key*calls+i)*0x9e3779b97f4a7c15)
			memory = binary.LittleEndian.AppendUint32(append(memory, 1, 2), second)
			memory = append(memory, make([]byte, entryBytes-printBytes-4)...)
		}
		pipe.Set(u.t.Context(), u.store.config.Prefix+"s:"+strconv.FormatUint(uint64(key), 16), memory, 10*time.Minute)
		if pipe.Len() == 1000 || key == keys-1 {
			if _, err := pipe.Exec(u.t.Context()); err != nil {
				u.t.Fatal(err)
			}
		}
	}
}

// TestUpkeepTakesFewPercentOfACore says what of a core it takes at 1700 calls a second that last five: the
// memory of a million settled calls, the index and the sweeps, as the difference to calls that are
// forgotten at once and that no sweep looks for. It says too what a count of what is held takes. The aim
// is 2 %; it fails at twice that, since a machine with other work shows more.
func TestUpkeepTakesFewPercentOfACore(t *testing.T) {
	t.Parallel()
	const rate, lasts, every, rounds, calls = 1700, 5, 30, 10, 10_000
	server := testenv.RedisServer(t)
	if err := server.Client().ConfigSet(t.Context(), "appendonly", "no").Err(); err != nil { // the disk is not measured
		t.Fatal(err)
	}
	kept, bare := newUpkeep(t, server, "kept:"), newUpkeep(t, server, "bare:")
	kept.remember(1_000_000)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	go kept.store.KeepIndex(ctx)
	indexed := func(n int64) {
		testenv.Eventually(t, "the index is written", func() bool {
			have, err := kept.client.ZCard(t.Context(), kept.store.indexKey()).Result()
			return err == nil && have == n
		})
	}
	var full, less []time.Duration
	for range rounds {
		less = append(less, bare.took(func() {
			some := bare.calls(calls)
			bare.hold(some)
			bare.settle(some, false)
		}))
		full = append(full, kept.took(func() {
			some := kept.calls(calls)
			kept.hold(some)
			indexed(calls)
			kept.settle(some, true)
			indexed(0)
		}))
		kept.clock.Add((6 * time.Second).Microseconds())
	}
	perCall := (slices.Min(full) - slices.Min(less)) / calls // whatever else the machine does only adds

	kept.hold(kept.calls(rate * lasts))
	indexed(rate * lasts)
	sweep := func() {
		if _, err := kept.store.Sweep(t.Context(), func(Hold) error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	scan := kept.took(sweep) // the first walks over all keys
	var sweeps []time.Duration
	for range rounds {
		sweeps = append(sweeps, kept.took(sweep))
	}
	count := kept.took(func() {
		if _, _, err := kept.store.Recount(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	share := float64(perCall*rate+slices.Min(sweeps)/every) / float64(time.Second)
	share /= max(1, float64(slices.Min(less)/calls)/float64(quiet))
	keys, err := kept.client.DBSize(t.Context()).Result()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("a call takes %v with upkeep and %v without", slices.Min(full)/calls, slices.Min(less)/calls)
	t.Logf("%v for a call, %v for a sweep of %d, %v for one of all of %d keys, %v for a count of what is held: %.2f %% of a core", perCall,
		slices.Min(sweeps), rate*lasts, scan, keys, count, 100*share)
	if share > 0.04 {
		t.Errorf("want 4 %% of a core at most, got %.2f %%", 100*share)
	}
}
