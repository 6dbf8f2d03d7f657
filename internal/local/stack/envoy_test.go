package stack

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
)

func TestDrainWaitsForRequestsInProgress(t *testing.T) {
	t.Parallel()
	var drained atomic.Bool
	var looks atomic.Int64
	admin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.Method + " " + r.URL.Path {
		case "POST /drain_listeners":
			drained.Store(true)
		case "GET /stats":
			fmt.Fprintf(w, "http.admin.downstream_rq_active: 1\nhttp.ingress.downstream_rq_active: %d\n", max(0, 3-looks.Add(1)))
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	defer admin.Close()
	drainEnvoy(t.Context(), admin.Client(), admin.URL)
	if !drained.Load() || looks.Load() != 3 {
		t.Errorf("want the listeners drained and 3 looks until idle, got %v and %d", drained.Load(), looks.Load())
	}
}

func TestIdle(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, stats string
		want        bool
	}{
		{"nothing", "", true},
		{"only the admin", "http.admin.downstream_rq_active: 1\n", true},
		{"a stream", "http.admin.downstream_rq_active: 1\nhttp.gateway.downstream_rq_active: 2\n", false},
		{"none left", "http.gateway.downstream_rq_active: 0\n", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if got := idle(tc.stats); got != tc.want {
				t.Errorf("want %v, got %v", tc.want, got)
			}
		})
	}
}
