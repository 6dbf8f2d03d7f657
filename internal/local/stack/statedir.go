package stack

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/leaky-tokens/leaky-tokens/internal/secretfile"
	"github.com/leaky-tokens/leaky-tokens/internal/settings"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// marker tells that a folder is ours, so that --clean never empties another.
const marker = ".leaky-tokens"

// ours tells whether an entry of this name in the state folder is made by us.
func ours(name string) bool {
	part, _ := topology.Find(name)
	return part.Data || slices.Contains([]string{"logs", "run", "secrets", "spool", settings.Folder}, name)
}

// OpenStateDir makes the state folder, or checks that an existing one is ours.
func OpenStateDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("open state folder: %w", err)
	}
	if !marked(entries) {
		for _, e := range entries {
			if !ours(e.Name()) {
				return fmt.Errorf("open state folder: %s holds %q, which is not ours; set LEAKY_STATE_DIR to an empty folder", dir, e.Name())
			}
		}
	}
	// Root's Postgres runs as another user, who must be able to pass through.
	mode := fs.FileMode(0o700)
	if os.Geteuid() == 0 {
		mode = 0o711
	}
	for path, mode := range map[string]fs.FileMode{dir: mode, filepath.Join(dir, "run"): 0o700, filepath.Join(dir, "logs"): 0o700,
		filepath.Join(dir, "secrets"): 0o700} {
		if err := errors.Join(os.MkdirAll(path, mode), os.Chmod(path, mode)); err != nil {
			return fmt.Errorf("open state folder: %w", err)
		}
	}
	note := "This folder belongs to Leaky Tokens; `leaky up --clean` empties it.\n"
	if err := os.WriteFile(filepath.Join(dir, marker), []byte(note), 0o600); err != nil {
		return fmt.Errorf("open state folder: %w", err)
	}
	return passable(dir)
}

func marked(entries []fs.DirEntry) bool {
	return slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == marker })
}

// passable checks that the unprivileged user of Postgres reaches the folder.
func passable(dir string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	for path := filepath.Dir(dir); ; path = filepath.Dir(path) {
		info, err := os.Stat(path)
		if err != nil {
			return fmt.Errorf("open state folder: %w", err)
		}
		if info.Mode().Perm()&0o001 == 0 {
			return fmt.Errorf("open state folder: %s is closed to the unprivileged user that Postgres runs as (chmod o+x %s, or set LEAKY_STATE_DIR)", path, path)
		}
		if path == filepath.Dir(path) {
			return nil
		}
	}
}

// Clean removes all data, but for the passwords of our own stores: a shell that has
// `leaky env` in its environment goes on working. Nothing may be running.
func Clean(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("clean state folder: %w", err)
	}
	if !marked(entries) {
		return fmt.Errorf("clean state folder: %s has no file %s, so it is not ours to empty; check LEAKY_STATE_DIR", dir, marker)
	}
	kept := map[string]bool{}
	for _, store := range topology.Of(topology.Store) {
		kept[passwordFile(dir, store.Name)] = true
	}
	secrets, err := os.ReadDir(filepath.Join(dir, "secrets"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("clean state folder: %w", err)
	}
	var failures []error
	for _, e := range secrets {
		if path := filepath.Join(dir, "secrets", e.Name()); !kept[path] {
			failures = append(failures, os.RemoveAll(path))
		}
	}
	for _, e := range entries {
		if e.Name() != marker && e.Name() != "secrets" {
			failures = append(failures, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	if err := errors.Join(failures...); err != nil {
		return fmt.Errorf("clean state folder: %w", err)
	}
	return nil
}

func passwordFile(dir, store string) string { return filepath.Join(dir, "secrets", store+".password") }

// password is the secret of a store that we run, made on first use. Without create, ""
// means that there is none yet.
func password(dir, store string, create bool) (string, error) {
	path := passwordFile(dir, store)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if !create {
			return "", nil
		}
		if _, err := os.Stat(filepath.Join(dir, store, "data", "PG_VERSION")); err == nil {
			return "", fmt.Errorf("%s is gone, but the database that knows the password is there: restore the file, or start over with `leaky up --clean`", path)
		}
	}
	text, err := secretfile.LoadOrCreate(path, newPassword)
	if err != nil {
		return "", fmt.Errorf("password of %s: %w", store, err)
	}
	return strings.TrimSpace(string(text)), nil
}

// unprivileged is who Postgres runs as when we are root, else nil: ourselves.
func unprivileged() *syscall.Credential {
	if os.Geteuid() != 0 {
		return nil
	}
	uid, gid := 65534, 65534
	if u, err := user.Lookup("nobody"); err == nil {
		if n, err := strconv.Atoi(u.Uid); err == nil {
			uid = n
		}
		if n, err := strconv.Atoi(u.Gid); err == nil {
			gid = n
		}
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}
