package config

import (
	"runtime"
	"time"
)

// bodiesAtOnce is how many of the largest bodies a caller may have on their way by default.
const bodiesAtOnce = 8

// CallerBytes is gateway.inflight_bytes with its default: eight of the largest bodies.
func (g Gateway) CallerBytes() int {
	if g.InflightBytes > 0 {
		return g.InflightBytes
	}
	return bodiesAtOnce * g.MaxBodyBytes
}

// BodyBytes is what all request bodies may take that are on their way to one worker: half of the
// heap, shared by the workers.
func (e Envoy) BodyBytes() int64 {
	workers := e.Concurrency
	if workers == 0 {
		workers = runtime.NumCPU()
	}
	return e.MaxHeap / 2 / int64(workers)
}

// validateBounds checks what one client, and all together, may take of Envoy.
func (c *Config) validateBounds(v *validator) {
	between(v, "gateway.max_body_bytes", c.Gateway.MaxBodyBytes, 1<<10, 64<<20)
	if c.Gateway.InflightBytes != 0 {
		between(v, "gateway.inflight_bytes", c.Gateway.InflightBytes, max(c.Gateway.MaxBodyBytes, 1<<10), 1<<30)
	}
	between(v, "gateway.first_byte_timeout", c.Gateway.FirstByteTimeout, time.Second, time.Hour)
	between(v, "gateway.stream_idle_timeout", c.Gateway.StreamIdleTimeout, time.Second, time.Hour)
	between(v, "gateway.max_stream_duration", c.Gateway.MaxStreamDuration, time.Second, 24*time.Hour)
	between(v, "gateway.max_request_headers", c.Gateway.RequestHeaders, 20, 1000)
	between(v, "envoy.connections", c.Envoy.Connections, 16, 1_000_000)
	between(v, "envoy.max_heap", c.Envoy.MaxHeap, 64<<20, 1<<40)
}
