package chaos

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// rooms are the bytes of the disk that each folder of the state folder gets for itself. NATS is started
// anew where 64 MiB are free, Postgres' log of changes alone takes as much, and a sixteenth of the
// spool's is kept free.
func rooms() map[string]int64 {
	return map[string]int64{topology.NATS: 256 << 20, topology.Postgres: 320 << 20, topology.ClickHouse: 128 << 20,
		topology.Redis: 48 << 20, spool: 64 << 20}
}

// filler is the file that takes what is left.
const filler = "filler"

// disks mounts a small disk for each store of a stack that is not started yet, and says whether it
// may: where it may not, a part whose disk would be full is frozen.
func disks(t *testing.T, state string) bool {
	t.Helper()
	if err := os.Mkdir(state, 0o711); err != nil {
		t.Fatal(err)
	}
	for name, size := range rooms() {
		dir := filepath.Join(state, name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", size))
		if errors.Is(err, syscall.EPERM) {
			t.Logf("this user may not mount a small disk (%v): parts are frozen in place of filling their disks", err)
			return false
		}
		if err != nil {
			t.Fatalf("mount a disk for %s: %v", name, err)
		}
		t.Cleanup(func() {
			if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
				t.Errorf("unmount the disk of %s: %v", name, err)
			}
		})
	}
	return true
}

// fill takes every byte that is left in a folder.
func fill(dir string) error {
	file, err := os.OpenFile(filepath.Join(dir, filler), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	for block := make([]byte, 1<<20); len(block) > 0 && err == nil; {
		if _, err = file.Write(block); errors.Is(err, syscall.ENOSPC) {
			block, err = block[:len(block)/2], nil
		}
	}
	return errors.Join(err, file.Close())
}

// clear gives it back.
func clear(dir string) error { return os.Remove(filepath.Join(dir, filler)) }

// copied copies a folder of files as it is just then, with their owners; a file that goes meanwhile is
// left out.
func copied(from, to string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	if err := sameOwner(from, to, os.Mkdir(to, 0o700)); err != nil {
		return err
	}
	for _, e := range entries {
		if err := copyFile(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return sameOwner(from, to, errors.Join(err, out.Close()))
}

func sameOwner(from, to string, err error) error {
	if err != nil {
		return err
	}
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); ok {
		return os.Lchown(to, int(owner.Uid), int(owner.Gid))
	}
	return nil
}
