package archtest

import (
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// step is a row of the walk in docs/architecture.md.
type step struct{ file, function string }

func readWalk(t *testing.T) (steps []step) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root(), "docs", "architecture.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, walk, _ := strings.Cut(string(text), "## The walk of a request to its hold\n")
	walk, _, _ = strings.Cut(walk, "\n## ")
	row := regexp.MustCompile("(?m)^\\| \\d+ \\| `([^`]+)` \\| (?:`([^`]+)`)? *\\|")
	for _, m := range row.FindAllStringSubmatch(walk, -1) {
		steps = append(steps, step{m[1], m[2]})
	}
	return steps
}

// TestTheWalkOfARequestIsShort: at most 25 files in 7 packages, each entered once, and each
// file has the function that the walk names.
func TestTheWalkOfARequestIsShort(t *testing.T) {
	t.Parallel()
	steps := readWalk(t)
	var entered []string
	for _, s := range steps {
		dir := strings.TrimSuffix(path.Dir(s.file), "/lua") // embedded by the package above it
		if len(entered) == 0 || entered[len(entered)-1] != dir {
			if slices.Contains(entered, dir) {
				t.Errorf("%s is entered twice, by %s", dir, s.file)
			}
			entered = append(entered, dir)
		}
		text, err := os.ReadFile(filepath.Join(root(), filepath.FromSlash(s.file)))
		if err != nil {
			t.Errorf("the walk names a file that is not there: %v", err)
			continue
		}
		if name := s.function[strings.LastIndexByte(s.function, '.')+1:]; !strings.Contains(string(text), name) {
			t.Errorf("%s has no %s", s.file, s.function)
		}
	}
	if len(steps) < 15 || len(steps) > 25 || len(entered) > 7 {
		t.Errorf("want 15 to 25 files in at most 7 packages, got %d in %v", len(steps), entered)
	}
}

// TestThePackagesOfTheWalkImportTheNext reads the imports: a package of the walk is
// imported by one before it, or Envoy stands between them.
func TestThePackagesOfTheWalkImportTheNext(t *testing.T) {
	t.Parallel()
	imports := map[string][]string{}
	for _, s := range sources(t) {
		for _, imp := range s.file.Imports {
			if dep, ours := strings.CutPrefix(strings.Trim(imp.Path.Value, `"`), module); ours && !strings.HasSuffix(s.path, "_test.go") {
				imports[path.Dir(s.path)] = append(imports[path.Dir(s.path)], dep)
			}
		}
	}
	for _, c := range []struct{ from, to string }{
		{"extauthz", "internal/grpcbatch"}, {"ratelimit", "internal/grpcbatch"}, {"ratelimit", "ratelimit/wire"},
		{"ratelimit", "ratelimit/match"}, {"ratelimit", "ratelimit/store"},
	} {
		if !slices.Contains(imports[c.from], c.to) {
			t.Errorf("the walk goes from %s to %s, which it does not import", c.from, c.to)
		}
	}
	for _, dir := range []string{"ratelimit/wire", "ratelimit/match"} {
		for _, dep := range imports[dir] {
			if dep == "ratelimit/store" || dep == "ratelimit" {
				t.Errorf("%s imports %s: who reads Envoy's message does not talk to Redis", dir, dep)
			}
		}
	}
}
