package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/leaky-tokens/leaky-tokens/bench/internal/proc"
)

// shape is one kind of request and what a good answer to it looks like.
type shape struct {
	name    string
	body    []byte
	header  map[string]string
	chunks  int  // "data:" lines of a good answer; 0: JSON
	clients int  // 0: as the options say
	felt    bool // report first byte and gaps instead of CPU
}

func chat(stream bool, tokens, promptBytes int) []byte {
	prompt := fmt.Sprintf("[[tokens=%d]]", tokens)
	prompt += strings.Repeat("x", promptBytes-len(prompt))
	return fmt.Appendf(nil, `{"model":"gpt-4o-mini","stream":%t,"messages":[{"role":"user","content":"%s"}]}`, stream, prompt)
}

// jsonShape is a 4 kB prompt with a short answer; max_tokens is not stated, so that the
// chain has to splice it in.
func jsonShape() shape { return shape{name: "JSON 4 kB", body: chat(false, 20, 4096)} }

// burstShape is a stream of so many chunks as fast as the stub writes them: many arrive in one read.
func burstShape(chunks int) shape {
	return shape{name: fmt.Sprintf("SSE %d, burst", chunks), body: chat(true, chunks, 4096), chunks: chunks}
}

// streamShape is a stream of 200 chunks as a provider sends them, one by one.
func streamShape() shape {
	return shape{name: "SSE 200, one by one", body: chat(true, 200, 4096), chunks: 200, clients: 64,
		header: map[string]string{"x-stub-chunk-delay-ms": "5"}}
}

// feltShape is what one reader feels of a provider that thinks for 200 ms and then sends
// a chunk every 5 ms: few clients, so that nobody waits for a core.
func feltShape() shape {
	return shape{name: "SSE felt", body: chat(true, 50, 4096), chunks: 50, clients: 4, felt: true,
		header: map[string]string{"x-stub-delay-ms": "200", "x-stub-chunk-delay-ms": "5"}}
}

// sample is one measurement.
type sample struct {
	requests  int
	elapsed   time.Duration
	cpu       map[string]time.Duration // by part
	latency   []time.Duration          // sorted
	firstByte []time.Duration          // sorted
	gaps      []time.Duration          // sorted, between chunks
}

func (s sample) rate() float64 { return float64(s.requests) / s.elapsed.Seconds() }

func (s sample) cpuPerRequest() float64 { return s.cpuOf(func(string) bool { return true }) }

// cpuOf is CPU microseconds per request of the parts that count.
func (s sample) cpuOf(counts func(part string) bool) float64 {
	var sum time.Duration
	for part, spent := range s.cpu {
		if counts(part) {
			sum += spent
		}
	}
	return float64(sum.Microseconds()) / float64(s.requests)
}

// measure drives one system with one shape for the window, closed loop. Any answer that
// is not a whole 200 fails the run: a throughput of errors is no throughput.
func measure(ctx context.Context, s system, sh shape, o options) (sample, error) {
	clients := o.clients
	if sh.clients > 0 {
		clients = sh.clients
	}
	transport := &http.Transport{MaxIdleConnsPerHost: clients, DisableCompression: true}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: 30 * time.Second}
	// Connections and caches are warm before the clock starts: one call each.
	if _, err := drive(ctx, client, s, sh, clients, 0); err != nil {
		return sample{}, err
	}
	before, err := proc.CPU(s.pids)
	if err != nil {
		return sample{}, err
	}
	got, err := drive(ctx, client, s, sh, clients, o.window)
	if err != nil {
		return sample{}, err
	}
	after, err := proc.CPU(s.pids)
	if err != nil {
		return sample{}, err
	}
	got.cpu = map[string]time.Duration{}
	for part := range after {
		got.cpu[part] = after[part] - before[part]
	}
	slices.Sort(got.latency)
	slices.Sort(got.firstByte)
	slices.Sort(got.gaps)
	return got, nil
}

func drive(ctx context.Context, client *http.Client, s system, sh shape, clients int, window time.Duration) (sample, error) {
	var mu sync.Mutex
	var all sample
	var failure error
	begin := time.Now()
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			var mine sample
			var err error
			for again := true; err == nil && again; again = time.Since(begin) < window {
				var took, first time.Duration
				var gaps []time.Duration
				if took, first, gaps, err = one(ctx, client, s, sh); err == nil {
					mine.requests++
					mine.latency = append(mine.latency, took)
					mine.firstByte = append(mine.firstByte, first)
					mine.gaps = append(mine.gaps, gaps...)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			failure = errors.Join(failure, err)
			all.requests += mine.requests
			all.latency = append(all.latency, mine.latency...)
			all.firstByte = append(all.firstByte, mine.firstByte...)
			all.gaps = append(all.gaps, mine.gaps...)
		})
	}
	wg.Wait()
	all.elapsed = time.Since(begin)
	return all, failure
}

// one sends a request and checks its whole answer.
func one(ctx context.Context, client *http.Client, s system, sh shape) (took, first time.Duration, gaps []time.Duration, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url+"/v1/chat/completions", bytes.NewReader(sh.body))
	if err != nil {
		return 0, 0, nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+s.key)
	for name, value := range sh.header {
		req.Header.Set(name, value)
	}
	begin := time.Now()
	res, err := client.Do(req)
	if err != nil {
		return 0, 0, nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 500))
		return 0, 0, nil, fmt.Errorf("answered %d: %s", res.StatusCode, text)
	}
	if sh.chunks == 0 {
		first = time.Since(begin)
		text, err := io.ReadAll(res.Body)
		if err == nil && !bytes.Contains(text, []byte(`"usage"`)) {
			err = fmt.Errorf("answer without usage: %.200s", text)
		}
		return time.Since(begin), first, nil, err
	}
	first, gaps, err = readChunks(bufio.NewReaderSize(res.Body, 64<<10), begin, sh)
	return time.Since(begin), first, gaps, err
}

// readChunks reads a stream to its end and times its chunks; gaps only matter, and are
// only kept, where the stub paces them.
func readChunks(r *bufio.Reader, begin time.Time, sh shape) (first time.Duration, gaps []time.Duration, err error) {
	var last time.Time
	seen := 0
	for {
		line, err := r.ReadSlice('\n')
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return 0, nil, err
		}
		if !bytes.HasPrefix(line, []byte("data:")) {
			continue
		}
		now := time.Now()
		if seen == 0 {
			first = now.Sub(begin)
		} else if sh.felt {
			gaps = append(gaps, now.Sub(last))
		}
		last = now
		seen++
	}
	if seen < sh.chunks {
		return 0, nil, fmt.Errorf("a stream of %d chunks, at least %d expected", seen, sh.chunks)
	}
	return first, gaps, nil
}
