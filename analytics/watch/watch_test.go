package watch

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/leaky-tokens/leaky-tokens/analytics"
	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/notice"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// levels is a limiter whose levels a test sets.
type levels struct {
	limitpb.LimiterClient
	level, spent, credits int64
	reset                 time.Duration
}

func (l *levels) GetAccountState(_ context.Context, _ *limitpb.GetAccountStateRequest, _ ...grpc.CallOption) (*limitpb.GetAccountStateResponse, error) {
	bucket := func(rule string) *limitpb.Bucket {
		return &limitpb.Bucket{Rule: rule, Unit: "tokens", Capacity: 1000, Level: float64(l.level + 100), Held: 100,
			Found: &limitpb.Descriptor{Entries: []*limitpb.Entry{{Key: "org", Value: "acme"}}}}
	}
	return &limitpb.GetAccountStateResponse{Buckets: []*limitpb.Bucket{bucket("monthly"), bucket("speed")},
		Balances: []*limitpb.Balance{{Present: true, Credits: l.credits, Spent: l.spent, ResetUs: l.reset.Microseconds()}}}, nil
}

// books has two callers of one organisation, and an anomaly each hour.
type books struct{ hours []time.Time }

func (b *books) Group(context.Context, analytics.Filter, []string, int, bool) (analytics.Grouped, error) {
	return analytics.Grouped{Groups: []analytics.Group{{Key: []string{"ann", "acme", "k1", "USER", "", "openai"}},
		{Key: []string{"bob", "acme", "k2", "USER", "", "openai"}}}}, nil
}

func (b *books) Unusual(_ context.Context, _ analytics.Robust, hour time.Time) ([]notice.Anomaly, error) {
	b.hours = append(b.hours, hour)
	return []notice.Anomaly{{Dimension: "key", Name: "k1", Hour: hour, Tokens: 5}}, nil
}

const rules = `
domain: leaky
descriptors:
  - key: count
    value: tokens
    descriptors:
      - key: org
        rate_limit: {name: monthly, unit: month, requests_per_unit: 1000}
        metadata: {rate_limit_policy: {algorithm: fixed_window, unit: tokens}}
      - key: user
        rate_limit: {name: speed, unit: minute, requests_per_unit: 1000}
        metadata: {rate_limit_policy: {algorithm: leaky_bucket, burst: 1000, unit: tokens}}
`

func TestThresholdsAreToldOnceForEachWindow(t *testing.T) {
	t.Parallel()
	nc, err := nats.Connect(testenv.NATS(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	set, err := limits.Parse([]byte(rules))
	if err != nil {
		t.Fatal(err)
	}
	limiter, store := &levels{credits: 1000}, &books{}
	open := func() *Watch {
		w, err := New(Config{Store: store, Limiter: limiter, JetStream: js, Rules: set.Rules(), Metrics: prometheus.NewRegistry(),
			Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	w, now := open(), time.Date(2026, 11, 10, 12, 30, 0, 0, time.UTC)
	var read uint64
	for i, step := range []struct {
		what         string
		level, spent int64
		credits      int64
		after        time.Duration
		want         []string
	}{
		{"nothing reached", 499, 499, 1000, 0, []string{"anomaly"}},
		{"half of the limit", 500, 0, 1000, 0, []string{"monthly 50"}},
		{"still", 700, 0, 1000, 0, nil},
		{"four fifths of both", 800, 800, 1000, 0, []string{"monthly 80", "openai 80"}},
		{"over", 1200, 1000, 1000, 0, []string{"monthly 100", "openai 100"}},
		{"bought more", 1200, 1000, 2000, 0, []string{"openai 50"}},
		{"an hour later", 1200, 1000, 2000, time.Hour, []string{"anomaly"}},
		{"the next month", 850, 1000, 2000, 31 * 24 * time.Hour, []string{"anomaly", "monthly 80"}},
	} {
		limiter.level, limiter.spent, limiter.credits = step.level, step.spent, step.credits
		now = now.Add(step.after)
		if i == 4 {
			w = open() // another process knows what was told
		}
		for range 2 {
			if err := w.Look(t.Context(), now); err != nil {
				t.Fatal(err)
			}
		}
		if got := told(t, js, &read); !slices.Equal(got, step.want) {
			t.Errorf("%s: want %q told, got %q", step.what, step.want, got)
		}
	}
	if want := time.Date(2026, 11, 10, 11, 0, 0, 0, time.UTC); !store.hours[0].Equal(want) {
		t.Errorf("want the hour of %v judged first, got %v", want, store.hours)
	}
}

// told takes the notices after a place in their stream, and moves that on.
func told(t *testing.T, js jetstream.JetStream, after *uint64) (texts []string) {
	t.Helper()
	stream, err := js.Stream(t.Context(), notice.Stream)
	if err != nil {
		t.Fatal(err)
	}
	for last := stream.CachedInfo().State.LastSeq; *after < last; {
		*after++
		m, err := stream.GetMsg(t.Context(), *after)
		if err != nil {
			t.Fatal(err)
		}
		var n struct {
			Type string
			Data notice.Threshold
		}
		if err := json.Unmarshal(m.Data, &n); err != nil {
			t.Fatal(err)
		}
		text := "anomaly"
		if n.Type == notice.KindThreshold {
			text = fmt.Sprintf("%s%s %d", n.Data.Rule, n.Data.Provider, n.Data.Percent)
		}
		texts = append(texts, text)
	}
	slices.Sort(texts)
	return texts
}

// TestWindowsOfTheCalendar are told as the limiter counts them.
func TestWindowsOfTheCalendar(t *testing.T) {
	t.Parallel()
	for policy, want := range map[string][2]string{
		"{}": {"2026-11-03T00:00:00Z", "2026-12-03T00:00:00Z"},
		"{window: calendar, time_zone: Europe/Berlin}": {"2026-10-31T23:00:00Z", "2026-11-30T23:00:00Z"},
	} {
		set, err := limits.Parse([]byte("domain: leaky\ndescriptors: [{key: count, value: tokens, descriptors: [{key: org, rate_limit: " +
			"{name: monthly, unit: month, requests_per_unit: 10}, metadata: {rate_limit_policy: " + policy + "}}]}]\n"))
		if err != nil {
			t.Fatal(err)
		}
		w := Watch{spend: map[string]*limits.Rule{"monthly": set.Rules()[0]}}
		got, _, ok := w.limit("org:o", &limitpb.Bucket{Rule: "monthly", Capacity: 10, Level: 9}, time.Date(2026, 11, 10, 12, 0, 0, 0, time.UTC))
		if !ok || got.Window != want[0] || got.ResetTime != want[1] {
			t.Errorf("%s: want %v, got %+v", policy, want, got)
		}
	}
}
