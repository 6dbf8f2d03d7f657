package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestEachCommandHasAPage: what --help says, in the macros of man(7).
func TestEachCommandHasAPage(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "man1")
	if _, errs, ok := leaky(t, stateDir(t), nil, "man", dir); !ok {
		t.Fatal(errs)
	}
	pages, err := filepath.Glob(filepath.Join(dir, "*.1"))
	if err != nil || len(pages) < 40 {
		t.Fatalf("%d pages, %v", len(pages), err)
	}
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{".TH ", ".SH NAME\n", ".SH SYNOPSIS\n"} {
			if !strings.Contains(string(text), want) {
				t.Errorf("%s has no %q", page, want)
			}
		}
		if strings.Contains(string(text), "${") {
			t.Errorf("%s has a variable that nobody filled", page)
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, "leaky-backup.1"))
	if err != nil || !strings.Contains(string(text), `\-\-recipient`) || !strings.Contains(string(text), ".nf\n    leaky backup") {
		t.Errorf("%v in\n%s", err, text)
	}
	if out, _, ok := leaky(t, stateDir(t), nil, "man"); !ok || !strings.Contains(out, ".SH COMMANDS\n") || strings.Contains(out, ".B supervise") {
		t.Errorf("leaky's own page: %s", out)
	}
}

func TestNothingInAPageIsAMacro(t *testing.T) {
	t.Parallel()
	if got, want := roff(".so /etc/passwd\n'x\na\\b --c"), "\\&.so /etc/passwd\n\\&'x\na\\eb \\-\\-c"; got != want {
		t.Errorf("want %q, got %q", want, got)
	}
}
