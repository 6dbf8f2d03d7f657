package supervisor

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// TestTrace: one call's lines of all parts, in their order, and those that come while it looks.
func TestTrace(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
	}
	line := func(second, id string) string {
		return `{"time":"2026-01-01T00:00:` + second + `Z","request_id":"` + id + `"}` + "\n"
	}
	write("meter.log", line("03", "call-1")+line("04", "call-2"))
	write("ratelimit.log.1", line("01", "call-1"))
	write("ratelimit.log", line("02", "call-1")+strings.Repeat("x", 2*longestLine)+"\n"+line("05", "other"))
	write("envoy.log", "plain text about call-1\n"+`{"time":"2026-01-01T00:00:09Z","request_id":"call-1"`)
	var got bytes.Buffer
	n, err := Trace(t.Context(), &got, dir, "call-1", false)
	want := "envoy        plain text about call-1\n" +
		"ratelimit    " + line("01", "call-1") + "ratelimit    " + line("02", "call-1") + "meter        " + line("03", "call-1")
	if err != nil || n != 4 || got.String() != want {
		t.Errorf("want\n%s, got %d, %v\n%s", want, n, err, got.String())
	}

	ctx, cancel := context.WithCancel(t.Context())
	var following shared
	var all sync.WaitGroup
	all.Go(func() {
		if n, err := Trace(ctx, &following, dir, "call-3", true); err != nil || n != 1 {
			t.Errorf("want one line, got %d, %v", n, err)
		}
	})
	write("tokensvc.log", line("10", "call-3"))
	testenv.Eventually(t, "the line that came", func() bool { return strings.Contains(following.String(), "tokensvc     "+line("10", "call-3")) })
	cancel()
	all.Wait()
}

// shared is a buffer that one writes and another reads.
type shared struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *shared) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *shared) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}
