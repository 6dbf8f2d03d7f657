package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/settings"
)

const twoProviders = `providers:
  one: {url: "https://one.example"}
  two: {url: "https://two.example"}
models:
  - {name: a, provider: one}
`

// TestCheckReadsAPipe: leaky check <(cat leaky.yaml). What a pipe has is there once.
func TestCheckReadsAPipe(t *testing.T) {
	t.Setenv("LEAKY_STATE_DIR", t.TempDir())
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.WriteString(w, twoProviders); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := (checkCommand{File: fmt.Sprintf("/dev/fd/%d", r.Fd())}).Run(&cli{}); err != nil {
		t.Error(err)
	}
}

// TestAServiceManagerAcceptsNothing: where leaky.yaml was cut and the machine starts again, the gateway
// starts from the last good content, and nobody has said that the cut one is meant. A person who starts the
// stack has.
func TestAServiceManagerAcceptsNothing(t *testing.T) {
	dir, path := t.TempDir(), filepath.Join(t.TempDir(), "leaky.yaml")
	t.Setenv("LEAKY_STATE_DIR", dir)
	put := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	accepted := filepath.Join(dir, settings.Folder, "accepted")
	start := func(u upCommand) (providers int, said string) {
		t.Helper()
		var out strings.Builder
		l, err := u.open(&out, &cli{Config: path})
		if err != nil {
			t.Fatal(err)
		}
		u.accept(&out, l)
		return len(l.cfg.Providers), out.String()
	}
	service := upCommand{Foreground: true}
	put(twoProviders)
	if n, said := start(service); n != 2 || said != "" {
		t.Errorf("the first start: want the file followed, got %d providers: %s", n, said)
	}
	if _, err := os.Stat(filepath.Join(dir, settings.Folder)); err == nil {
		t.Error("the first start wrote into a folder that nobody has looked at")
	}
	if _, err := settings.New(path, dir, os.Getenv, slog.New(slog.DiscardHandler)).Open(); err != nil { // a part
		t.Fatal(err)
	}
	put(strings.Replace(twoProviders, "  two: {url: \"https://two.example\"}\n", "", 1))
	if n, said := start(service); n != 2 || !strings.Contains(said, "providers are gone: two") {
		t.Errorf("want the last good content, got %d providers: %s", n, said)
	}
	if _, err := os.Stat(accepted); err == nil {
		t.Error("a service manager accepted what was cut")
	}
	put("provider: {}\n")
	if n, said := start(service); n != 2 || !strings.Contains(said, "leaky.yaml:1:1") {
		t.Errorf("a mistake: want the last good content, got %d providers: %s", n, said)
	}
	put(strings.Replace(twoProviders, "  two: {url: \"https://two.example\"}\n", "", 1))
	if n, said := start(upCommand{}); n != 1 || !strings.Contains(said, "providers are gone: two") {
		t.Errorf("a person: want the file followed, got %d providers: %s", n, said)
	}
	if _, err := os.Stat(accepted); err != nil {
		t.Errorf("a person who starts the stack means it: %v", err)
	}
}
