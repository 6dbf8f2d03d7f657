package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestShowsHowAStoreAnswers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		stores := NewStores(prometheus.NewRegistry())
		var failure error
		takes := time.Second
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			ended <- stores.Watch(ctx, "redis", func(ctx context.Context) error {
				select {
				case <-time.After(takes):
					return failure
				case <-ctx.Done():
					return ctx.Err()
				}
			})
		}()
		for _, step := range []struct {
			name        string
			takes       time.Duration
			failure     error
			up, seconds float64
		}{
			{"answers", time.Second, nil, 1, 1},
			{"fails", 100 * time.Millisecond, errors.New("gone"), 0, 0.1},
			{"hangs", time.Hour, nil, 0, 3},
			{"is back", 0, nil, 1, 0},
		} {
			takes, failure = step.takes, step.failure
			time.Sleep(2*askEvery + time.Millisecond)
			synctest.Wait()
			if up, seconds := testutil.ToFloat64(stores.up.WithLabelValues("redis")), testutil.ToFloat64(stores.seconds.WithLabelValues("redis")); up != step.up || seconds != step.seconds {
				t.Errorf("%s: want %v after %v s, got %v after %v s", step.name, step.up, step.seconds, up, seconds)
			}
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestShowsTheFreeSpace(t *testing.T) {
	t.Parallel()
	if got := testutil.ToFloat64(FreeSpace(t.TempDir())); got <= 0 || got > 1 {
		t.Errorf("want a ratio, got %v", got)
	}
	if got := testutil.ToFloat64(FreeSpace("/no such folder")); got != 1 {
		t.Errorf("want 1 for what cannot be told, got %v", got)
	}
}

// full is a refusal.
type full struct{ error }

func (full) Reason() string { return "no_space" }

// TestARefusalIsToldOnceInTenSeconds, with its reason as a label and in what readiness says.
func TestARefusalIsToldOnceInTenSeconds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, refusesForALongTime)
}

func refusesForALongTime(t *testing.T) {
	stores, lines := NewStores(prometheus.NewRegistry()), &strings.Builder{}
	stores.LogTo(slog.New(slog.NewTextHandler(lines, nil)))
	for range 25 {
		stores.note(t.Context(), "nats", fmt.Errorf("probe: %w", full{errors.New("insufficient storage")}))
		time.Sleep(time.Second)
	}
	if n := strings.Count(lines.String(), "nats refuses"); n != 3 {
		t.Errorf("want a line at once and each ten seconds, got %d:\n%s", n, lines)
	}
	if err := stores.Problem(); err == nil || !strings.Contains(err.Error(), "nats refuses: insufficient storage") {
		t.Errorf("want the problem told, got %v", err)
	}
	if got := testutil.ToFloat64(stores.refuses.WithLabelValues("nats", "no_space")); got != 1 {
		t.Errorf("want the reason as a label, got %v", got)
	}
	stores.note(t.Context(), "nats", nil)
	if err := stores.Problem(); err != nil || testutil.CollectAndCount(stores.refuses) != 0 || !strings.Contains(lines.String(), "does not refuse any more") {
		t.Errorf("want it over, got %v", err)
	}
	for range 25 {
		stores.note(t.Context(), "nats", errors.New("connection refused"))
		time.Sleep(time.Second)
	}
	if err := stores.Problem(); err != nil {
		t.Errorf("no answer: want no refusal, got %v", err)
	}
	stores.note(t.Context(), "nats", nil)
	for line, want := range map[string]int{`level=WARN msg="nats does not answer" error="connection refused"`: 3, `level=INFO msg="nats answers again" lasted=25s times=25`: 1} {
		if n := strings.Count(lines.String(), line); n != want {
			t.Errorf("want %q %d times, got %d:\n%s", line, want, n, lines)
		}
	}
}
