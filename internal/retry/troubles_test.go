package retry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/retry"
)

const (
	waits = "publishing waits"
	goes  = "publishing goes on"
)

// plain logs without the time.
func plain(out *bytes.Buffer) *slog.Logger {
	return slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
}

func TestATroubleIsFewLines(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		tries string // one a second: x fails, . succeeds
		want  []string
	}{
		{"nothing", "...", nil},
		{"once", "x", []string{"WARN waits times=1"}},
		{"for a while", "xxx.", []string{"WARN waits times=1", "INFO goes on lasted=3s times=3"}},
		{"for longer", strings.Repeat("x", 25) + ".", []string{"WARN waits times=1", "WARN waits times=10", "WARN waits times=10",
			"INFO goes on lasted=25s times=25"}},
		{"twice, far apart", "x.........." + "x.", []string{"WARN waits times=1", "INFO goes on lasted=1s times=1", "WARN waits times=1",
			"INFO goes on lasted=1s times=1"}},
		{"again within ten seconds", "x.x.x.", []string{"WARN waits times=1", "INFO goes on lasted=1s times=1"}},
		{"again within ten seconds, and longer", "x." + strings.Repeat("x", 10) + ".", []string{"WARN waits times=1",
			"INFO goes on lasted=1s times=1", "WARN waits times=9", "INFO goes on lasted=10s times=10"}},
		{"on and off for a minute", strings.Repeat("x.", 30), []string{"WARN waits times=1", "INFO goes on lasted=1s times=1",
			"WARN waits times=5", "INFO goes on lasted=1s times=1", "WARN waits times=5", "INFO goes on lasted=1s times=1",
			"WARN waits times=5", "INFO goes on lasted=1s times=1", "WARN waits times=5", "INFO goes on lasted=1s times=1",
			"WARN waits times=5", "INFO goes on lasted=1s times=1"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var out bytes.Buffer
				questions := 0
				troubles := retry.NewTroubles(plain(&out))
				for _, try := range tc.tries {
					if try == 'x' {
						troubles.Warn(t.Context(), waits, errAway, retry.Waiting(func() int64 { questions++; return 7 }))
					} else {
						troubles.Over(t.Context(), waits, goes)
					}
					time.Sleep(time.Second)
				}
				var want strings.Builder
				said := 0
				for _, line := range tc.want {
					level, rest, _ := strings.Cut(line, " ")
					text, times, _ := strings.Cut(rest, " times=")
					if level == "WARN" {
						said++
						fmt.Fprintf(&want, "level=WARN msg=%q error=away times=%s waiting=7\n", "publishing "+text, times)
						continue
					}
					text, lasted, _ := strings.Cut(text, " lasted=")
					fmt.Fprintf(&want, "level=INFO msg=%q lasted=%s times=%s\n", "publishing "+text, lasted, times)
				}
				if out.String() != want.String() {
					t.Errorf("want\n%s, got\n%s", &want, &out)
				}
				if questions != said {
					t.Errorf("want it asked for %d lines what waits, was %d times", said, questions)
				}
			})
		})
	}
}

// TestTroublesAreKnownApart by what is said of them, also from many goroutines.
func TestTroublesAreKnownApart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		troubles := retry.NewTroubles(plain(&out))
		var all sync.WaitGroup
		for _, what := range []string{"one", "two"} {
			for range 50 {
				all.Go(func() { troubles.Say(t.Context(), slog.LevelError, what, nil) })
			}
		}
		all.Wait()
		time.Sleep(10 * time.Second)
		troubles.Over(t.Context(), "three", "never was")
		troubles.Say(t.Context(), slog.LevelError, "one", nil)
		troubles.Over(t.Context(), "one", "one is over")
		for line, want := range map[string]int{"level=ERROR msg=one times=1\n": 1, "level=ERROR msg=two times=1\n": 1,
			"level=ERROR msg=one times=50\n": 1, "level=INFO msg=\"one is over\" lasted=10s times=51\n": 1, "\n": 4} {
			if got := strings.Count(out.String(), line); got != want {
				t.Errorf("want %q %d times, got\n%s", line, want, &out)
			}
		}
	})
}

func ExampleTroubles() {
	log := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey || a.Key == "lasted" {
			return slog.Attr{}
		}
		return a
	}}))
	troubles := retry.NewTroubles(log)
	publish := func(err error) {
		if err != nil {
			troubles.Warn(context.Background(), "publishing waits for NATS", err, retry.Waiting(func() int64 { return 40 }))
			return
		}
		troubles.Over(context.Background(), "publishing waits for NATS", "publishing goes on")
	}
	for range 40 {
		publish(errors.New("connection refused"))
	}
	publish(nil)
	// Output:
	// level=WARN msg="publishing waits for NATS" error="connection refused" times=1 waiting=40
	// level=INFO msg="publishing goes on" times=40
}
