//go:build long

package analytics

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/toolcache"
)

// TestFocusIsValid: the validator of those who write the specification finds nothing.
func TestFocusIsValid(t *testing.T) {
	t.Parallel()
	python := newPython(t)
	tools := toolcache.Folder(t, "python-focus-validator==2.2.1", func(dir string) []string {
		return []string{python, "-m", "pip", "install", "--quiet", "--target", dir, "focus-validator==2.2.1", "pyarrow==19.0.1"}
	})
	now := time.Now()
	status, _, body := exported(t, now).get(t, "/api/v1/analytics/export?format=focus&from="+now.Add(-48*time.Hour).UTC().Format(time.RFC3339),
		asUser())
	if status != 200 {
		t.Fatalf("want a file, got %d %s", status, body)
	}
	dir := t.TempDir()
	const codes = "focus_validator/rules/currency_codes.csv" // looked for below the folder that the validator is started in
	known, err := os.ReadFile(filepath.Join(tools, codes))
	if err == nil {
		err = os.MkdirAll(filepath.Join(dir, filepath.Dir(codes)), 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, codes), known, 0o600)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "bill.csv"), body, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	validate := exec.CommandContext(t.Context(), python, "-c", "from focus_validator.main import main; main()", "--data-file", "bill.csv",
		"--validate-version", "1.2", "--block-download")
	validate.Dir, validate.Env = dir, append(os.Environ(), "PYTHONPATH="+tools)
	out, err := validate.CombinedOutput()
	if passed := strings.Count(string(out), ": PASS "); err != nil || passed < 100 {
		t.Fatalf("want a hundred rules that pass, got %d, %v\n%s", passed, err, out)
	}
	for _, found := range regexp.MustCompile(`(?m)^\W*(\S+): FAIL .*$`).FindAllStringSubmatch(string(out), -1) {
		// An id of the invoice must be there where there is an invoice, and must not where there is none: the
		// validator cannot know, tries both, and wants one of the two (InvoiceId-C-003-C).
		if found[1] != "InvoiceId-C-005-C" {
			t.Error(found[0])
		}
	}
}

// newPython is a Python of 3.12 or later, which the validator needs: LEAKY_PYTHON, or one that is found.
func newPython(t *testing.T) string {
	t.Helper()
	home, err := os.UserHomeDir()
	if err != nil {
		t.Fatal(err)
	}
	versions, err := filepath.Glob(filepath.Join(home, ".pyenv", "versions", "*", "bin", "python3"))
	if err != nil {
		t.Fatal(err)
	}
	for _, python := range slices.Concat([]string{os.Getenv("LEAKY_PYTHON"), "python3", "python3.12", "python3.13"}, versions) {
		if exec.CommandContext(t.Context(), python, "-c", "import sys; sys.exit(not (3, 12) <= sys.version_info < (3, 14))").Run() == nil {
			return python
		}
	}
	t.Fatal("this test needs Python 3.12 or 3.13: install it, or set LEAKY_PYTHON to its path")
	return ""
}
