//go:build long

package fleet

import (
	"cmp"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/stacktest"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// TestVersionsRunBesideEachOther upgrades a stack under load, process by process, and goes back: the version
// before works beside this one, on the schemas of this one, and no call is lost to either way. The version
// before is that of LEAKY_PREVIOUS (a commit or a tag), else what was before the newest migration.
func TestVersionsRunBesideEachOther(t *testing.T) {
	dir := testenv.Folder(t)
	older, newer := previous(t, dir), filepath.Join(dir, "newer")
	build(t, filepath.Join("..", ".."), newer)
	bin := filepath.Join(dir, "leaky")
	replace(t, bin, older)
	options := []stacktest.Option{stacktest.Built(bin)}
	var doubled []string
	for _, part := range topology.Of(topology.Service) {
		if part.Replicas && part.Name != topology.Console {
			options, doubled = append(options, stacktest.Replicas(part.Name, 2)), append(doubled, part.Name)
		}
	}
	s, err := stacktest.New(t.Context(), dir, 1, options...)
	if err != nil {
		t.Fatal(err)
	}
	plain(t, s, s)
	up(t, s)
	load := newTraffic(t, s)
	stop := load.flow(t.Context())
	defer stop()
	singles := []string{topology.XDS, topology.Meter, topology.Console}
	var seconds []string
	for _, name := range doubled {
		seconds = append(seconds, name+"-2")
	}
	for _, phase := range []struct {
		name, bin string
		parts     []string
	}{
		{"the version before alone", older, nil},
		{"this version beside it, which brought the schemas up to date", newer, doubled},
		{"this version alone", newer, slices.Concat(seconds, singles)},
		{"the version before again beside it, on the new schemas", older, seconds},
		{"the version before alone, on the new schemas", older, slices.Concat(doubled, singles)},
		{"this version again", newer, slices.Concat(doubled, seconds, singles)},
	} {
		replace(t, bin, phase.bin)
		for _, name := range phase.parts {
			if out, err := s.Leaky(t.Context(), "restart", name); err != nil {
				t.Fatalf("%s: restart %s: %v\n%s", phase.name, name, err, out)
			}
		}
		enough(t, load, 300)
		sum, said := load.sofar()
		if t.Logf("%s: %v\n%s", phase.name, sum, said); sum.answered() < 0.999 {
			t.Errorf("%s: %d calls were not answered", phase.name, sum.Failed)
		}
	}
	stop()
	load.books(t, newer)
}

// enough waits until so many calls more were made.
func enough(t *testing.T, load *traffic, calls int) {
	t.Helper()
	made := func() int {
		load.mu.Lock()
		defer load.mu.Unlock()
		return load.sum.Calls
	}
	for begun, tick := made(), time.NewTicker(50*time.Millisecond); made() < begun+calls; {
		select {
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		case <-tick.C:
		}
	}
}

// previous builds the version before this one and gives its binary.
func previous(t *testing.T, dir string) string {
	t.Helper()
	version := cmp.Or(os.Getenv("LEAKY_PREVIOUS"), git(t, "log", "-1", "--format=%H", "--diff-filter=A", "--", "*/migrations/*.sql")+"^")
	t.Logf("the version before: %s", git(t, "log", "-1", "--format=%h of %cs, %s", version))
	t.Logf("migrations since: %s", cmp.Or(git(t, "diff", "--name-only", "--diff-filter=A", version, "--", "*/migrations/*.sql"), "none"))
	tree := filepath.Join(dir, "tree")
	if err := os.Mkdir(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(dir, "tree.tar")
	git(t, "archive", "--output", archive, version)
	if out, err := exec.CommandContext(t.Context(), "tar", "-xf", archive, "-C", tree).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	bin := filepath.Join(dir, "older")
	build(t, tree, bin)
	return bin
}

// git runs in the root of the repository, whose history it needs.
func git(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "git", append([]string{"-C", filepath.Join("..", "..")}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("git %s: %v\n%s", args[0], err, out)
	}
	return strings.TrimSpace(string(out))
}

func build(t *testing.T, tree, bin string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "./cmd/leaky")
	cmd.Dir, cmd.Env = tree, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// replace puts a binary in the place of another, which may run.
func replace(t *testing.T, bin, with string) {
	t.Helper()
	fresh := bin + ".fresh"
	if err := os.Link(with, fresh); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(fresh, bin); err != nil {
		t.Fatal(err)
	}
	os.Remove(fresh) // where both are the same file a rename leaves it
}
