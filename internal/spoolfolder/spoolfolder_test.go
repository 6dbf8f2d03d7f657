package spoolfolder

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/filelock"
)

// TestAFolderHasOneOwner in both roles, whoever comes first, until it ends.
func TestAFolderHasOneOwner(t *testing.T) {
	t.Parallel()
	for _, roles := range [][2]Role{{Writer, Writer}, {Writer, Reader}, {Reader, Writer}, {Reader, Reader}} {
		t.Run(string(roles[0])+" then "+string(roles[1]), func(t *testing.T) {
			t.Parallel()
			folder, first, second := t.TempDir(), Of(t.TempDir()), Of(t.TempDir())
			claim, err := Hold(folder, roles[0], first)
			if err != nil || claim.Unsure != nil {
				t.Fatal(err, claim.Unsure)
			}
			if err := Check(folder, first); err != nil {
				t.Errorf("its owner: want no error, got %v", err)
			}
			_, held := Hold(folder, roles[1], second)
			for _, err := range []error{held, Check(folder, second)} {
				shared, ok := errors.AsType[*SharedError](err)
				if !ok || shared.Owner != first.path || shared.Folder != folder {
					t.Errorf("want %s named as the owner of %s, got %v", first.path, folder, err)
				}
			}
			if text, _, _ := filelock.Holder(filepath.Join(folder, string(roles[0]))); text != first.text() {
				t.Errorf("who was refused left its name: %q", text)
			}
			claim.Release()
			again, err := Hold(folder, roles[1], second)
			if err != nil {
				t.Fatalf("after it has ended: %v", err)
			}
			again.Release()
		})
	}
}

// TestAnEnvoyAndItsMeterShareTheirFolder, at whatever path they see the state folder.
func TestAnEnvoyAndItsMeterShareTheirFolder(t *testing.T) {
	t.Parallel()
	folder, state, mounted := t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "mounted")
	if err := os.Symlink(state, mounted); err != nil {
		t.Fatal(err)
	}
	writer, err := Hold(folder, Writer, Of(state))
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Release()
	reader, err := Hold(folder, Reader, Of(mounted))
	if err != nil {
		t.Fatal(err)
	}
	if err := Vacant(folder, Of(state)); err == nil {
		t.Error("an Envoy writes there: want an error for one more")
	}
	writer.Release()
	if err := Vacant(folder, Of(state)); err != nil {
		t.Errorf("its meter alone, as when a container is started anew: want no error, got %v", err)
	}
	reader.Release()
}

// TestAFullDiskHindersNobody: neither the file of the lock nor what stands in it may be in the way.
func TestAFullDiskHindersNobody(t *testing.T) {
	t.Parallel()
	mine := Of(t.TempDir())
	noRoom := func(path string) (*filelock.Lock, error) {
		return nil, &os.PathError{Op: "open", Path: path, Err: syscall.ENOSPC}
	}
	claim, err := hold(t.TempDir(), Writer, mine, noRoom)
	if err != nil || !errors.Is(claim.Unsure, syscall.ENOSPC) || strings.Contains(claim.Unsure.Error(), "\n") {
		t.Errorf("no room for the file: want a claim and one line, got %v, %v", claim, err)
	}
	claim.Release()
	noBlock := func(string) (*filelock.Lock, error) { return filelock.Take("/dev/full") }
	folder := t.TempDir()
	if claim, err = hold(folder, Writer, mine, noBlock); err != nil || !errors.Is(claim.Unsure, syscall.ENOSPC) ||
		strings.Contains(claim.Unsure.Error(), "\n") {
		t.Fatalf("no room for the name: want a claim that says so, got %v, %v", claim, err)
	}
	claim.Release()
}
