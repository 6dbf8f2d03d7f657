package envoy

import (
	"time"

	overloadv3 "github.com/envoyproxy/go-control-plane/envoy/config/overload/v3"
	connectionsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/resource_monitors/downstream_connections/v3"
	heapv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/resource_monitors/fixed_heap/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Bounds are what one Envoy takes at most, whatever clients do. The zero value is the
// defaults.
type Bounds struct {
	// Connections of clients at once; more are turned away before they cost memory or a file
	// descriptor. 0: DefaultConnections.
	Connections int
	// Heap in bytes. Near it Envoy gives memory back, ends idle connections and resets the
	// streams that hold most; at it, it takes no further requests. 0: DefaultHeap.
	Heap int64
	// Files is the limit of file descriptors that Envoy is started with; 0: unknown. What is
	// kept of it for everything but clients is spareFiles.
	Files uint64
}

// Defaults of Bounds.
const (
	DefaultConnections = 20_000
	DefaultHeap        = 1 << 30
)

// spareFiles is the share of the descriptors that clients never get: a call in progress
// takes a second one, to its provider.
const spareFiles = 4

// Shares of the heap at which something is done. Idle connections and the largest streams
// go before anybody is refused.
const (
	heapShrink      = 80 // percent; free pages go back to the system
	heapIdle        = 80 // idle connections are kept ever shorter from here
	heapReset       = 85 // the streams that hold most are reset from here
	heapSaturated   = 95 // both do all they can; requests are refused
	heapConnections = 98 // connections are refused
)

// shortestIdle is how long an idle connection is kept when the heap is full.
const shortestIdle = 2 * time.Second

// smallestTracked is the power of two of the bytes from which a stream can be one of those
// that hold most: 8 KiB.
const smallestTracked = 13

const (
	monitorHeap        = "envoy.resource_monitors.fixed_heap"
	monitorConnections = "envoy.resource_monitors.global_downstream_max_connections"
)

// connections is the bound on clients that leaves spare descriptors.
func (b Bounds) connections() int64 {
	most := int64(b.Connections)
	if most == 0 {
		most = DefaultConnections
	}
	if b.Files > 0 {
		most = min(most, int64(b.Files-b.Files/spareFiles))
	}
	return most
}

// overload is the overload manager (envoy.config.overload.v3.OverloadManager).
func (b Bounds) overload() (*overloadv3.OverloadManager, error) {
	heap := uint64(b.Heap)
	if heap == 0 {
		heap = DefaultHeap
	}
	m := &overloadv3.OverloadManager{
		RefreshInterval:     durationpb.New(100 * time.Millisecond),
		BufferFactoryConfig: &overloadv3.BufferFactoryConfig{MinimumAccountToTrackPowerOfTwo: smallestTracked},
	}
	for _, monitor := range []struct {
		name   string
		config proto.Message
	}{
		{monitorHeap, &heapv3.FixedHeapConfig{MaxHeapSizeBytes: heap}},
		{monitorConnections, &connectionsv3.DownstreamConnectionsConfig{MaxActiveDownstreamConnections: b.connections()}},
	} {
		packed, err := anypb.New(monitor.config)
		if err != nil {
			return nil, err
		}
		m.ResourceMonitors = append(m.ResourceMonitors, &overloadv3.ResourceMonitor{Name: monitor.name,
			ConfigType: &overloadv3.ResourceMonitor_TypedConfig{TypedConfig: packed}})
	}
	timers, err := anypb.New(&overloadv3.ScaleTimersOverloadActionConfig{
		TimerScaleFactors: []*overloadv3.ScaleTimersOverloadActionConfig_ScaleTimer{{
			Timer:          overloadv3.ScaleTimersOverloadActionConfig_HTTP_DOWNSTREAM_CONNECTION_IDLE,
			OverloadAdjust: &overloadv3.ScaleTimersOverloadActionConfig_ScaleTimer_MinTimeout{MinTimeout: durationpb.New(shortestIdle)},
		}}})
	if err != nil {
		return nil, err
	}
	m.Actions = []*overloadv3.OverloadAction{
		{Name: "envoy.overload_actions.shrink_heap", Triggers: from(heapShrink)},
		{Name: "envoy.overload_actions.reduce_timeouts", Triggers: between(heapIdle, heapSaturated), TypedConfig: timers},
		{Name: "envoy.overload_actions.reset_high_memory_stream", Triggers: between(heapReset, heapSaturated)},
		{Name: "envoy.overload_actions.disable_http_keepalive", Triggers: from(heapSaturated)},
		{Name: "envoy.overload_actions.stop_accepting_requests", Triggers: from(heapSaturated)},
		{Name: "envoy.overload_actions.stop_accepting_connections", Triggers: from(heapConnections)},
	}
	return m, nil
}

// from triggers at a share of the heap in percent.
func from(percent float64) []*overloadv3.Trigger {
	return []*overloadv3.Trigger{{Name: monitorHeap, TriggerOneof: &overloadv3.Trigger_Threshold{
		Threshold: &overloadv3.ThresholdTrigger{Value: percent / 100}}}}
}

// between triggers the more, the nearer the heap is to the second share.
func between(first, last float64) []*overloadv3.Trigger {
	return []*overloadv3.Trigger{{Name: monitorHeap, TriggerOneof: &overloadv3.Trigger_Scaled{
		Scaled: &overloadv3.ScaledTrigger{ScalingThreshold: first / 100, SaturationThreshold: last / 100}}}}
}
