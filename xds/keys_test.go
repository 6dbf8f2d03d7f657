package xds_test

import (
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// TestProvidersKeysRotateWhileRunning: from a file and from a folder; a provider without its key is
// down alone, says so, and comes up with the key.
func TestProvidersKeysRotateWhileRunning(t *testing.T) {
	t.Parallel()
	g, path := fromFile(t, "http://127.0.0.1:9")
	at, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	g.stopXDS()
	provider := httptest.NewServer(g.back)
	t.Cleanup(provider.Close)
	url := provider.URL
	folder := filepath.Join(g.dir, "keys")
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(g.dir, "openai.key")
	rewrite(t, key, "first\n")
	text := strings.Replace(string(at), `  openai: {protocol: openai, url: "http://127.0.0.1:9"}`, `  openai: {url: "`+url+`", api_key_file: openai.key}
  other: {url: "`+url+`", api_key_file: keys}
  unset: {url: "`+url+`", api_key_env: NOT_SET}`, 1)
	text = strings.Replace(text, "models:\n", "models:\n  - {name: o, provider: other}\n  - {name: u, provider: unset}\n", 1)
	rewrite(t, path, text)
	cfg, err := config.Load(path, func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	g.startXDS(t, cfg, nil)
	sent := func() string {
		a := g.do(t, "POST", chatPath, body(""))
		if a.status != 200 {
			return a.body
		}
		return g.back.last(t).header.Get("Authorization")
	}
	testenv.Eventually(t, "the key of the file is sent", func() bool { return sent() == "Bearer first" })
	for _, model := range []string{"o", "u"} {
		if a := g.do(t, "POST", chatPath, `{"model":"`+model+`","messages":[]}`); a.status != 503 ||
			!strings.Contains(a.body, `"type":"server_error"`) {
			t.Errorf("%s: want 503 in the family's shape, got %d %s", model, a.status, a.body)
		}
	}
	s := strings.Join(g.status(t).Problems, "\n")
	if !strings.Contains(s, "providers.other is down: read its key:") || !strings.Contains(s, "providers.unset is down: the environment variable NOT_SET is not set") {
		t.Errorf("want both told, got %s", s)
	}
	if err := g.xds.Problem(); err == nil || !strings.Contains(err.Error(), "NOT_SET") {
		t.Errorf("want readiness to warn, got %v", err)
	}
	rewrite(t, key, "second")
	testenv.Eventually(t, "the new key is sent", func() bool { return sent() == "Bearer second" })
	if err := os.Remove(key); err != nil {
		t.Fatal(err)
	}
	rewrite(t, filepath.Join(folder, "other"), "others\n")
	testenv.Eventually(t, "the other provider is up", func() bool {
		return g.do(t, "POST", chatPath, `{"model":"o","messages":[]}`).status == 200 && g.back.last(t).header.Get("Authorization") == "Bearer others"
	})
	if got := sent(); got != "Bearer second" {
		t.Errorf("want the last key used on while its file is away, got %s", got)
	}
	rewrite(t, key, "two words")
	rewrite(t, key, "third")
	testenv.Eventually(t, "the next key is sent", func() bool { return sent() == "Bearer third" })
}
