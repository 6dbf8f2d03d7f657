package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"

	common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/leaky-tokens/leaky-tokens/bench/internal/proc"
)

const (
	connections = 4
	accounts    = 10_000 // that callers ask for
	method      = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
)

// system is one server under measurement.
type system struct {
	name       string
	addr       string
	pid, redis int
	conns      []*grpc.ClientConn
}

func (s *system) connect() error {
	for range connections {
		conn, err := grpc.NewClient(s.addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.ForceCodecV2(raw{})))
		if err != nil {
			return err
		}
		s.conns = append(s.conns, conn)
	}
	return nil
}

func (s *system) cpu() (map[string]time.Duration, error) {
	return proc.CPU(map[string][]int{"server": {s.pid}, "redis": {s.redis}})
}

func (s *system) close() {
	for _, conn := range s.conns {
		conn.Close()
	}
}

// raw sends and receives encoded messages: callers should not cost what servers do.
type raw struct{}

var _ encoding.CodecV2 = raw{}

// Marshal implements encoding.CodecV2.
func (raw) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*v.(*[]byte))}, nil
}

// Unmarshal implements encoding.CodecV2.
func (raw) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

// Name implements encoding.CodecV2.
func (raw) Name() string { return "proto" }

// request is the nth account's request with so many descriptors.
func request(n, descriptors int) []byte {
	user := fmt.Sprintf("7b0c1f2e-0a51-4d8c-9a37-%012d", n)
	all := [][]string{{"user", user}, {"user", user, "route", "openai-chat"}, {"key", "k" + user},
		{"remote_address", "10.0." + strconv.Itoa(n>>8) + "." + strconv.Itoa(n&255)}}
	r := &rls.RateLimitRequest{Domain: "leaky"}
	for _, pairs := range all[:descriptors] {
		d := &common.RateLimitDescriptor{Entries: []*common.RateLimitDescriptor_Entry{{Key: "count", Value: "requests"}}}
		for i := 0; i < len(pairs); i += 2 {
			d.Entries = append(d.Entries, &common.RateLimitDescriptor_Entry{Key: pairs[i], Value: pairs[i+1]})
		}
		r.Descriptors = append(r.Descriptors, d)
	}
	wire, err := proto.Marshal(r)
	if err != nil {
		panic(err) // text that is no UTF-8
	}
	return wire
}

// sample is one measurement.
type sample struct {
	calls   int
	elapsed time.Duration
	cpu     [2]time.Duration // of the server and of Redis
	latency []time.Duration  // sorted
}

func (s sample) rate() float64      { return float64(s.calls) / s.elapsed.Seconds() }
func (s sample) serverCPU() float64 { return float64(s.cpu[0].Microseconds()) / float64(s.calls) }
func (s sample) redisCPU() float64  { return float64(s.cpu[1].Microseconds()) / float64(s.calls) }
func (s sample) p99() float64       { return s.at(0.99) }
func (s sample) p50() float64       { return s.at(0.5) }

func (s sample) at(q float64) float64 {
	if len(s.latency) == 0 {
		return 0
	}
	return float64(s.latency[min(len(s.latency)-1, int(q*float64(len(s.latency))))].Microseconds())
}

// measure drives the system for the window: as fast as it answers when perSecond is 0,
// else by a timetable, where a call that had to wait for its turn counts from when it was due.
func (s *system) measure(ctx context.Context, wires [][]byte, o options, perSecond float64) (sample, error) {
	before, err := s.cpu()
	if err != nil {
		return sample{}, err
	}
	var (
		mu      sync.Mutex
		out     sample
		failure error
		wg      sync.WaitGroup
	)
	begin := time.Now()
	for i := range o.clients {
		wg.Go(func() {
			c := caller{conn: s.conns[i%connections], wires: wires, random: rand.New(rand.NewPCG(uint64(i), uint64(begin.UnixNano())))}
			if perSecond > 0 {
				c.every = time.Duration(float64(o.clients) / perSecond * float64(time.Second))
			}
			latency, err := c.run(ctx, begin.Add(o.window))
			mu.Lock()
			defer mu.Unlock()
			out.latency = append(out.latency, latency...)
			if failure == nil {
				failure = err
			}
		})
	}
	wg.Wait()
	out.elapsed, out.calls = time.Since(begin), len(out.latency)
	after, err := s.cpu()
	if err := errors.Join(failure, err); err != nil {
		return sample{}, fmt.Errorf("%s: %w", s.name, err)
	}
	out.cpu = [2]time.Duration{after["server"] - before["server"], after["redis"] - before["redis"]}
	slices.Sort(out.latency)
	return out, nil
}

// caller is one of those who ask at the same time.
type caller struct {
	conn   *grpc.ClientConn
	wires  [][]byte
	random *rand.Rand
	every  time.Duration // of the timetable; 0: at once
}

func (c caller) run(ctx context.Context, end time.Time) ([]time.Duration, error) {
	latency := make([]time.Duration, 0, 1<<14)
	due := time.Now()
	if c.every > 0 {
		due = due.Add(time.Duration(c.random.Int64N(int64(c.every))))
	}
	for {
		now := time.Now()
		start := now
		if c.every > 0 {
			if wait := due.Sub(now); wait > 0 {
				time.Sleep(wait)   //nolint:forbidigo // an open loop sends on time, and a timer costs more
				start = time.Now() // late waking is the caller's fault
			} else {
				start = due // waiting for the answer before is the server's
			}
			due = due.Add(c.every)
		}
		if start.After(end) || ctx.Err() != nil {
			return latency, ctx.Err()
		}
		var answer []byte
		if err := c.conn.Invoke(ctx, method, &c.wires[c.random.IntN(len(c.wires))], &answer); err != nil {
			return latency, err
		}
		// overall_code, the first field, is OK (1). A refusal is not the work to measure.
		if len(answer) < 2 || answer[0] != 8 || answer[1] != 1 {
			return latency, fmt.Errorf("answer %x is not OK", answer[:min(len(answer), 16)])
		}
		latency = append(latency, time.Since(start))
	}
}
