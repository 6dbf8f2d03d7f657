// Package otlptest is a collector for tests: it takes OTLP over gRPC, as Envoy and the services send
// it, and keeps the spans. It is not part of the product.
package otlptest

import (
	"context"
	"encoding/hex"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
)

// Span is one span that was received.
type Span struct {
	*tracepb.Span
	Service string
}

// TraceID, ID and Parent are in hexadecimal.
func (s Span) TraceID() string { return hex.EncodeToString(s.GetTraceId()) }

// ID is the span's own.
func (s Span) ID() string { return hex.EncodeToString(s.GetSpanId()) }

// Parent is the id of the span above; empty: none.
func (s Span) Parent() string { return hex.EncodeToString(s.GetParentSpanId()) }

// Attribute is an attribute's value as text; empty if there is none.
func (s Span) Attribute(name string) string { return textOf(s.GetAttributes(), name) }

func textOf(all []*commonpb.KeyValue, name string) string {
	for _, a := range all {
		if a.GetKey() != name {
			continue
		}
		switch v := a.GetValue().GetValue().(type) {
		case *commonpb.AnyValue_StringValue:
			return v.StringValue
		case *commonpb.AnyValue_IntValue:
			return fmt.Sprint(v.IntValue)
		case *commonpb.AnyValue_BoolValue:
			return fmt.Sprint(v.BoolValue)
		case *commonpb.AnyValue_DoubleValue:
			return fmt.Sprint(v.DoubleValue)
		}
	}
	return ""
}

// Collector is a running one.
type Collector struct {
	collectorpb.UnimplementedTraceServiceServer
	URL    string // for tracing.otlp
	server *grpc.Server

	mu     sync.Mutex
	traces map[string][]Span
}

// Start begins to listen on a free port.
func Start() (*Collector, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("collect spans: %w", err)
	}
	c := &Collector{URL: "http://" + ln.Addr().String(), server: grpc.NewServer(), traces: map[string][]Span{}}
	collectorpb.RegisterTraceServiceServer(c.server, c)
	go func() { _ = c.server.Serve(ln) }() // ends with Stop
	return c, nil
}

// Stop ends it.
func (c *Collector) Stop() { c.server.Stop() }

// Export implements the collector's service.
func (c *Collector) Export(_ context.Context, r *collectorpb.ExportTraceServiceRequest) (*collectorpb.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, of := range r.GetResourceSpans() {
		for _, scope := range of.GetScopeSpans() {
			for _, s := range scope.GetSpans() {
				id := hex.EncodeToString(s.GetTraceId())
				c.traces[id] = append(c.traces[id], Span{Span: s, Service: textOf(of.GetResource().GetAttributes(), "service.name")})
			}
		}
	}
	return &collectorpb.ExportTraceServiceResponse{}, nil
}

// All are the spans so far.
func (c *Collector) All() []Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Concat(slices.Collect(maps.Values(c.traces))...)
}

// Trace are the spans of a trace so far.
func (c *Collector) Trace(id string) []Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.traces[id])
}

// Request are the spans of the trace of a request, by its x-request-id; none: nil.
func (c *Collector) Request(id string) []Span {
	all := c.All()
	at := slices.IndexFunc(all, func(s Span) bool { return s.Attribute("leaky.request_id") == id })
	if at < 0 {
		return nil
	}
	return c.Trace(all[at].TraceID())
}

// Tree writes spans as lines, each below its parent and two spaces to the right: "service: name".
// Those of one parent are in the order of their text. A span whose parent is not there stands as
// a root with "?" before it.
func Tree(spans []Span) string {
	below, known := map[string][]Span{}, map[string]bool{}
	for _, s := range spans {
		known[s.ID()] = true
	}
	for _, s := range spans {
		parent := s.Parent()
		if !known[parent] {
			parent = ""
		}
		below[parent] = append(below[parent], s)
	}
	var b strings.Builder
	var write func(parent, indent string)
	write = func(parent, indent string) {
		slices.SortFunc(below[parent], func(a, b Span) int { return strings.Compare(a.Service+a.GetName(), b.Service+b.GetName()) })
		for _, s := range below[parent] {
			mark := ""
			if parent == "" && s.Parent() != "" {
				mark = "?"
			}
			b.WriteString(indent + mark + s.Service + ": " + s.GetName() + "\n")
			write(s.ID(), indent+"  ")
		}
	}
	write("", "")
	return b.String()
}
