package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestTheContentIsSyncedBeforeItsNameAndTheNameBeforeTheEnd records what is done to the disk, in order.
func TestTheContentIsSyncedBeforeItsNameAndTheNameBeforeTheEnd(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "checkpoint")
	var did []string
	sync := func(f *os.File) error {
		if f.Name() == dir {
			did = append(did, "sync the folder")
			return f.Sync()
		}
		text, err := os.ReadFile(f.Name())
		did = append(did, fmt.Sprintf("sync %q", text))
		return errors.Join(err, f.Sync())
	}
	rename := func(from, to string) error {
		did = append(did, "rename to "+filepath.Base(to))
		return os.Rename(from, to)
	}
	if err := put(path, []byte("new"), nil, rename, sync); err != nil {
		t.Fatal(err)
	}
	if want := []string{`sync "new"`, "rename to checkpoint", "sync the folder"}; !slices.Equal(did, want) {
		t.Errorf("want %q, got %q", want, did)
	}
}

// TestAContentThatIsNotSyncedGetsNoName: a disk that fails leaves the old file.
func TestAContentThatIsNotSyncedGetsNoName(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "checkpoint")
	if err := Replace(path, []byte("old")); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("input/output error")
	if err := put(path, []byte("new"), nil, os.Rename, func(*os.File) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("want %v, got %v", broken, err)
	}
	expect(t, path, "old", 0o600)
}

// TestAFolderThatIsNotSyncedIsSaid: the name may be lost.
func TestAFolderThatIsNotSyncedIsSaid(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	broken := errors.New("input/output error")
	err := put(filepath.Join(dir, "checkpoint"), nil, nil, os.Rename, func(f *os.File) error {
		if f.Name() == dir {
			return broken
		}
		return nil
	})
	if !errors.Is(err, broken) {
		t.Errorf("want %v, got %v", broken, err)
	}
}

func TestReplaceAndCreate(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "f")
	if err := Create(path, []byte("one"), Mode(0o640), Owner(os.Getuid(), os.Getgid())); err != nil {
		t.Fatal(err)
	}
	expect(t, path, "one", 0o640)
	if err := Create(path, []byte("two")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("want %v, got %v", fs.ErrExist, err)
	}
	expect(t, path, "one", 0o640)
	if err := Replace(path, []byte("three")); err != nil {
		t.Fatal(err)
	}
	expect(t, path, "three", 0o600)
}

// TestSweepRemovesWhatCrashesLeft of this file, and of no other.
func TestSweepRemovesWhatCrashesLeft(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "f")
	for _, name := range []string{path, filepath.Join(filepath.Dir(path), ".f.new-17"), filepath.Join(filepath.Dir(path), ".g.new-17")} {
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := Sweep(path); err != nil {
		t.Fatal(err)
	}
	var left []string
	entries, err := os.ReadDir(filepath.Dir(path))
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if want := []string{".g.new-17", "f"}; err != nil || !slices.Equal(left, want) {
		t.Errorf("want %q, got %q, %v", want, left, err)
	}
}

// expect also wants no file beside it.
func expect(t *testing.T, path, content string, mode fs.FileMode) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || string(got) != content {
		t.Errorf("want %q, got %q, %v", content, got, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode {
		t.Errorf("want mode %v, got %v, %v", mode, info.Mode().Perm(), err)
	}
	if all, err := os.ReadDir(filepath.Dir(path)); err != nil || len(all) != 1 {
		t.Errorf("want nothing beside the file, got %v, %v", all, err)
	}
}
