package analytics_test

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/analytics"
)

// TestAServerEndsWhatNobodyWaitsFor: it is asked to, with everything that is asked. (The engine of our own
// does so anyway.)
func TestAServerEndsWhatNobodyWaitsFor(t *testing.T) {
	t.Parallel()
	var asked, without atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.URL.Query().Get("cancel_http_readonly_queries_on_client_close") != "1" {
			without.Add(1)
		}
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer server.Close()
	store, err := analytics.NewStore(analytics.StoreConfig{URL: server.URL + "/books?max_threads=1", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	if err := store.Migrate(t.Context()); err == nil {
		t.Error("want the refusal, got none")
	}
	if asked.Load() == 0 || without.Load() != 0 {
		t.Errorf("want each question with the setting, got %d of %d without", without.Load(), asked.Load())
	}
}
