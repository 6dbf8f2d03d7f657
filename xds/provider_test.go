package xds_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
)

func TestProviderKeysAreInjectedAndShownNowhere(t *testing.T) {
	t.Parallel()
	const openAIKey, geminiKey = "sk-secret-of-openai", "secret-of-gemini"
	g := start(t, func(c *config.Config) {
		for name, env := range map[string]string{"openai": "OPENAI_KEY", "gemini": "GEMINI_KEY"} {
			p := c.Providers[name]
			p.APIKeyEnv = env
			c.Providers[name] = p
		}
	}, map[string]string{"OPENAI_KEY": openAIKey, "GEMINI_KEY": geminiKey})
	for path, c := range map[string]struct{ body, header, want string }{
		chatPath:               {body(""), "Authorization", "Bearer " + openAIKey},
		"/v1/embeddings":       {`{"model":"text-embedding-3-small"}`, "Authorization", "Bearer " + openAIKey},
		genPath:                {`{}`, "X-Goog-Api-Key", geminiKey},
		streaming + "?alt=sse": {`{}`, "X-Goog-Api-Key", geminiKey},
	} {
		a := g.do(t, "POST", path, c.body, "X-Goog-Api-Key", "leaky_client", "X-Api-Key", "leaky_client")
		got := g.back.last(t).header
		if a.status != 200 || got.Get(c.header) != c.want || len(got.Values(c.header)) != 1 {
			t.Errorf("%s: want %s: %s at the provider, got %d %v", path, c.header, c.want, a.status, got)
		}
		for name, values := range got {
			if strings.Contains(strings.Join(values, ","), "leaky_client") {
				t.Errorf("%s: the caller's credential reached the provider in %s", path, name)
			}
		}
		if raw, _ := g.rawLine(t, a.header.Get("x-request-id")); strings.Contains(raw, "secret") {
			t.Errorf("%s: the spool shows a key: %s", path, raw)
		}
	}
	if g.do(t, "POST", chatPath, `{"model":"qwen/qwen-plus"}`); g.back.last(t).header.Get("Authorization") != "" {
		t.Error("a provider without a key got another's")
	}
	dump, err := g.envoy.Get("/config_dump?include_eds")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(dump, openAIKey) || strings.Contains(dump, geminiKey) || !strings.Contains(dump, "provider-openai") {
		t.Error("want a dump that names the secret and does not show it")
	}
	if log := g.envoy.Log(); strings.Contains(log, openAIKey) {
		t.Error("Envoy's log shows a key")
	}
}

func TestProviderPathsFollowTheBaseURL(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		provider, base, path, body, want string
	}{
		"openai, none":   {"openai", "", chatPath, body(""), "/v1/chat/completions"},
		"openai, sdk":    {"openai", "/v1", chatPath, body(""), "/v1/chat/completions"},
		"openai, prefix": {"openai", "/proxy/openai/v1/", chatPath, body(""), "/proxy/openai/v1/chat/completions"},
		"embeddings":     {"openai", "/x/v1", "/v1/embeddings", `{"model":"text-embedding-3-small"}`, "/x/v1/embeddings"},
		"qwen, none":     {"qwen", "", chatPath, `{"model":"qwen-plus"}`, "/compatible-mode/v1/chat/completions"},
		"qwen, dashscope": {"qwen", "/compatible-mode/v1", "/compatible-mode/v1/chat/completions", `{"model":"qwen-plus"}`,
			"/compatible-mode/v1/chat/completions"},
		"qwen, other": {"qwen", "/w/1/v1", "/compatible-mode/v1/chat/completions?a=b", `{"model":"qwen-plus"}`,
			"/w/1/v1/chat/completions"},
		"gemini, none":    {"gemini", "", genPath, `{}`, genPath},
		"gemini, prefix":  {"gemini", "/google", streaming + "?alt=sse", `{}`, "/google" + streaming + "?alt=sse"},
		"gemini, version": {"gemini", "/google/v1beta", genPath, `{}`, "/google" + genPath},
		"gemini by v1":    {"gemini", "", strings.Replace(genPath, "v1beta", "v1", 1), `{}`, genPath},
		"v1 throughout":   {"gemini", "/v1", strings.Replace(streaming, "v1beta", "v1", 1) + "?alt=sse", `{}`, strings.Replace(streaming, "v1beta", "v1", 1) + "?alt=sse"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var host string
			g := start(t, func(cfg *config.Config) {
				p := cfg.Providers[c.provider]
				host = strings.TrimPrefix(p.URL, "http://")
				p.URL += c.base
				cfg.Providers[c.provider] = p
			}, nil)
			if a := g.do(t, "POST", c.path, c.body); a.status != 200 {
				t.Fatalf("want 200, got %d %s", a.status, a.body)
			}
			if got := g.back.last(t); got.uri != c.want || got.host != host {
				t.Errorf("want %s at %s, got %s at %s", c.want, host, got.uri, got.host)
			}
		})
	}
}

// TestProviderCertificatesAreChecked calls a provider over TLS, by a name its certificate
// has (127.0.0.1), by one it has not, and without trusting its issuer.
func TestProviderCertificatesAreChecked(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		host   string
		trust  bool
		status int
	}{
		"good":      {"127.0.0.1", true, 200},
		"other":     {"localhost", true, 503},
		"untrusted": {"127.0.0.1", false, 503},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewTLSServer(&backend{})
			t.Cleanup(server.Close)
			root := server.Certificate().Raw
			if !c.trust {
				root = otherRoot(t)
			}
			roots := filepath.Join(shortDir(t), "roots.pem")
			if err := os.WriteFile(roots, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root}), 0o600); err != nil {
				t.Fatal(err)
			}
			g := start(t, func(cfg *config.Config) {
				p := cfg.Providers["openai"]
				p.URL = strings.Replace(server.URL, "127.0.0.1", c.host, 1)
				cfg.Providers["openai"] = p
			}, map[string]string{"SSL_CERT_FILE": roots})
			if a := g.do(t, "POST", chatPath, body("")); a.status != c.status {
				t.Errorf("want %d, got %d %s", c.status, a.status, a.body)
			}
		})
	}
}

// otherRoot is a certificate that signed nothing.
func otherRoot(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	root, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// TestAProviderThatRefusesOurKeyDoesNotBlameTheCaller: its 401 repeats part of the key.
func TestAProviderThatRefusesOurKeyDoesNotBlameTheCaller(t *testing.T) {
	t.Parallel()
	g := start(t, nil, nil)
	g.limit.set(admit(nil))
	for _, status := range []int{401, 403} {
		for _, text := range []string{"", `{"error":{"message":"Incorrect API key provided: sk-pr***1234"}}`} {
			g.back.set(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("WWW-Authenticate", "Bearer")
				w.WriteHeader(status)
				io.WriteString(w, text)
			})
			for path, want := range map[string]string{chatPath: `"type":"server_error"`, genPath: `"status":"UNAVAILABLE"`} {
				a := g.do(t, "POST", path, body(""))
				if a.status != 503 || !strings.Contains(a.body, want) || strings.Contains(a.body, "sk-pr") ||
					a.header.Get("WWW-Authenticate") != "" || !json.Valid([]byte(a.body)) {
					t.Errorf("%s %d %q: want 503 with %s, got %+v", path, status, text, want, a)
				}
				if raw, l := g.rawLine(t, a.header.Get("x-request-id")); l.Status != 503 || l.Held == nil {
					t.Errorf("want a line with the hold, got %s", raw)
				}
			}
		}
	}
	if a := g.do(t, "POST", chatPath, body(""), "Authorization", ""); a.status != 401 || a.body != `{"who":"authz"}` {
		t.Errorf("want our own 401 untouched, got %+v", a)
	}
}

// TestProvidersSayNothingInOurName: a header of the gateway's own in a provider's answer reaches
// nobody, whether it is asked itself or stands in for another.
func TestProvidersSayNothingInOurName(t *testing.T) {
	t.Parallel()
	forging := newOther(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Add(attributes.HeaderServed, "forged/model")
		w.Header().Set("X-Leaky-Held", "1")
		w.Header().Set("X-Leaky-Anything", "1")
	})
	g := start(t, func(cfg *config.Config) {
		cfg.Gateway.Fallback = "unix:run/f.sock"
		provide(cfg, "away", nowhere, nil)
		provide(cfg, "plain", forging.url, nil)
		provide(cfg, "keyed", forging.url, func(p *config.Provider) { p.APIKeyEnv = "KEY" })
		cfg.Models = []config.Model{{Name: "plain", Provider: "plain"}, {Name: "keyed", Provider: "keyed"},
			{Name: "first", Provider: "away", Fallback: []string{"keyed"}}, {Name: "never", Provider: "plain", Fallback: []string{"keyed"}}}
	}, map[string]string{"KEY": "k"})
	g.limit.set(admit(nil))
	for model, served := range map[string][]string{"plain": nil, "keyed": nil, "never": nil, "first": {"keyed/keyed"}} {
		a := g.do(t, "POST", chatPath, `{"model":"`+model+`","messages":[]}`)
		if got := a.header.Values(attributes.HeaderServed); a.status != 200 || !slices.Equal(got, served) {
			t.Errorf("%s: want served by %q, got %d %q", model, served, a.status, got)
		}
		if a.header.Get("X-Leaky-Anything") != "" || slices.Contains(a.header.Values("X-Leaky-Held"), "1") {
			t.Errorf("%s: the provider spoke in our name: %v", model, a.header)
		}
	}
}
