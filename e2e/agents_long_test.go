//go:build long

package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// codingAgents are the releases that are tried; docs/sdks.md names them.
const codingAgents = "@anthropic-ai/claude-code@2.1.197 @openai/codex@0.171.0"

// codexConfig is what docs/sdks.md says to write into Codex' config.toml.
const codexConfig = `model = "gpt-4o-mini"
model_provider = "leaky"
web_search = "disabled"

[model_providers.leaky]
name = "Leaky Tokens"
base_url = "GATEWAY/v1"
env_key = "LEAKY_KEY"
wire_api = "responses"
`

// TestCodingAgents asks Claude Code and Codex something, each set up as docs/sdks.md says: they
// answer, and what they were told of tokens is what the books have.
func TestCodingAgents(t *testing.T) {
	t.Parallel()
	programs := filepath.Join(nodeFolder(t, "node-agents", codingAgents), "node_modules", ".bin")
	t.Run("Claude Code", func(t *testing.T) {
		t.Parallel()
		// By a name of its own: its streams have another shape than those that other tests leave at the same
		// time, whose estimate would learn from them.
		who := newAccount(t)
		out := runSDK(t, who, []string{"HOME=" + t.TempDir(), "ANTHROPIC_BASE_URL=" + running.Gateway, "ANTHROPIC_AUTH_TOKEN=" + who.Key,
			"ANTHROPIC_MODEL=acme/haiku", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1"}, t.TempDir(),
			filepath.Join(programs, "claude"), "--output-format", "json", "-p", "Say hello")
		var answer struct {
			Result string
			Usage  struct {
				Input   int64 `json:"input_tokens"`
				Written int64 `json:"cache_creation_input_tokens"`
				Cached  int64 `json:"cache_read_input_tokens"`
				Output  int64 `json:"output_tokens"`
			}
		}
		if err := json.Unmarshal([]byte(out), &answer); err != nil || answer.Result == "" {
			t.Fatalf("want an answer, got %v %s", err, out)
		}
		u := answer.Usage
		wantBooks(t, who, "anthropic", 1, u.Input+u.Written+u.Cached+u.Output)
	})
	t.Run("Codex", func(t *testing.T) {
		t.Parallel()
		who, home := newAccount(t), t.TempDir()
		config := strings.Replace(codexConfig, "GATEWAY", running.Gateway, 1)
		if err := os.WriteFile(filepath.Join(home, "config.toml"), []byte(config), 0o644); err != nil {
			t.Fatal(err)
		}
		out := runSDK(t, who, []string{"CODEX_HOME=" + home, "LEAKY_KEY=" + who.Key}, t.TempDir(),
			filepath.Join(programs, "codex"), "exec", "--skip-git-repo-check", "--json", "Say hello")
		var told, calls int64
		for line := range strings.Lines(out) {
			var event struct {
				Type  string
				Usage struct {
					Input  int64 `json:"input_tokens"`
					Output int64 `json:"output_tokens"`
				}
			}
			if json.Unmarshal([]byte(line), &event) == nil && event.Type == "turn.completed" {
				calls++
				told += event.Usage.Input + event.Usage.Output
			}
		}
		if calls != 1 {
			t.Fatalf("want a turn, got %s", out)
		}
		wantBooks(t, who, "openai", 1, told)
	})
}
