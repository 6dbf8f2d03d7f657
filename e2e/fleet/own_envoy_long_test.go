//go:build long

package fleet

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/leaky-tokens/leaky-tokens/internal/reconcile"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/envoytest"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/stacktest"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// TestAnEnvoyOfYourOwn runs deploy/examples/own-envoy/envoy.yaml in the place of a stack's own Envoy: an Envoy
// that asks xds nothing. Calls are admitted, held and settled, refused when a bucket is full and without a
// key, and the books agree.
func TestAnEnvoyOfYourOwn(t *testing.T) {
	s, err := stacktest.New(t.Context(), testenv.Folder(t), 1)
	if err != nil {
		t.Fatal(err)
	}
	plain(t, s, s)
	up(t, s)
	account := func(tier string) stacktest.Account {
		who, err := s.NewAccount(t.Context(), tier)
		if err != nil {
			t.Fatal(err)
		}
		return who
	}
	user, tight := account("USER"), account("TIGHT")
	for _, args := range [][]string{{"stop", "envoy"}, {"bootstrap", "lua", filepath.Join(s.Dir, "lua")}} {
		if out, err := s.Leaky(t.Context(), args...); err != nil {
			t.Fatalf("%s: %v: %s", args, err, out)
		}
	}
	url := ownEnvoy(t, s)
	begun := time.Now()

	call := func(key string, maximum int, stream bool) (int, string) {
		t.Helper()
		text := fmt.Sprintf(`{"model": "gpt-4o", "max_tokens": %d, "stream": %t, "messages": [{"role": "user", "content": "Hello"}]}`, maximum, stream)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/v1/chat/completions", strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Authorization", "Bearer "+key)
		req.Header.Set("X-User-Id", user.ID) // whatever callers say of themselves
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		var body bytes.Buffer
		if _, err := body.ReadFrom(res.Body); err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, body.String()
	}
	const calls = 6
	for n := range calls {
		if status, body := call(user.Key, 60, n%2 == 1); status != http.StatusOK || n%2 == 1 && !strings.Contains(body, "[DONE]") {
			t.Fatalf("call %d: status %d %s", n, status, body)
		}
	}
	if status, body := call("nonsense", 60, false); status != http.StatusUnauthorized {
		t.Errorf("without a key: status %d %s", status, body)
	}
	if status, body := call(tight.Key, tightBurst/2, false); status != http.StatusOK {
		t.Errorf("what fits into the bucket: status %d %s", status, body)
	}
	if status, body := call(tight.Key, 2*tightBurst, false); status != http.StatusTooManyRequests {
		t.Errorf("what does not fit into the bucket: status %d %s", status, body)
	}
	booked(t, s, user, tight, calls+2, begun) // what a limit refused is in the books, too
}

// ownEnvoy runs the documented file with the addresses of a stack.
func ownEnvoy(t *testing.T, s *stacktest.Stack) (url string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "deploy", "examples", "own-envoy", "envoy.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := strings.Cut(strings.TrimPrefix(s.Stub["openai"], "http://"), ":")
	bootstrap, err := yaml.YAMLToJSON([]byte(strings.NewReplacer("port_value: 10000", "port_value: 0", "port_value: 10001", "port_value: "+port,
		"pipe: {path: /var/lib/leaky-tokens/run/admin.sock, mode: 384}", "socket_address: {address: 127.0.0.1, port_value: 0}",
		"/etc/leaky/lua", filepath.Join(s.Dir, "lua"), "/var/lib/leaky-tokens", s.Dir).Replace(string(text))))
	if err != nil {
		t.Fatal(err)
	}
	return envoytest.Start(t, envoytest.Config{Bootstrap: bootstrap}).URL(t, "llm")
}

// booked wants every call settled to what it used, of both accounts, and no difference between the books.
func booked(t *testing.T, s *stacktest.Stack, user, tight stacktest.Account, calls int, since time.Time) {
	t.Helper()
	var r reconcile.Report
	var said string
	for range attempts {
		said, _ = s.Leaky(t.Context(), "reconcile", "--since", since.UTC().Format(time.RFC3339Nano), "--wait", "1m", "-o", "json")
		r = reconcile.Report{}
		if err := json.Unmarshal([]byte(said), &r); err == nil && r.Clean && r.Calls >= calls {
			break
		}
	}
	if !r.Clean || r.Calls != calls {
		t.Fatalf("want %d calls in books that agree, got\n%s", calls, said)
	}
	for _, who := range []stacktest.Account{user, tight} {
		had := int64(0)
		for _, a := range r.Accounts {
			if strings.Contains(a.Account, who.ID) {
				had = a.EventTokens
			}
		}
		if t.Logf("an account was charged %d tokens", had); had <= 0 || had > 60*int64(calls)+tightBurst/2 {
			t.Errorf("want it charged what its calls used, got %d", had)
		}
	}
}
