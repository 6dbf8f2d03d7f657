//go:build long

package xds_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/leaky-tokens/leaky-tokens/envoy"
	"github.com/leaky-tokens/leaky-tokens/internal/config"
)

const (
	floodHeap    = 256 << 20       // bytes: envoy.max_heap of these tests
	floodProgram = 128 << 20       // what Envoy takes beside its heap's contents, generously
	floodCalls   = 400             // of the second caller, in the quiet and in each flood
	floodFactor  = 10              // most that their p99 may grow by
	floodWarm    = 2 * time.Second // until a flood does what it can
)

// TestASecondCallerInEachFlood prints what a caller notices of another's flood, and what Envoy takes.
// A flood has one sender, who sends as fast as Envoy answers: more of them take the processors of the
// machine that all of this runs on, and not Envoy's places.
//
//	go test -tags long ./xds -run TestASecondCallerInEachFlood -v
func TestASecondCallerInEachFlood(t *testing.T) {
	type flooding func(ctx context.Context, t *testing.T, g *gateway)
	for _, f := range []struct {
		name string
		run  flooding
	}{
		{"silent connections", func(ctx context.Context, _ *testing.T, g *gateway) { floodConnections(ctx, g.url) }},
		{"half a request's headers", slowHeaders},
		{"unfinished bodies of one caller", func(ctx context.Context, t *testing.T, g *gateway) { bodiesUntil(ctx, t, g, goodKey) }},
		{"unfinished bodies of many callers", func(ctx context.Context, t *testing.T, g *gateway) {
			for i := range 8 {
				go bodiesUntil(ctx, t, g, otherKey+strconv.Itoa(i))
			}
			<-ctx.Done()
		}},
		{"bodies of unknown callers", posting("Bearer bad", strings.Repeat("x", 4<<20))},
		{"bodies nested deeply", posting(goodKey, strings.Repeat("[", 1<<20))},
		{"paths that there are not", getting("/v1/nowhere", goodKey)},
		{"invalid keys", getting("/v1/models", "Bearer bad")},
		{"streams that are reset at once", resets},
	} {
		t.Run(f.name, func(t *testing.T) {
			g := startWith(t, func(g *gateway, c *config.Config) {
				g.bounds, c.Envoy.MaxHeap, c.Envoy.Connections = envoy.Bounds{Heap: floodHeap, Connections: 2000}, floodHeap, 2000
				c.Gateway.MaxBodyBytes = 4 << 20
			}, nil)
			g.served(t, 100)
			quiet, before := g.p99(t), g.resident(t)
			ctx, stop := context.WithCancel(t.Context())
			var running sync.WaitGroup
			running.Go(func() { f.run(ctx, t, g) })
			time.Sleep(floodWarm)
			loud, most := g.p99(t), g.resident(t)
			stop()
			running.Wait()
			fmt.Printf("%-36s p99 %8v quiet %8v in the flood, Envoy %4d MB before %4d MB in it\n", f.name,
				quiet.Round(10*time.Microsecond), loud.Round(10*time.Microsecond), before>>20, most>>20)
			if loud > floodFactor*quiet {
				t.Errorf("want p99 to grow %d times at most, got %v after %v", floodFactor, loud, quiet)
			}
			if most > floodHeap+floodProgram {
				t.Errorf("want at most %d MB, got %d", (floodHeap+floodProgram)>>20, most>>20)
			}
		})
	}
}

// p99 is how long the second caller waits, but for one call in a hundred. Each call has to be answered.
func (g *gateway) p99(t *testing.T) time.Duration {
	t.Helper()
	var took []time.Duration
	for range floodCalls {
		began := time.Now()
		g.served(t, 1)
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	return took[len(took)*99/100]
}

// slowHeaders opens requests that never end their headers. It keeps twice as many as Envoy takes, and
// gives up the oldest for a new one: files are bounded on this side too.
func slowHeaders(ctx context.Context, _ *testing.T, g *gateway) {
	var dialer net.Dialer
	var open [4000]net.Conn
	defer func() {
		for _, conn := range open {
			if conn != nil {
				conn.Close()
			}
		}
	}()
	for i := 0; ctx.Err() == nil; i = (i + 1) % len(open) {
		if open[i] != nil {
			open[i].Close()
		}
		conn, err := dialer.DialContext(ctx, "tcp", strings.TrimPrefix(g.url, "http://"))
		if open[i] = conn; err != nil {
			open[i] = nil
			continue
		}
		if _, err := io.WriteString(conn, "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nA: "+strings.Repeat("b", 30<<10)); err != nil {
			conn.Close()
		}
	}
}

// bodiesUntil keeps a hundred unfinished bodies of a caller on their way until ctx ends.
func bodiesUntil(ctx context.Context, t *testing.T, g *gateway, key string) {
	f := g.bodies(t, key, 100, 4_190_000)
	<-ctx.Done()
	f.stop()
}

// posting sends bodies as fast as it is answered.
func posting(key, text string) func(context.Context, *testing.T, *gateway) {
	return func(ctx context.Context, _ *testing.T, g *gateway) {
		calling(ctx, func() (*http.Request, error) {
			return http.NewRequestWithContext(ctx, http.MethodPost, g.url+chatPath, strings.NewReader(text))
		}, key)
	}
}

// getting asks for a path as fast as it is answered.
func getting(path, key string) func(context.Context, *testing.T, *gateway) {
	return func(ctx context.Context, _ *testing.T, g *gateway) {
		calling(ctx, func() (*http.Request, error) {
			return http.NewRequestWithContext(ctx, http.MethodGet, g.url+path, http.NoBody)
		}, key)
	}
}

func calling(ctx context.Context, request func() (*http.Request, error), key string) {
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	for ctx.Err() == nil {
		r, err := request()
		if err != nil {
			return
		}
		r.Header.Set("Authorization", key)
		r.Header.Set("Content-Type", "application/json")
		if resp, err := client.Do(r); err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
	}
}

// resets begins HTTP/2 streams and resets each at once (CVE-2023-44487).
func resets(ctx context.Context, _ *testing.T, g *gateway) {
	transport := &http2.Transport{AllowHTTP: true, DialTLSContext: func(ctx context.Context, network, addr string, _ *tls.Config) (net.Conn, error) {
		var dialer net.Dialer
		return dialer.DialContext(ctx, network, addr)
	}}
	defer transport.CloseIdleConnections()
	for ctx.Err() == nil {
		once, cancel := context.WithTimeout(ctx, time.Millisecond)
		r, err := http.NewRequestWithContext(once, http.MethodGet, g.url+"/v1/models", http.NoBody)
		if err != nil {
			cancel()
			return
		}
		r.Header.Set("Authorization", goodKey)
		if resp, err := transport.RoundTrip(r); err == nil {
			resp.Body.Close()
		}
		cancel()
	}
}
