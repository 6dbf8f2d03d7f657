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

func TestTail(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 100<<10)
	for _, tc := range []struct {
		name, text string
		n          int
		want       string
	}{
		{"empty", "", 5, ""},
		{"none asked", "a\nb\n", 0, ""},
		{"last two", "a\nb\nc\n", 2, "b\nc\n"},
		{"open last line counts", "a\nb\nc", 2, "b\nc"},
		{"fewer than asked", "a\nb\n", 9, "a\nb\n"},
		{"lines longer than a block", long + "\n" + long + "1\n" + long + "2\n", 2, long + "1\n" + long + "2\n"},
		{"empty lines", "a\n\n\n", 2, "\n\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "x.log")
			if err := os.WriteFile(path, []byte(tc.text), 0o600); err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			if err := Tail(t.Context(), &out, path, tc.n, false); err != nil || out.String() != tc.want {
				t.Errorf("want %d bytes %.20q, got %d bytes %.20q, %v", len(tc.want), tc.want, out.Len(), out.String(), err)
			}
		})
	}
}

type locked struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *locked) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestTailFollows(t *testing.T) {
	t.Parallel()
	logs := logFolder(t.TempDir())
	f, err := logs.open("a")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out locked
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Tail(ctx, &out, logs.path("a"), 10, true) }()
	for _, line := range []string{"one\n", "two\n"} {
		if _, err := f.WriteString(line); err != nil {
			t.Fatal(err)
		}
		testenv.Eventually(t, "the line appears", func() bool { return strings.HasSuffix(out.String(), line) })
	}
	if err := f.Truncate(0); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, "a line after truncation appears", func() bool {
		_, err := f.WriteString("3\n")
		return err != nil || strings.HasSuffix(out.String(), "3\n")
	})
	cancel()
	if err := <-done; err != nil {
		t.Errorf("follow ended with %v", err)
	}
}

func TestLogIsTrimmed(t *testing.T) {
	t.Parallel()
	logs := logFolder(t.TempDir())
	text := bytes.Repeat([]byte("0123456789\n"), logLimit/11+100)
	if err := os.WriteFile(logs.path("a"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := logs.open("a")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString("new\n"); err != nil {
		t.Fatal(err)
	}
	now, err := os.ReadFile(logs.path("a"))
	if err != nil || string(now) != "new\n" {
		t.Errorf("log: want only the new line, got %d bytes, %v", len(now), err)
	}
	old, err := os.Stat(logs.path("a") + ".1")
	if err != nil || old.Size() != logLimit {
		t.Errorf("old log: want %d bytes, got %v, %v", logLimit, old, err)
	}
}
