package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
)

// stack is one running product; every test of this package shares it, each with
// accounts of its own.
type stack struct {
	bin     string
	dir     string // state folder
	env     []string
	gateway string // http://host:port
	stub    map[string]string
	admin   func() (string, error) // a JWT of the first ADMIN
}

// running is set once by TestMain, before any test, and only read afterwards.
var running *stack

func TestMain(m *testing.M) {
	code, err := withStack(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func withStack(m *testing.M) (int, error) {
	dir, err := os.MkdirTemp("", "leaky")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o711); err != nil { // Postgres runs as another user below it
		return 1, err
	}
	s, err := newStack(dir)
	if err != nil {
		return 1, err
	}
	if out, err := s.leaky("up"); err != nil {
		return 1, fmt.Errorf("leaky up: %w\n%s", err, out)
	}
	running = s
	code := m.Run()
	if out, err := s.leaky("down"); err != nil {
		return 1, fmt.Errorf("leaky down: %w\n%s", err, out)
	}
	return code, nil
}

// newStack builds the binary and writes a configuration with free ports.
func newStack(dir string) (*stack, error) {
	s := &stack{bin: filepath.Join(dir, "leaky"), dir: filepath.Join(dir, "s")}
	build := exec.Command("go", "build", "-o", s.bin, "github.com/leaky-tokens/leaky-tokens/cmd/leaky")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build: %w\n%s", err, out)
	}
	ports, err := freePorts(18)
	if err != nil {
		return nil, err
	}
	at := func(i int) string { return fmt.Sprintf("127.0.0.1:%d", ports[i]) }
	text := fmt.Sprintf(`
gateway: {listen: %q}
envoy: {admin: %q}
services:
  xds: {http: %q, grpc: %q}
  identity: {http: %q}
  extauthz: {http: %q}
  ratelimit: {http: %q}
  meter: {http: %q}
  tokensvc: {http: %q}
  analytics: {http: %q}
  stub_openai: {http: %q}
  stub_gemini: {http: %q}
  stub_qwen: {http: %q}
providers:
  openai: {protocol: openai, url: "http://%[11]s", tokens_per_byte: 0.25, fill_max_tokens: 256}
  gemini: {protocol: gemini, url: "http://%[12]s", tokens_per_byte: 0.25, fill_max_tokens: 256}
  qwen: {protocol: openai, url: "http://%[13]s", tokens_per_byte: 0.25, fill_max_tokens: 256}
tiers:
  levels:
    USER: {priority: 10}
    # TINY holds 1000 tokens and leaks one in 100 s: room for ten calls of 100 tokens.
    TINY: {priority: 20, bucket_capacity_multiplier: 0.001, bucket_leak_rate_multiplier: 0.000001}
    SILVER: {priority: 30, bucket_capacity_multiplier: 2, bucket_leak_rate_multiplier: 2}
    GOLD: {priority: 40, bucket_capacity_multiplier: 4, bucket_leak_rate_multiplier: 4}
    ADMIN: {priority: 100, bucket_capacity_multiplier: 2}
limits: {file: limits.yaml}
`, at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7), at(8), at(9), at(10), at(11), at(12))
	limits := `
domain: leaky
descriptors:
  - key: count
    value: tokens
    descriptors:
      - key: user
        descriptors:
          - key: provider
            rate_limit: {name: user-tokens, unit: minute, requests_per_unit: 600000}
            metadata: {rate_limit_policy: {algorithm: leaky_bucket, burst: 1000000, unit: tokens, scale: tier}}
  - key: count
    value: requests
    descriptors:
      - key: user
        rate_limit: {name: user-requests, unit: second, requests_per_unit: 1000}
        metadata: {rate_limit_policy: {algorithm: leaky_bucket, burst: 10000, unit: requests}}
`
	config := filepath.Join(dir, "leaky.yaml")
	for path, text := range map[string]string{config: text, filepath.Join(dir, "limits.yaml"): limits} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	s.gateway = "http://" + at(0)
	s.stub = map[string]string{"openai": "http://" + at(10), "gemini": "http://" + at(11), "qwen": "http://" + at(12)}
	s.env = append(os.Environ(), "LEAKY_STATE_DIR="+s.dir, "LEAKY_CONFIG="+config, "LEAKY_POSTGRES_LISTEN="+at(13),
		"LEAKY_REDIS_LISTEN="+at(14), "LEAKY_NATS_LISTEN="+at(15), "LEAKY_CLICKHOUSE_LISTEN="+at(16))
	s.admin = sync.OnceValues(s.loginAdmin)
	return s, nil
}

func freePorts(n int) ([]int, error) {
	var ports []int
	for range n {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer ln.Close()
		ports = append(ports, ln.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

// leaky runs the binary as a user would and returns what it printed.
func (s *stack) leaky(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.bin, args...)
	cmd.Env = s.env
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// call sends one request to the gateway and decodes a JSON answer into dst, if given.
func (s *stack) call(method, path, credential string, body, dst any) (int, error) {
	var reader io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return 0, err
		}
		reader = bytes.NewReader(text)
	}
	req, err := http.NewRequest(method, s.gateway+path, reader)
	if err != nil {
		return 0, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if credential != "" {
		req.Header.Set("Authorization", "Bearer "+credential)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return res.StatusCode, err
	}
	if dst != nil {
		if err := json.Unmarshal(text, dst); err != nil {
			return res.StatusCode, fmt.Errorf("%s %s answered %d %q: %w", method, path, res.StatusCode, text, err)
		}
	}
	return res.StatusCode, nil
}

func (s *stack) loginAdmin() (string, error) {
	text, err := os.ReadFile(filepath.Join(s.dir, "secrets", "admin.json"))
	if err != nil {
		return "", err
	}
	var login struct {
		Username string `json:"username"`
		Password string `json:"password"`
	}
	if err := json.Unmarshal(text, &login); err != nil {
		return "", err
	}
	var got struct{ Token string }
	if status, err := s.call("POST", "/api/v1/auth/login", "", login, &got); err != nil || status != 200 {
		return "", fmt.Errorf("admin login: %d, %w", status, err)
	}
	return got.Token, nil
}

// account is one user with a key.
type account struct {
	id, jwt, key, keyID string
}

// newAccount registers a user, gives it roles beside USER, and makes a key.
func newAccount(t *testing.T, roles ...string) account {
	t.Helper()
	name := "u" + strings.ReplaceAll(uuid.NewString(), "-", "")[:20]
	var user struct{ UserID, Token string }
	mustCall(t, 201, "POST", "/api/v1/auth/register", "", map[string]string{"username": name, "email": name + "@example.com", "password": "correct horse 9"}, &user)
	if len(roles) > 0 {
		admin, err := running.admin()
		if err != nil {
			t.Fatal(err)
		}
		mustCall(t, 200, "PUT", "/api/v1/admin/users/"+user.UserID+"/roles", admin, map[string]any{"roles": append(roles, "USER")}, nil)
	}
	var key struct{ APIKey, ID string }
	mustCall(t, 201, "POST", "/api/v1/auth/api-keys", user.Token, map[string]string{"userId": user.UserID, "name": "e2e"}, &key)
	return account{id: user.UserID, jwt: user.Token, key: key.APIKey, keyID: key.ID}
}

func mustCall(t *testing.T, want int, method, path, credential string, body, dst any) {
	t.Helper()
	status, err := running.call(method, path, credential, body, dst)
	if err != nil {
		t.Fatal(err)
	}
	if status != want {
		t.Fatalf("%s %s: want %d, got %d", method, path, want, status)
	}
}

// eventually polls until check says true.
func eventually(t *testing.T, within time.Duration, what string, check func() bool) {
	t.Helper()
	deadline := time.NewTimer(within)
	defer deadline.Stop()
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	for !check() {
		select {
		case <-deadline.C:
			t.Fatalf("not within %v: %s", within, what)
		case <-tick.C:
		}
	}
}

// usage is one row of /api/v1/analytics/usage.
type usage struct {
	RequestID    string `json:"requestId"`
	Tokens       int64  `json:"tokens"`
	InputTokens  int64  `json:"inputTokens"`
	OutputTokens int64  `json:"outputTokens"`
	Allowed      bool   `json:"allowed"`
	Source       string `json:"source"`
}

// booked waits until the books show the request and returns its rows.
func booked(t *testing.T, who account, provider, requestID string) usage {
	t.Helper()
	if requestID == "" {
		t.Fatal("the answer has no x-request-id")
	}
	var found usage
	eventually(t, 15*time.Second, "request "+requestID+" in analytics", func() bool {
		var page struct{ Items []usage }
		mustCall(t, 200, "GET", "/api/v1/analytics/usage?limit=200&provider="+provider, who.key, nil, &page)
		n := 0
		for _, item := range page.Items {
			if item.RequestID == requestID {
				found = item
				n++
			}
		}
		if n > 1 {
			t.Fatalf("request %s stands %d times on the books", requestID, n)
		}
		return n == 1
	})
	return found
}

// served is what a stub says it served for one request.
type served struct {
	Input  int64 `json:"input"`
	Output int64 `json:"output"`
}
