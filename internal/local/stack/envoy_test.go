package stack

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"
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
	if err := drainEnvoy(t.Context(), admin.Client(), admin.URL); err != nil {
		t.Error(err)
	}
	if !drained.Load() || looks.Load() != 3 {
		t.Errorf("want the listeners drained and 3 looks until idle, got %v and %d", drained.Load(), looks.Load())
	}
}

// TestDrainSaysWhatItLeaves: who waits for it hears that requests were cut, or that Envoy is not there.
func TestDrainSaysWhatItLeaves(t *testing.T) {
	t.Parallel()
	busy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "http.ingress.downstream_rq_active: 1\n")
	}))
	defer busy.Close()
	ctx, cancel := context.WithCancelCause(t.Context())
	cut := errors.New("time is over")
	time.AfterFunc(200*time.Millisecond, func() { cancel(cut) })
	if err := drainEnvoy(ctx, busy.Client(), busy.URL); !errors.Is(err, cut) {
		t.Errorf("want %v, got %v", cut, err)
	}
	busy.Close()
	if err := drainEnvoy(t.Context(), http.DefaultClient, busy.URL); err == nil {
		t.Error("nobody was drained, without an error")
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
