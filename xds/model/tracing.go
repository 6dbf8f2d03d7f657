package model

import (
	"net/url"

	"github.com/leaky-tokens/leaky-tokens/internal/netaddr"
	"github.com/leaky-tokens/leaky-tokens/internal/tracing"
)

// Tracing is where Envoy's spans go.
type Tracing struct {
	Cluster string
	Share   uint32 // of the calls, in millionths
}

// collectorCluster is the cluster of the collector of spans.
const collectorCluster = "otlp"

// collectorCalls bounds the reports on their way to the collector; a worker has one at a time.
const collectorCalls = 64

func (b *builder) tracing() *Tracing {
	if b.cfg.Tracing.OTLP == "" {
		return nil
	}
	return &Tracing{Cluster: collectorCluster, Share: tracing.Share(b.cfg.Tracing.Sample)}
}

// collector is the cluster that spans are reported to, if they are.
func (b *builder) collector() []Cluster {
	if b.cfg.Tracing.OTLP == "" {
		return nil
	}
	u, err := url.Parse(b.cfg.Tracing.OTLP)
	if err != nil {
		b.fail("tracing.otlp: %w", err)
		return nil
	}
	return []Cluster{{Name: collectorCluster, Addr: netaddr.Addr{Network: "tcp", Host: u.Hostname(), Port: port(u)}, GRPC: true,
		TLS: u.Scheme == "https", Host: u.Hostname(), MaxRequests: collectorCalls, MaxPending: collectorCalls}}
}
