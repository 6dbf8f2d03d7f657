package xds_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// TestEnvoyStartsAfterABadChange: the files were changed while nobody ran. xds and Envoy start,
// Envoy refuses what the files hold now, and gets what Envoys ran before.
func TestEnvoyStartsAfterABadChange(t *testing.T) {
	t.Parallel()
	g, path := fromFile(t, named(t, "provider"))
	before := g.status(t)
	testenv.Eventually(t, "what Envoy runs is kept", func() bool {
		_, err := os.Stat(filepath.Join(g.dir, "xds", "proven.json"))
		return err == nil
	})
	g.stopXDS()
	g.envoy.Kill()
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	rewrite(t, path, strings.Replace(string(good), "127.0.0.1:0", "192.0.2.77:8080", 1))
	if _, err := g.files.Accept(); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(path, func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	g.startXDS(t, cfg, nil) // waits for Envoy's listener
	testenv.Eventually(t, "the refusal is shown", func() bool { return g.status(t).Refused != nil })
	if now := g.status(t); now.Version != before.Version || now.Refused.Type != "Listener" || !strings.Contains(now.Refused.Reason, "192.0.2.77") {
		t.Errorf("want version %s and the listener's refusal, got %+v %+v", before.Version, now, now.Refused)
	}
	if a := g.do(t, "POST", chatPath, body("")); a.status != 200 {
		t.Errorf("want calls served, got %d %s", a.status, a.body)
	}
	// A damaged memory is no reason not to start.
	g.stopXDS()
	rewrite(t, filepath.Join(g.dir, "xds", "proven.json"), "{")
	rewrite(t, path, string(good))
	g.startXDS(t, cfg, nil)
	testenv.Eventually(t, "the file is live", func() bool { s := g.status(t); return s.Version == before.Version && s.Refused == nil })
}

// TestARefusedClusterIsUndone: the provider's cluster needs root certificates that Envoy cannot
// read. Its routes never move, and no call fails.
func TestARefusedClusterIsUndone(t *testing.T) {
	t.Parallel()
	url := named(t, "provider")
	g, path := fromFile(t, url)
	roots := filepath.Join(g.dir, "roots.pem")
	rewrite(t, roots, "no certificates")
	cfg, err := config.Load(path, func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	g.stopXDS()
	g.startXDS(t, cfg, map[string]string{"SSL_CERT_FILE": roots})
	before := g.status(t)
	rewrite(t, path, strings.Replace(g.yamlFor(url, ""), url, "https://"+strings.TrimPrefix(url, "http://"), 1))
	for refused := false; !refused; {
		refused = g.status(t).Refused != nil
		if a := g.do(t, "POST", chatPath, body("")); a.body != "provider" {
			t.Fatalf("want every call served as before, got %d %s", a.status, a.body)
		}
	}
	after := g.status(t)
	if after.Version != before.Version || after.Refused.Type != "Cluster" || after.Refused.Node != t.Name() ||
		!strings.Contains(after.Refused.Reason, "roots.pem") {
		t.Errorf("want version %s and the cluster's refusal, got %+v %+v", before.Version, after, after.Refused)
	}
}
