package store_test

import (
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/balance"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
)

func benchStore(b *testing.B) *store.Store {
	b.Helper()
	client, prefix := testenv.Redis(b)
	s, err := store.New(store.Config{URL: "redis://" + client.Options().Addr, Prefix: prefix, Lifetime: time.Minute,
		SettledKept: time.Minute, Timeout: 5 * time.Second})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	return s
}

// BenchmarkHold is a hold of a token and a request bucket, by this many callers at
// once over 10 000 accounts. ops/s is holds per second on one Redis.
func BenchmarkHold(b *testing.B) {
	for _, callers := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) { benchHold(b, callers, store.PoolNone, store.Watch{}) })
	}
	// The same with the account's pool beside its buckets, and by a process that knows since when the
	// server's data is whole, as where the books can be asked: run by run, so that all meet the same noise.
	for round := range 3 {
		b.Run(fmt.Sprintf("limits/%d", round), func(b *testing.B) { benchHold(b, 8, store.PoolNone, store.Watch{}) })
		b.Run(fmt.Sprintf("pool/%d", round), func(b *testing.B) { benchHold(b, 8, store.PoolIfPresent, store.Watch{}) })
		b.Run(fmt.Sprintf("watched/%d", round), func(b *testing.B) { benchHold(b, 8, store.PoolNone, store.Watch{On: true}) })
	}
}

func benchHold(b *testing.B, callers int, part store.PoolPart, watch store.Watch) {
	b.Helper()
	s := benchStore(b)
	if _, err := s.SetBegin(b.Context(), watch.Begin, false); err != nil {
		b.Fatal(err)
	}
	client, _ := testenv.Redis(b)
	if part != store.PoolNone {
		for n := range 10000 {
			state := balance.State{Account: "user:7b0c1f2e-0a51-4d8c-9a37-" + strconv.Itoa(n), Provider: "openai", Present: true, Version: 1,
				Credits: 1e15}
			if _, err := s.SetBalance(b.Context(), state); err != nil {
				b.Fatal(err)
			}
		}
	}
	tokens := bucket.NewLimit(bucket.Tokens, bucket.Params{Capacity: 1e12, Rate: 0.01})
	requests := bucket.NewLimit(bucket.Requests, bucket.Params{Capacity: 1e12, Rate: 0.0001})
	facts := make([]byte, 180)
	var serial atomic.Int64
	b.ReportAllocs()
	b.SetParallelism(max(1, callers/2))
	began, busy := time.Now(), serverCPU(b, client)
	if err := client.ConfigResetStat(b.Context()).Err(); err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			n := serial.Add(1)
			account := "user:7b0c1f2e-0a51-4d8c-9a37-" + strconv.FormatInt(n%10000, 10)
			take := store.Take{Account: account, ID: "3d9c0f7a-33a1-4ba1-8a26-" + strconv.FormatInt(n, 10), Requests: 1, Input: 1000, Output: 256,
				Facts: facts, Pool: part, Provider: "openai", Watch: watch,
				Buckets: []bucket.Bucket{{Limit: tokens, Key: "{" + account + "}:b:count_tokens.user_x"}, {Limit: requests, Key: "{" + account +
					"}:b:count_requests.user_x"}}}
			if t, err := s.Hold(b.Context(), take); err != nil || t.Outcome != store.Admitted {
				b.Errorf("%v %v", t, err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/time.Since(began).Seconds(), "holds/s")
	b.ReportMetric((serverCPU(b, client)-busy)*1e6/float64(b.N), "redis-cpu-µs/hold")
	info, err := client.Info(b.Context(), "commandstats").Result()
	if err != nil {
		b.Fatal(err)
	}
	_, after, _ := strings.Cut(info, "cmdstat_evalsha:")
	_, after, _ = strings.Cut(after, "usec_per_call=")
	text, _, _ := strings.Cut(after, ",")
	if perCall, err := strconv.ParseFloat(text, 64); err == nil {
		b.ReportMetric(perCall, "redis-µs/hold")
	}
}

// serverCPU is what the server's only thread has taken of a core so far, in seconds. Unlike
// redis-µs/hold it counts what the server reads and writes, and not what others take of the machine.
func serverCPU(tb testing.TB, client *redis.Client) float64 {
	tb.Helper()
	info, err := client.Info(tb.Context(), "cpu").Result()
	if err != nil {
		tb.Fatal(err)
	}
	sum := 0.0
	for line := range strings.Lines(info) {
		name, text, _ := strings.Cut(strings.TrimSpace(line), ":")
		if name == "used_cpu_user_main_thread" || name == "used_cpu_sys_main_thread" {
			seconds, err := strconv.ParseFloat(text, 64)
			if err != nil {
				tb.Fatal(err)
			}
			sum += seconds
		}
	}
	if sum == 0 {
		tb.Fatal("the server does not tell its processor time")
	}
	return sum
}

// BenchmarkSettle is a batch of 100 settlements in one round trip.
func BenchmarkSettle(b *testing.B) {
	s := benchStore(b)
	tokens := bucket.NewLimit(bucket.Tokens, bucket.Params{Capacity: 1e12, Rate: 0.01})
	var n int
	for b.Loop() {
		b.StopTimer()
		batch := make([]store.Settlement, 100)
		for i := range batch {
			n++
			batch[i] = store.Settlement{Account: "user:1", ID: strconv.Itoa(n), Charged: 100}
			take := store.Take{Account: "user:1", ID: batch[i].ID, Input: 100, Output: 256,
				Buckets: []bucket.Bucket{{Limit: tokens, Key: "{user:1}:b:x"}}}
			if _, err := s.Hold(b.Context(), take); err != nil {
				b.Fatal(err)
			}
		}
		b.StartTimer()
		if _, err := s.Settle(b.Context(), batch); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "settles/s")
}
