package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// shellBlocks runs the shell blocks of a document in a folder of its own, each after the one
// before, with leaky on the path.
func shellBlocks(t *testing.T, document string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "docs", document))
	if err != nil {
		t.Fatal(err)
	}
	script := "set -e\n"
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		script += block[1]
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-c", script)
	cmd.Dir = t.TempDir()
	cmd.Env = append(running.Env, "PATH="+filepath.Dir(running.Bin)+":"+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", document, err, out)
	}
	return string(out)
}

// TestControlPlaneCommands runs what docs/control-plane.md tells an operator.
func TestControlPlaneCommands(t *testing.T) {
	before := settled(t)
	out := shellBlocks(t, "control-plane.md")
	for _, want := range []string{"+ Route openai-chat:openai/gpt-4.1-mini", "gpt-4.1 has a smaller sister", "nobody calls it", "Back to version", "parts are ready"} {
		if !strings.Contains(out, want) {
			t.Errorf("want %q in\n%s", want, out)
		}
	}
	unchanged(t, before)
}

// TestGuides runs what docs/user-guide.md and docs/admin-guide.md tell people to do.
func TestGuides(t *testing.T) {
	t.Parallel()
	for document, wants := range map[string][]string{
		"user-guide.md":  {`"chat.completion"`, "[DONE]", `"gpt-4o-mini"`, `"tier"`, `"remainingTokens"`},
		"admin-guide.md": {`"barbara"`, `"GOLD"`, "user-tokens", `"parsers"`, "20000"},
	} {
		t.Run(document, func(t *testing.T) {
			t.Parallel()
			out := shellBlocks(t, document)
			for _, want := range wants {
				if !strings.Contains(out, want) {
					t.Errorf("want %q in\n%s", want, out)
				}
			}
		})
	}
}

// TestProviderCommands runs what docs/providers.md tells an operator: a provider, a name for its
// model and a fallback on a running stack.
func TestProviderCommands(t *testing.T) {
	before := settled(t)
	out := shellBlocks(t, "providers.md")
	for _, want := range []string{"+ Cluster provider-local", "+ Route openai-chat:local/local/llama", "Back to version", "parts are ready"} {
		if !strings.Contains(out, want) {
			t.Errorf("want %q in\n%s", want, out)
		}
	}
	unchanged(t, before)
}
