package stores

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/internal/local/stack"
	"github.com/leaky-tokens/leaky-tokens/internal/local/supervisor"
	"github.com/leaky-tokens/leaky-tokens/internal/retry"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/stacktest"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// again is the least pause between two lines of one trouble.
const again = 10 * time.Second

// outage is a store that is away.
type outage struct {
	store  string
	frozen bool     // it keeps its connections and does not answer; else it refuses them
	heard  []string // the parts that must say so
}

func (o outage) String() string {
	if o.frozen {
		return o.store + " frozen"
	}
	return o.store + " gone"
}

// oneLine takes a store away for a while from a stack that has traffic, and counts what each part says
// of it: at least one line by each that uses the store, and of one trouble a line at once and each ten
// seconds. One line more is for a trouble that two loops of a part have, or that was there before.
func (o outage) oneLine(t *testing.T, s *stacktest.Stack, away time.Duration) {
	t.Helper()
	whole(t, s)
	before, begun := sizes(t, s), time.Now()
	lift := o.inflict(t, s)
	retry.Pause(t.Context(), away)
	for _, part := range o.heard { // longer than that only where the machine is busy
		testenv.Eventually(t, fmt.Sprintf("%s: %s says so", o, part), func() bool { return len(since(t, s, before)[part]) > 0 })
	}
	lift()
	whole(t, s)
	took := time.Since(begun)
	said := since(t, s, before)
	t.Logf("%s for %v:\n%s", o, took.Round(time.Second), told(said))
	most := 2 + int(took/again)
	for part, lines := range said {
		for what, n := range lines {
			if n > most {
				t.Errorf("%s: %s says %q %d times, want at most %d", o, part, what, n, most)
			}
		}
	}
}

// inflict takes the store away, and gives what brings it back.
func (o outage) inflict(t *testing.T, s *stacktest.Stack) (lift func()) {
	t.Helper()
	must := func(args ...string) {
		if out, err := s.Leaky(t.Context(), args...); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	if !o.frozen {
		must("stop", o.store)
		return func() { must("start", o.store) }
	}
	pids := stacktest.Family(parts(t, s)[o.store].PID)
	signal := func(what syscall.Signal) {
		for _, pid := range pids {
			_ = syscall.Kill(pid, what) // a child may be gone
		}
	}
	signal(syscall.SIGSTOP)
	return func() { signal(syscall.SIGCONT) }
}

// parts are those that run, by name.
func parts(t *testing.T, s *stacktest.Stack) map[string]supervisor.Status {
	t.Helper()
	out, err := s.Leaky(t.Context(), "ps", "-o", "json")
	var all []supervisor.Status
	if err == nil {
		err = json.Unmarshal([]byte(out), &all)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	named := map[string]supervisor.Status{}
	for _, p := range all {
		named[p.Name] = p
	}
	return named
}

// whole waits until every part is ready.
func whole(t *testing.T, s *stacktest.Stack) {
	t.Helper()
	testenv.Within(t, 2*time.Minute, "every part is ready", func() bool {
		for _, p := range parts(t, s) {
			if !p.Up() {
				return false
			}
		}
		return true
	})
}

// someTraffic has an account call, buy and read until stop is called.
func someTraffic(t *testing.T, s *stacktest.Stack) (stop func()) {
	t.Helper()
	who, err := s.NewAccount(t.Context(), "GOLD")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	forever := func(method, path, credential string, body func() any) {
		all.Go(func() {
			for retry.Pause(ctx, 200*time.Millisecond) {
				bounded, cancel := context.WithTimeout(ctx, 2*time.Second)
				_, _, _, _ = s.Send(bounded, method, path, credential, body(), "Idempotency-Key", uuid.NewString())
				cancel()
			}
		})
	}
	forever(http.MethodPost, "/v1/chat/completions", who.Key, func() any {
		return map[string]any{"model": "gpt-4o-mini", "max_tokens": 20, "messages": []any{map[string]any{"role": "user",
			"content": "[[tokens=10]] " + uuid.NewString()}}}
	})
	forever(http.MethodPost, "/api/v1/tokens/consume", who.Key, func() any {
		return map[string]any{"userId": who.ID, "provider": "openai", "tokens": 1}
	})
	forever(http.MethodPost, "/api/v1/tokens/purchase", who.Key, func() any {
		return map[string]any{"userId": who.ID, "provider": "openai", "tokens": 10}
	})
	forever(http.MethodGet, "/api/v1/tokens/quota?provider=openai", who.Key, func() any { return nil })
	forever(http.MethodGet, "/api/v1/analytics/usage?provider=openai", who.Key, func() any { return nil })
	forever(http.MethodGet, "/api/v1/me", who.JWT, func() any { return nil })
	forever(http.MethodPost, "/api/v1/auth/login", "", func() any {
		return map[string]any{"username": who.Name, "password": stacktest.Password}
	})
	return func() { cancel(); all.Wait() }
}

// others write their logs themselves.
func others() []string {
	return []string{topology.Postgres, topology.Redis, topology.Gateway}
}

// logs are the files of our parts, by the part's name.
func logs(t *testing.T, s *stacktest.Stack) map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(stack.LogDir(s.Dir), "*.log"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no logs: %v", err)
	}
	named := map[string]string{}
	for _, file := range files {
		if part := strings.TrimSuffix(filepath.Base(file), ".log"); !slices.Contains(others(), part) {
			named[part] = file
		}
	}
	return named
}

// sizes is how long each log is, in bytes.
func sizes(t *testing.T, s *stacktest.Stack) map[string]int64 {
	t.Helper()
	sizes := map[string]int64{}
	for part, file := range logs(t, s) {
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		sizes[part] = info.Size()
	}
	return sizes
}

// since counts the warnings and errors by part and by what they say, attributes left out but for the part that
// the supervisor speaks of. What is no line of ours, of a library that writes past the log, counts too.
func since(t *testing.T, s *stacktest.Stack, sizes map[string]int64) map[string]map[string]int {
	t.Helper()
	said := map[string]map[string]int{}
	for part, file := range logs(t, s) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(text[min(sizes[part], int64(len(text))):]) {
			one := struct{ Level, Msg, Part string }{"WARN", string(bytes.TrimSpace(line)), ""}
			_ = json.Unmarshal(line, &one) // else it is no line of ours
			if one.Level != "WARN" && one.Level != "ERROR" {
				continue
			}
			if said[part] == nil {
				said[part] = map[string]int{}
			}
			said[part][strings.TrimSpace(one.Msg+" "+one.Part)]++
		}
	}
	return said
}

// told lists the lines, the most frequent first.
func told(said map[string]map[string]int) string {
	type line struct {
		text string
		n    int
	}
	var all []line
	for part, lines := range said {
		for _, what := range slices.Sorted(maps.Keys(lines)) {
			all = append(all, line{part + ": " + what, lines[what]})
		}
	}
	slices.SortStableFunc(all, func(a, b line) int { return cmp.Or(cmp.Compare(b.n, a.n), strings.Compare(a.text, b.text)) })
	var text strings.Builder
	for _, one := range all[:min(len(all), 40)] {
		fmt.Fprintf(&text, "%5d  %.200s\n", one.n, one.text)
	}
	return text.String()
}
