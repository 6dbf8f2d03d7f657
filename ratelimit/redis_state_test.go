package ratelimit_test

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/ratelimit"
)

// lines is a log that several goroutines write.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) count(word string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), word)
}

// TestARedisThatRefusesSaysWhy: readiness, a metric and one line of the log carry its answer, and all
// is well again by itself.
func TestARedisThatRefusesSaysWhy(t *testing.T) {
	t.Parallel()
	for reason, c := range map[string]struct{ spoil, mend []any }{
		"OOM":      {[]any{"config", "set", "maxmemory", "1"}, []any{"config", "set", "maxmemory", "0"}},
		"READONLY": {[]any{"replicaof", "127.0.0.1", "1"}, []any{"replicaof", "no", "one"}},
	} {
		t.Run(reason, func(t *testing.T) {
			t.Parallel()
			server, log, series := testenv.RedisServer(t), &lines{}, prometheus.NewRegistry()
			e := start(t, thousand, func(c *ratelimit.Config) {
				c.RedisURL, c.Prefix, c.Metrics, c.Log = server.URL(), "", series, slog.New(slog.NewTextHandler(log, nil))
			})
			e.run(t)
			testenv.Eventually(t, "readiness", func() bool { return e.service.Ready(t.Context()) == nil })
			client := server.Client()
			if err := client.Do(t.Context(), c.spoil...).Err(); err != nil {
				t.Fatal(err)
			}
			testenv.Eventually(t, "the reason in readiness", func() bool {
				err := e.service.Ready(t.Context())
				return err != nil && strings.Contains(err.Error(), reason)
			})
			testenv.Eventually(t, "the reason as a series", func() bool { return refuses(t, series) == reason })
			if n := log.count("does not take what is written"); n != 1 {
				t.Errorf("want one line, got %d", n)
			}
			if err := client.Do(t.Context(), c.mend...).Err(); err != nil {
				t.Fatal(err)
			}
			testenv.Eventually(t, "readiness again", func() bool { return e.service.Ready(t.Context()) == nil && refuses(t, series) == "" })
		})
	}
}

// TestARedisThatEvictsIsToldOf: it serves, and would forget limits and holds when its memory is full.
func TestARedisThatEvictsIsToldOf(t *testing.T) {
	t.Parallel()
	server, log, series := testenv.RedisServer(t), &lines{}, prometheus.NewRegistry()
	for _, set := range [][]any{{"config", "set", "maxmemory", "100mb"}, {"config", "set", "maxmemory-policy", "allkeys-lru"}} {
		if err := server.Client().Do(t.Context(), set...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	e := start(t, thousand, func(c *ratelimit.Config) {
		c.RedisURL, c.Prefix, c.Metrics, c.Log = server.URL(), "", series, slog.New(slog.NewTextHandler(log, nil))
	})
	e.run(t)
	testenv.Eventually(t, "the warning", func() bool {
		err := e.service.Warning()
		return err != nil && strings.Contains(err.Error(), "allkeys-lru")
	})
	if err := e.service.Ready(t.Context()); err != nil || refuses(t, series) != "EVICTS" || log.count("may forget") != 1 {
		t.Errorf("want it ready, with a label and one line, got %v, %q, %d", err, refuses(t, series), log.count("may forget"))
	}
}

// refuses is the reason whose series is 1.
func refuses(t *testing.T, series prometheus.Gatherer) string {
	t.Helper()
	all, err := series.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range all {
		if family.GetName() != "leaky_ratelimit_redis_refuses" {
			continue
		}
		for _, m := range family.GetMetric() {
			if m.GetGauge().GetValue() == 1 {
				return m.GetLabel()[0].GetValue()
			}
		}
	}
	return ""
}
