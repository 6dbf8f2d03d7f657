//go:build long

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/toolcache"
)

// schemathesis makes requests from an OpenAPI document and holds the answers against it.
const schemathesis = "schemathesis==4.32.5"

// TestNoRequestOfTheDocumentBreaksIt sends what openapi.yaml allows, and what it nearly allows,
// as a user who has logged in. No answer is a server's error or in another form than stated.
func TestNoRequestOfTheDocumentBreaksIt(t *testing.T) {
	dir := toolcache.Python(t, schemathesis)
	document, err := filepath.Abs("../openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	run := exec.CommandContext(t.Context(), filepath.Join(dir, "bin", "schemathesis"), "run", document, "--url", running.Gateway,
		"--header", "Authorization: Bearer "+newAccount(t).JWT, "--seed", "1", "--max-examples", "20", "--phases", "examples,coverage,fuzzing",
		"--checks", "not_a_server_error,content_type_conformance,response_schema_conformance", "--warnings", "off", "--no-color",
		"--suppress-health-check", "all", "--continue-on-failure",
		"--exclude-tag", "Control plane", "--exclude-path", "/fallback/{service}") // on xds' own port; 503 whatever is asked
	run.Dir = t.TempDir() // it keeps what it found
	run.Env = append(os.Environ(), "PYTHONPATH="+dir)
	if out, err := run.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}
