package binaries

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"
)

// fetch downloads, checks and unpacks one part beside its final place, then renames it
// there: a folder with the final name is complete or does not exist.
func (s *Store) fetch(ctx context.Context, p Part) error {
	f, err := s.file(p)
	if err != nil {
		return err
	}
	if err := openFolder(s.dir); err != nil {
		return err
	}
	unlock, err := s.lockPart(ctx, p)
	if err != nil {
		return err
	}
	defer unlock()
	if s.complete(p) { // another process fetched it while this one waited
		return nil
	}
	stage, err := s.stage(p)
	if err != nil {
		return err
	}
	defer os.RemoveAll(stage)
	if err := s.obtain(ctx, p, f, stage); err != nil {
		return err
	}
	tree := filepath.Join(stage, "tree")
	if err := os.Mkdir(tree, 0o755); err != nil {
		return err
	}
	if err := unpack(p, filepath.Join(stage, "in", f.File), tree); err != nil {
		return fmt.Errorf("unpack %s: %w", f.File, err)
	}
	if err := seal(tree, f); err != nil {
		return err
	}
	if err := os.RemoveAll(s.folder(p)); err != nil { // an older or torn one
		return err
	}
	return os.Rename(tree, s.folder(p))
}

// obtain leaves the archive in stage/in, its hash checked.
func (s *Store) obtain(ctx context.Context, p Part, f File, stage string) error {
	in := filepath.Join(stage, "in")
	if err := os.Mkdir(in, 0o755); err != nil {
		return err
	}
	bar := startBar(s.progress, p, f, stage)
	err := s.download(ctx, p, f, in)
	if err == nil {
		err = verify(filepath.Join(in, f.File), f)
	}
	bar.stop(err == nil)
	return err
}

// openFolder makes a folder that every user can pass through: Postgres runs as another.
func openFolder(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.Chmod(dir, 0o755) // whatever the umask
}

// stage makes the working folder of a fetch and removes what a killed one left. Only
// the holder of the part's lock comes here.
func (s *Store) stage(p Part) (string, error) {
	stage := filepath.Join(s.dir, ".fetching-"+p.Name)
	if err := os.RemoveAll(stage); err != nil {
		return "", err
	}
	return stage, os.Mkdir(stage, 0o755)
}

// lockPart takes the part's lock; the kernel releases it if this process dies.
func (s *Store) lockPart(ctx context.Context, p Part) (unlock func(), err error) {
	lock := flock.New(filepath.Join(s.dir, ".lock-"+p.Name), flock.SetPermissions(0o644))
	held, err := lock.TryLock()
	if err == nil && !held {
		fmt.Fprintf(s.progress, "  %s: another process is fetching it, waiting\n", p.Name)
		held, err = lock.TryLockContext(ctx, 100*time.Millisecond)
	}
	if err != nil || !held {
		return nil, fmt.Errorf("lock %s: %w", lock.Path(), cmp.Or(err, context.Cause(ctx)))
	}
	return func() { _ = lock.Close() }, nil
}

// verify compares the file's SHA-256 with the pinned one.
func verify(path string, f File) error {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the download ended without %s", f.File)
	}
	if err != nil {
		return err
	}
	defer file.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, file)
	if err != nil {
		return err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != f.SHA256 {
		return fmt.Errorf("%s has sha256 %s (%d bytes), pinned is %s (%d bytes): refused", f.File, got, n, f.SHA256, f.Bytes)
	}
	return nil
}

// seal checks that the program is there and writes the stamp.
func seal(tree string, f File) error {
	info, err := os.Stat(filepath.Join(tree, filepath.FromSlash(f.Entry)))
	if err != nil {
		return fmt.Errorf("the archive lacks its program: %w", err)
	}
	text, err := json.Marshal(stamp{SHA256: f.SHA256, EntryBytes: info.Size()})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(tree, stampFile), text, 0o644)
}
