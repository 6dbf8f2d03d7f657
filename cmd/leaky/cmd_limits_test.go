package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/ratelimit"
)

// TestLimits asks a file without a running stack.
func TestLimits(t *testing.T) {
	t.Parallel()
	dir := stateDir(t)
	docs := filepath.Join("..", "..", "docs", "limits")
	config := filepath.Join(t.TempDir(), "leaky.yaml")
	other, err := filepath.Abs(filepath.Join(docs, "other-envoy.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, []byte("limits: {domains: ["+other+"]}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	if err := os.WriteFile(bad, []byte("domain: leaky\ndescriptors:\n  - key: cuont\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	model := "--file=" + filepath.Join(docs, "per-model.yaml")
	for _, tc := range []struct {
		name string
		args []string
		ok   bool
		want string
	}{
		{"list", []string{"limits", "list"}, true, "user-tokens"},
		{"list of other domains", []string{"--config", config, "limits", "list"}, true, "checkout"},
		{"test", []string{"limits", "test", "count=tokens,user=ann,provider=openai"}, true, "rule user-tokens"},
		{"test of a tier", []string{"limits", "test", "--file=" + filepath.Join(docs, "per-tier.yaml"), "count=tokens,user=ann"}, true, "ADMIN"},
		{"test of a prefix", []string{"limits", "test", model, "count=tokens,user=ann,model=gpt-4.1"}, true, "rule gpt-4, line"},
		{"test of a comma", []string{"limits", "test", model, `count=tokens,user=a\,b,model=x`}, true, "user_a,b"},
		{"test of what is replaced", []string{"limits", "test", "--file=" + filepath.Join(docs, "unlimited.yaml"),
			"count=requests,user=ann", "count=requests,key=00000000-0000-4000-8000-000000000001"}, true, "replaced by nightly-job"},
		{"test of another domain", []string{"--config", config, "limits", "test", "--domain=shop", "path=/checkout"}, true, "rule checkout"},
		{"test of a file of another domain", []string{"limits", "test", "--file", other, "--domain=shop", "plan=free,customer=x"}, true, "quota"},
		{"no such domain", []string{"limits", "test", "--domain=shop", "path=/"}, false, `no file is of domain "shop"; there is leaky`},
		{"the file's other domain", []string{"limits", "test", "--file", other, "--domain=shpo", "path=/"}, false, "write --domain shop"},
		{"nothing matches", []string{"limits", "test", model, "count=tokens,usr=ann"}, false,
			"after count=tokens the file knows user, not usr=ann"},
		{"too short", []string{"limits", "test", model, "count=tokens,user=ann"}, false, "the path goes on with model"},
		{"another value", []string{"limits", "test", model, "count=coins"}, false, "the file begins with count=tokens, not count=coins"},
		{"no descriptor", []string{"limits", "test", "user"}, false, "write a descriptor as key=value"},
		{"a mistake", []string{"limits", "test", "--file", bad, "user=x"}, false, "bad.yaml:3:10: unknown key \"cuont\""},
		{"help", []string{"limits", "test", "--help"}, true, "Examples:"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			out, errs, ok := leaky(t, dir, nil, tc.args...)
			if ok != tc.ok || !strings.Contains(out+errs, tc.want) {
				t.Errorf("want success %v and %q, got %v\n%s%s", tc.ok, tc.want, ok, out, errs)
			}
			if strings.Contains(out+errs, "panic:") {
				t.Errorf("it panics: %s", errs)
			}
		})
	}
}

// TestExplainOfAnotherDomain asks a limiter what it would decide.
func TestExplainOfAnotherDomain(t *testing.T) {
	t.Parallel()
	dir := stateDir(t)
	limiter := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var asked map[string]any
		if err := json.NewDecoder(r.Body).Decode(&asked); err != nil || r.URL.Path != ratelimit.ExplainPath || asked["domain"] != "shop" {
			http.Error(w, fmt.Sprintf("no file has the domain %q", asked["domain"]), http.StatusBadRequest)
			return
		}
		_ = json.NewEncoder(w).Encode(ratelimit.Explained{Domain: "shop", Refused: true, RetryAfterSeconds: 90, Descriptors: []ratelimit.ExplainedDescriptor{
			{Descriptor: "path=/a", Rule: &ratelimit.ExplainedRule{Name: "pay", Line: 7, Algorithm: "leaky_bucket", Limit: 10, Unit: "hour"}, Mode: "enforced",
				Hits: 2, Level: 9.5, Over: true, ResetSeconds: 3420, Bucket: "b:shop|path|/a"},
			{Descriptor: "plan=x", Why: "the file begins with path, not plan=x"}}})
	}))
	t.Cleanup(limiter.Close)
	for _, tc := range []struct {
		name string
		args []string
		ok   bool
		want []string
	}{
		{"explained", []string{"--domain=shop", "--hits=2", "path=/a", "plan=x"}, true, []string{"rule pay, line 7", "10/hour, leaky bucket",
			"9.5, over the limit with 2; 57m0s", "no rule: the file begins with path", "refused; it may fit in 1m30s"}},
		{"as JSON", []string{"--domain=shop", "-o", "json", "path=/a"}, true, []string{`"retryAfterSeconds": 90`}},
		{"no such domain", []string{"--domain=shpo", "path=/a"}, false, []string{`no file has the domain "shpo"`}},
		{"no domain", []string{"path=/a"}, false, []string{"say in which --domain"}},
		{"no descriptor", []string{"--domain=shop", "path"}, false, []string{"write a descriptor as key=value"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			out, errs, ok := leaky(t, dir, nil, append([]string{"explain", "--at", limiter.URL}, tc.args...)...)
			for _, want := range tc.want {
				if ok != tc.ok || !strings.Contains(out+errs, want) {
					t.Errorf("want success %v and %q, got %v\n%s%s", tc.ok, want, ok, out, errs)
				}
			}
		})
	}
	if _, errs, ok := leaky(t, dir, nil, "explain", "one", "two"); ok || !strings.Contains(errs, "one request id at a time") {
		t.Errorf("two ids: %v, %s", ok, errs)
	}
}

// TestLimitsAsJSON reads what scripts read.
func TestLimitsAsJSON(t *testing.T) {
	t.Parallel()
	dir := stateDir(t)
	out, errs, ok := leaky(t, dir, nil, "limits", "test", "-o", "json", "--file", filepath.Join("..", "..", "docs", "limits",
		"per-user.yaml"), "count=tokens,user=ann,provider=openai")
	var matches []limitMatch
	if err := json.Unmarshal([]byte(out), &matches); err != nil || !ok {
		t.Fatalf("%v\n%s%s", err, out, errs)
	}
	if r := matches[0].Rule; len(matches) != 1 || r.Name != "user-tokens" || r.Tiers[""].Capacity != 90000 ||
		r.Tiers[""].PerSecond != 1000 || r.Counts != "tokens" {
		t.Errorf("got %s", out)
	}
	out, errs, ok = leaky(t, dir, nil, "limits", "list", "-o", "json")
	var lines []limitLine
	if err := json.Unmarshal([]byte(out), &lines); err != nil || !ok || len(lines) < 5 || lines[0].Line == 0 {
		t.Errorf("%v\n%s%s", err, out, errs)
	}
}
