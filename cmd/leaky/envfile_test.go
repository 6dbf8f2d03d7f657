package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestVariablesFromFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte("redis://:word@host/0\n"), 0o400); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"LEAKY_TEST_ONE", "LEAKY_TEST_TWO", "OTHER_TEST"} {
		t.Setenv(name, "")
		t.Setenv(name+"_FILE", path)
	}
	t.Setenv("LEAKY_TEST_TWO", "stated")
	if err := readFiles(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"LEAKY_TEST_ONE": "redis://:word@host/0", "LEAKY_TEST_TWO": "stated", "OTHER_TEST": ""} {
		if got := os.Getenv(name); got != want {
			t.Errorf("%s: want %q, got %q", name, want, got)
		}
	}
	t.Setenv("LEAKY_TEST_THREE_FILE", path+".gone")
	if err := readFiles(); err == nil || !strings.Contains(err.Error(), "LEAKY_TEST_THREE_FILE") || strings.Contains(err.Error(), "word") {
		t.Errorf("want an error that names the variable, got %v", err)
	}
}
