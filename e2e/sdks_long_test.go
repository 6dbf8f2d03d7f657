//go:build long

package e2e

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/stacktest"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/toolcache"
)

// Releases that are tried; docs/sdks.md names them.
const (
	pythonSDKs = pythonSDK + " anthropic==2.14.0 google-genai==3.6.1 langchain-openai==1.7.4 litellm==1.110.2"
	nodeSDKs   = nodeSDK + " @anthropic-ai/sdk@1.14.0 @google/genai@3.3.0 ai@7.0.173 @ai-sdk/openai@4.0.118"
)

// TestEverySDK makes the calls of each SDK for Python and Node: what they were told of tokens is
// what the books have, to the token, and streams that they left are charged within a tenth.
func TestEverySDK(t *testing.T) {
	t.Parallel()
	scripts, err := filepath.Abs(filepath.Join("testdata", "sdks"))
	if err != nil {
		t.Fatal(err)
	}
	for name, run := range map[string]struct {
		env     string
		command []string
	}{
		"python": {"PYTHONPATH=" + pythonFolder(t, "python-sdks", pythonSDKs), []string{"env", "LITELLM_LOCAL_MODEL_COST_MAP=True", "python3", filepath.Join(scripts, "all.py")}},
		"node":   {"PACKAGES=" + nodeFolder(t, "node-sdks", nodeSDKs), []string{"node", filepath.Join(scripts, "all.mjs")}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			who, leaver, tiny := newAccount(t), newAccount(t), newAccount(t, "TINY")
			out := runSDK(t, who, []string{run.env, "GATEWAY=" + running.Gateway, "LEAVER_KEY=" + leaver.Key, "TINY_KEY=" + tiny.Key}, "",
				run.command...)
			providers := 0
			for line := range strings.Lines(out) {
				var provider string
				var calls, tokens int64
				if n, _ := fmt.Sscanf(line, "told %s %d %d", &provider, &calls, &tokens); n == 3 {
					wantBooks(t, who, provider, int(calls), tokens)
					providers++
				} else if n, _ := fmt.Sscanf(line, "left %s %d", &provider, &calls); n == 2 {
					wantLeft(t, leaver, provider, int(calls))
					providers++
				}
			}
			if providers != 6 {
				t.Errorf("want three providers told, got\n%s", out)
			}
		})
	}
}

// wantLeft waits for streams of an account on the books that were left after 30 tokens.
func wantLeft(t *testing.T, who stacktest.Account, provider string, calls int) {
	t.Helper()
	var page struct{ Items []usage }
	testenv.Eventually(t, fmt.Sprintf("%d calls on the books", calls), func() bool {
		mustCall(t, 200, "GET", "/api/v1/analytics/usage?limit=200&provider="+provider, who.Key, nil, &page)
		return len(page.Items) >= calls
	})
	for _, row := range page.Items {
		if len(page.Items) != calls || row.OutputTokens < 27 || row.OutputTokens > 33 {
			t.Errorf("want %d calls of 30 tokens within a tenth, got %+v", calls, row)
		}
	}
}

// pythonFolder is a folder of the cache with these releases of Python packages, for PYTHONPATH.
func pythonFolder(t *testing.T, name, packages string) string {
	t.Helper()
	releases := strings.Fields(packages)
	return toolcache.Folder(t, name+"-"+strings.Join(releases, "-"), func(dir string) []string {
		return append([]string{"python3", "-m", "pip", "install", "--quiet", "--target", dir}, releases...)
	})
}

// nodeFolder is a folder of the cache with these releases of Node packages.
func nodeFolder(t *testing.T, name, packages string, flags ...string) string {
	t.Helper()
	releases := strings.Fields(packages)
	name = strings.NewReplacer("/", "+").Replace(name + "-" + strings.Join(releases, "-"))
	return toolcache.Folder(t, name, func(dir string) []string {
		return slices.Concat([]string{"npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", dir}, flags, releases)
	})
}
