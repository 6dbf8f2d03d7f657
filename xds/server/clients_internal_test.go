package server

import (
	"log/slog"
	"sync"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

// TestAnEnvoyThatComesBackIsServed also when its old stream ends at that very moment: nothing would be
// sent to it otherwise until it connected again.
func TestAnEnvoyThatComesBackIsServed(t *testing.T) {
	t.Parallel()
	const node = "envoy"
	for name, during := range map[string]func(s *Server, asks, ends func()){
		"it asks while the old stream is forgotten": func(s *Server, asks, ends func()) {
			leave := s.clients.leave
			s.clients.leave = func(node string, here func(string) bool) {
				asks()
				leave(node, here)
			}
			ends()
		},
		"the old stream ends while it asks": func(s *Server, asks, ends func()) {
			join := s.clients.join
			s.clients.join = func(node string) {
				join(node)
				ends()
			}
			asks()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, err := New(Config{Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			streams := s.clients.callbacks()
			asks := func(id int64) {
				if err := streams.OnStreamDeltaRequest(id, &discoveryv3.DeltaDiscoveryRequest{Node: &corev3.Node{Id: node}}); err != nil {
					t.Error(err)
				}
			}
			for id := range int64(2) {
				if err := streams.OnDeltaStreamOpen(t.Context(), id, ""); err != nil {
					t.Fatal(err)
				}
			}
			asks(0)
			during(s, sync.OnceFunc(func() { asks(1) }), sync.OnceFunc(func() { streams.OnDeltaStreamClosed(0, nil) }))
			if !s.served.all()[node] {
				t.Error("want it served")
			}
			streams.OnDeltaStreamClosed(1, nil)
			if s.served.all()[node] {
				t.Error("want it forgotten after its last stream")
			}
		})
	}
}
