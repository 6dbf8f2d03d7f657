package stack

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/netaddr"
	"github.com/leaky-tokens/leaky-tokens/internal/settings"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// partsID is the user and group that parts run as when root starts them: none that exists. It is in
// the range that systemd takes for such users (DynamicUser, 61184 to 65519), and not Postgres', which
// needs a user with a name and takes nobody.
const partsID = 61971

// netBindService is CAP_NET_BIND_SERVICE of capabilities(7).
const netBindService = 10

// firstOpenPort is the lowest port that needs no capability.
const firstOpenPort = 1024

// Drop gives parts a user of their own where root starts the stack, if that user can read all
// they need; the error says what it cannot read, and parts then run as root. It must be before
// Parts. Parts share one user, as they meet on Unix sockets.
func (p *Plan) Drop(ctx context.Context, c Commands) error {
	if os.Geteuid() != 0 {
		return nil
	}
	envoy, err := c.Programs.EnvoyBin()
	if err != nil {
		return err
	}
	needs := append([]string{envoy, config.CacheDir(p.getenv), c.Config}, p.limitsFiles(c.Config)...)
	if !p.store(topology.Redis).external {
		redis, err := c.Programs.RedisServer(ctx)
		if err != nil {
			return err
		}
		needs = append(needs, redis)
	}
	for _, path := range needs {
		if err := openToOthers(path); err != nil {
			return err
		}
	}
	if err := handOver(p.dir); err != nil {
		return err
	}
	p.user = &syscall.Credential{Uid: partsID, Gid: partsID}
	return nil
}

// limitsFiles are the files that leaky.yaml names, relative to it.
func (p *Plan) limitsFiles(configPath string) []string {
	var files []string
	for _, file := range append([]string{p.cfg.Limits.File}, p.cfg.Limits.Domains...) {
		if file != "" && !filepath.IsAbs(file) {
			file = filepath.Join(filepath.Dir(configPath), file)
		}
		files = append(files, file)
	}
	return files
}

// self is how parts start the binary that runs: by its path, so that a newer one takes effect at a
// restart, unless their user cannot reach it.
func (p *Plan) self(path string) string {
	if p.user != nil && openToOthers(path) != nil {
		return "/proc/self/exe"
	}
	return path
}

// lowPort is what Envoy needs to listen below the first open port; nil: nothing.
func (p *Plan) lowPort() []uintptr {
	at, err := netaddr.Parse(p.cfg.Gateway.Listen)
	if err != nil || p.user == nil || at.Port >= firstOpenPort {
		return nil
	}
	return []uintptr{netBindService}
}

// openToOthers is an error unless every user can read the file: its mode and that of each folder
// above it.
func openToOthers(path string) error {
	if path == "" {
		return nil
	}
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	need := fs.FileMode(0o004)
	for {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		if info.Mode().Perm()&need != need {
			return fmt.Errorf("%s is closed to the user that parts run as (chmod o+rX %s)", path, path)
		}
		if path == filepath.Dir(path) {
			return nil
		}
		path, need = filepath.Dir(path), 0o001
	}
}

// ownedByParts are the folders of the state folder that parts write.
func ownedByParts() []string {
	folders := []string{"run", "secrets", "spool", settings.Folder}
	for _, part := range topology.Having(func(p topology.Part) bool { return p.Data && p.Name != topology.Postgres }) {
		folders = append(folders, part.Name)
	}
	return folders
}

// handOver gives parts what is theirs, whoever made it.
func handOver(dir string) error {
	for _, folder := range ownedByParts() {
		if err := os.MkdirAll(filepath.Join(dir, folder), 0o700); err != nil {
			return fmt.Errorf("make %s: %w", folder, err)
		}
		err := filepath.WalkDir(filepath.Join(dir, folder), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.Type() == fs.ModeSocket { // whoever listens there made it: the supervisor's is its own
				return err
			}
			return os.Lchown(path, partsID, partsID)
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("hand %s to the user of the parts: %w", folder, err)
		}
	}
	return nil
}

// hand writes a file that only the part's user can read.
func hand(path string, content []byte, to *syscall.Credential) error {
	if err := os.WriteFile(path, content, 0o600); err != nil {
		return err
	}
	return give(path, to)
}

// give makes a file or folder the part's user's.
func give(path string, to *syscall.Credential) error {
	if to == nil {
		return nil
	}
	return os.Chown(path, int(to.Uid), int(to.Gid))
}
