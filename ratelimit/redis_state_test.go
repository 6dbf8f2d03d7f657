package ratelimit_test

import (
	"bytes"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

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

// once reports whether a line of a trouble that began then was said, and again at most each ten seconds,
// as retry.Troubles does.
func (l *lines) once(word string, begun time.Time) bool {
	n := l.count(word)
	return n >= 1 && n <= 1+int(time.Since(begun)/(10*time.Second))
}

// TestARedisThatRefusesSaysWhy: readiness, a metric and one line of the log carry its answer, and all
// is well again by itself.
func TestARedisThatRefusesSaysWhy(t *testing.T) {
	t.Parallel()
	type commands [][]any
	for reason, c := range map[string]struct{ spoil, mend commands }{
		"OOM":        {commands{{"config", "set", "maxmemory", "1"}}, commands{{"config", "set", "maxmemory", "0"}}},
		"READONLY":   {commands{{"replicaof", "127.0.0.1", "1"}}, commands{{"replicaof", "no", "one"}}},
		"NOREPLICAS": {commands{{"config", "set", "min-replicas-to-write", "1"}}, commands{{"config", "set", "min-replicas-to-write", "0"}}},
		"NOPERM":     {commands{{"acl", "setuser", "default", "-incr"}}, commands{{"acl", "setuser", "default", "+@all"}}},
		// Who is connected stays so; who connects anew has no password.
		"NOAUTH": {commands{{"config", "set", "requirepass", "secret"}, {"client", "kill", "type", "normal"}}, commands{{"config", "set", "requirepass", ""}}},
		// A copy on disk that its process did not end well: nothing is written before one does.
		"MISCONF": {commands{{"config", "set", "save", "3600 1"}, {"set", "x", "1"}, {"config", "set", "rdb-key-save-delay", "60000000"}, {"bgsave"}},
			commands{{"config", "set", "save", ""}}},
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
			run := func(all commands) {
				t.Helper()
				for _, command := range all {
					if err := client.Do(t.Context(), command...).Err(); err != nil {
						t.Fatalf("%v: %v", command, err)
					}
				}
			}
			begun := time.Now()
			run(c.spoil)
			if reason == "MISCONF" {
				killChildren(t, client)
			}
			testenv.Eventually(t, "the reason in readiness", func() bool {
				err := e.service.Ready(t.Context())
				return err != nil && strings.Contains(err.Error(), reason)
			})
			testenv.Eventually(t, "the reason as a series", func() bool { return refuses(t, series) == reason })
			testenv.Eventually(t, "one line", func() bool { return log.once("does not take what is written", begun) })
			run(c.mend)
			testenv.Eventually(t, "readiness again", func() bool { return e.service.Ready(t.Context()) == nil && refuses(t, series) == "" })
		})
	}
}

// TestARedisThatRefusesFromTheStartSaysWhy: a limiter that has never been let in says so as one that
// was.
func TestARedisThatRefusesFromTheStartSaysWhy(t *testing.T) {
	t.Parallel()
	server, log, series := testenv.RedisServer(t), &lines{}, prometheus.NewRegistry()
	client := server.Client()
	password := func(p string) {
		t.Helper()
		if err := client.Do(t.Context(), "config", "set", "requirepass", p).Err(); err != nil {
			t.Fatal(err)
		}
	}
	begun := time.Now()
	password("secret")
	e := start(t, thousand, func(c *ratelimit.Config) {
		c.RedisURL, c.Prefix, c.Metrics, c.Log = server.URL(), "", series, slog.New(slog.NewTextHandler(log, nil))
	})
	e.run(t)
	testenv.Eventually(t, "the reason as a series", func() bool { return refuses(t, series) == "NOAUTH" })
	testenv.Eventually(t, "one line", func() bool { return log.once("does not take what is written", begun) })
	password("")
	testenv.Eventually(t, "readiness", func() bool { return e.service.Ready(t.Context()) == nil && refuses(t, series) == "" })
	testenv.Eventually(t, "the line of the end", func() bool { return log.count("takes writes again") == 1 })
}

// killChildren ends the processes that a server started, as a machine without memory does.
func killChildren(t *testing.T, client *redis.Client) {
	t.Helper()
	info := client.InfoMap(t.Context(), "server").Item("Server", "process_id")
	testenv.Eventually(t, "a child of the server", func() bool {
		text, err := os.ReadFile("/proc/" + info + "/task/" + info + "/children")
		if err != nil {
			t.Fatal(err)
		}
		for child := range strings.FieldsSeq(string(text)) {
			pid, err := strconv.Atoi(child)
			if err == nil {
				err = syscall.Kill(pid, syscall.SIGKILL)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		return len(text) > 0
	})
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
	testenv.Eventually(t, "readiness, with a label and one line", func() bool {
		return e.service.Ready(t.Context()) == nil && refuses(t, series) == "EVICTS" && log.count("may forget") == 1
	})
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
