package stack

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func write(t *testing.T, elements ...string) string {
	t.Helper()
	path := filepath.Join(elements...)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestForeignFolderIsRefused(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	thesis := write(t, dir, "thesis.txt")
	if err := OpenStateDir(dir); err == nil || !strings.Contains(err.Error(), "thesis.txt") {
		t.Errorf("open: want an error naming the file, got %v", err)
	}
	if err := Clean(dir); err == nil || !strings.Contains(err.Error(), "not ours") {
		t.Errorf("clean: want a refusal, got %v", err)
	}
	if _, err := os.Stat(thesis); err != nil {
		t.Errorf("the file is gone: %v", err)
	}
}

func TestCleanKeepsOnlyStorePasswords(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	if err := OpenStateDir(dir); err != nil {
		t.Fatal(err)
	}
	gone := []string{write(t, dir, "postgres", "data", "PG_VERSION"), write(t, dir, "secrets", "admin.json"), write(t, dir, "anything",
		"else")}
	kept := []string{write(t, dir, "secrets", "postgres.password"), filepath.Join(dir, marker)}
	if err := Clean(dir); err != nil {
		t.Fatal(err)
	}
	for _, path := range gone {
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("%s: want gone, got %v", path, err)
		}
	}
	for _, path := range kept {
		if _, err := os.Stat(path); err != nil {
			t.Errorf("%s: want kept, got %v", path, err)
		}
	}
	if err := OpenStateDir(dir); err != nil {
		t.Errorf("open after clean: %v", err)
	}
}

func TestCleanOfNothing(t *testing.T) {
	t.Parallel()
	if err := Clean(filepath.Join(t.TempDir(), "never")); err != nil {
		t.Errorf("absent folder: want no error, got %v", err)
	}
	if err := Clean(t.TempDir()); err != nil {
		t.Errorf("empty folder: want no error, got %v", err)
	}
}

func TestLostPasswordIsNotReplaced(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, "postgres", "data", "PG_VERSION")
	if _, err := password(dir, "postgres", true); err == nil || !strings.Contains(err.Error(), "restore the file") {
		t.Errorf("want an error with the way out, got %v", err)
	}
	if _, err := password(dir, "redis", true); err != nil {
		t.Errorf("another store: want a new password, got %v", err)
	}
}
