package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/apitest"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/otlptest"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/ports"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/stacktest"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/upstreamtest"
)

// running is the one stack every test of this package shares, each with accounts of
// its own. TestMain sets it before any test; after that it is only read.
var running *stacktest.Stack

// spans is where its spans go.
var spans *otlptest.Collector

func TestMain(m *testing.M) {
	if os.Getenv(strangerVariable) != "" {
		stranger(os.Args[1:])
		return
	}
	code, err := withStack(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func withStack(m *testing.M) (int, error) {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "leaky")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o711); err != nil { // Postgres runs as another user below it
		return 1, err
	}
	if spans, err = otlptest.Start(); err != nil {
		return 1, err
	}
	defer spans.Stop()
	acme = upstreamtest.Start()
	defer acme.Close()
	s, err := stacktest.New(ctx, dir, 0, stacktest.Monitored, stacktest.Talkative, stacktest.Traced(spans.URL), signedInBy(acme))
	if err != nil {
		return 1, err
	}
	s.Env = append(s.Env, "ACME_SECRET="+upstreamtest.Secret)
	if err := doubled(s.Config, "extauthz"); err != nil {
		return 1, err
	}
	if out, err := s.Up(ctx); err != nil {
		_, _ = s.Leaky(ctx, "down")
		return 1, fmt.Errorf("%w\n%s", err, out)
	}
	if err := errors.Join(payByAmount(ctx, s.Payment), serveRaw(s.Raw)); err != nil {
		return 1, err
	}
	running = s
	if usual, ok := http.DefaultTransport.(*http.Transport); ok {
		usual.IdleConnTimeout = time.Minute // before the gateway ends them, or a POST may meet that end
	}
	var wrong differences
	checked, err := apitest.Transport(http.DefaultTransport, wrong.add)
	if err == nil {
		err = s.Through(checked)
	}
	code := 1
	if err == nil {
		code = m.Run()
		err = errors.Join(wrong.found(), trespasses(s.Dir))
	}
	if out, err := s.Leaky(ctx, "down"); err != nil {
		return 1, fmt.Errorf("%w\n%s", err, out)
	}
	return code, err
}

// differences are exchanges of all tests that are not as openapi.yaml has them.
type differences struct {
	mu  sync.Mutex
	all map[string]error // by text, as many are alike
}

func (d *differences) add(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.all == nil {
		d.all = map[string]error{}
	}
	d.all[err.Error()] = err
}

func (d *differences) found() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.all) == 0 {
		return nil
	}
	return fmt.Errorf("traffic is not as openapi.yaml has it: %w", errors.Join(slices.Collect(maps.Values(d.all))...))
}

// payByAmount makes the payment stub decline by the last digits of an amount. The stub is
// every test's, so this holds from the start and no test changes it.
func payByAmount(ctx context.Context, stub string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, stub+"/__stub/config", strings.NewReader(`{"amountRules":true}`))
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("set the payment stub: %w", err)
	}
	if res.Body.Close(); res.StatusCode != http.StatusOK {
		return fmt.Errorf("set the payment stub: status %d", res.StatusCode)
	}
	return nil
}

// doubled gives a service of a stack that is not up yet a second process.
func doubled(path, service string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	at := []string{""}
	for strings.Contains(string(text), at[0]) { // one that no part has: theirs are free until they start
		if at, err = ports.Free(1); err != nil {
			return err
		}
	}
	plain := regexp.MustCompile(`(?m)^(  ` + service + `: \{http: "[^"]+")\}`)
	if !plain.Match(text) {
		return fmt.Errorf("%s has no plain line of services.%s", path, service)
	}
	replica := fmt.Sprintf(`$1, replicas: [{http: %q, grpc: "unix:run/%s-2.sock"}]}`, at[0], service)
	return os.WriteFile(path, plain.ReplaceAll(text, []byte(replica)), 0o644)
}

func newAccount(t *testing.T, roles ...string) stacktest.Account {
	t.Helper()
	a, err := running.NewAccount(t.Context(), roles...)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func mustCall(t *testing.T, want int, method, path, credential string, body, dst any) {
	t.Helper()
	if err := running.Must(t.Context(), want, method, path, credential, body, dst); err != nil {
		t.Fatal(err)
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
	Reason       string `json:"reason"`
	Status       int    `json:"status"`
	Model        string `json:"model"`
	ModelServed  string `json:"modelServed"`
}

// listed are the newest calls of an account on the books; none where these do not answer just now.
func listed(t *testing.T, who stacktest.Account, provider string) []usage {
	t.Helper()
	var page struct{ Items []usage }
	status, err := running.Call(t.Context(), "GET", "/api/v1/analytics/usage?limit=200&provider="+provider, who.Key, nil, &page)
	if err != nil || status != http.StatusOK && status != http.StatusServiceUnavailable {
		t.Fatalf("the books of %s: want 200, got %d, %v", provider, status, err)
	}
	return page.Items
}

// booked waits until the books show the request and returns its one row.
func booked(t *testing.T, who stacktest.Account, provider, requestID string) usage {
	t.Helper()
	if requestID == "" {
		t.Fatal("the answer has no x-request-id")
	}
	var found usage
	testenv.Eventually(t, "request "+requestID+" in analytics", func() bool {
		n := 0
		for _, item := range listed(t, who, provider) {
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
