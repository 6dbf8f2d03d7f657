package limits_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
)

// TestAliasesStayBounded reads a file of a few lines that would come to 10^9 descriptors.
func TestAliasesStayBounded(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString("domain: d\ndescriptors:\n  - key: k0\n    descriptors: &l0 [{key: a}, {key: b}]\n")
	for i := 1; i < 12; i++ {
		fmt.Fprintf(&b, "  - key: k%d\n    descriptors: &l%d [", i, i)
		for j := range 10 {
			fmt.Fprintf(&b, "{key: a%d, descriptors: *l%d}, ", j, i-1)
		}
		b.WriteString("]\n")
	}
	_, err := limits.ParseWith([]byte(b.String()), limits.Options{AnyKeys: true})
	if err == nil || !strings.Contains(err.Error(), "mappings") {
		t.Errorf("want the size refused, got %.200v", err)
	}
}

func TestDomains(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	rule := "descriptors: [{key: path, value: \"/a b\", rate_limit: {unit: day, requests_per_unit: 1}}]\n"
	one, two := file("one.yaml", "domain: one\n"+rule), file("two.yaml", "domain: two\n"+rule)
	sets, err := limits.LoadDomains([]string{one, two})
	if err != nil || len(sets) != 2 {
		t.Fatalf("want two sets, got %v and %v", sets, err)
	}
	keys := map[string]bool{}
	for _, set := range sets {
		descriptor := entries("path", "/a b")
		r, ok := set.Match(descriptor)
		if !ok || !r.Shared || r.Unit != limits.Requests {
			t.Fatalf("rule %+v", r)
		}
		keys[string(r.AppendKey(nil, descriptor))] = true
	}
	if !keys["one|path|/a%20b"] || !keys["two|path|/a%20b"] {
		t.Errorf("want a bucket for each domain, got %v", keys)
	}
	for name, tc := range map[string]struct {
		files []string
		want  string
	}{
		"ours":    {[]string{file("ours.yaml", "domain: leaky\n"+rule)}, `ours.yaml:1:1: the domain "leaky" is our own Envoy's`},
		"twice":   {[]string{one, file("again.yaml", "domain: one\n"+rule)}, `again.yaml:1:1: the domain "one" is ` + one + "'s already"},
		"mistake": {[]string{file("bad.yaml", "domain: one\ndescriptors: [{value: a}]\n")}, "bad.yaml:2:15: a descriptor needs a key"},
		"absent":  {[]string{filepath.Join(dir, "absent.yaml")}, "no such file"},
	} {
		if _, err := limits.LoadDomains(tc.files); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: want an error with %q, got %v", name, tc.want, err)
		}
	}
}

// TestBucketsOfOddDescriptors tells apart what would read the same.
func TestBucketsOfOddDescriptors(t *testing.T) {
	t.Parallel()
	set, err := limits.ParseWith([]byte("domain: d\ndescriptors: [{key: a, rate_limit: {unit: day, requests_per_unit: 1}}, {key: a_b, rate_limit: {unit: day, requests_per_unit: 1}}]\n"), limits.Options{AnyKeys: true})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string][]limits.Entry{}
	for _, d := range [][]limits.Entry{entries("a", "b_c"), entries("a_b", "c"), entries("a", ""), entries("a", "é"), entries("a", "%c3%a9"),
		entries("a", strings.Repeat("x", 10_000)), entries("a", strings.Repeat("x", 10_001))} {
		r, ok := set.Match(d)
		if !ok {
			t.Fatalf("%v matches nothing", d)
		}
		key := string(r.AppendKey(nil, d))
		if other, taken := seen[key]; taken {
			t.Errorf("%.40v and %.40v share the bucket %s", d, other, key)
		}
		if len(key) > 400 || strings.ContainsAny(key, "{} \x00") {
			t.Errorf("key %q", key)
		}
		seen[key] = d
	}
}

// TestAccountsOwnBuckets cuts the account's own id short, and only that.
func TestAccountsOwnBuckets(t *testing.T) {
	t.Parallel()
	set, err := limits.Parse([]byte(example))
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ account, user, want string }{
		{"user:ann", "ann", "count_tokens.user_@"},
		{"user:ann", "bob", "count_tokens.user_bob"},
		{"org:ann", "ann", "count_tokens.user_ann"},
		{"user:ann", "@", "count_tokens.user_%40"},
		{"", "ann", "count_tokens.user_ann"},
	} {
		d := entries("count", "tokens", "user", tc.user)
		r, _ := set.Match(d)
		if got := string(r.AppendAccountKey(nil, tc.account, d)); got != tc.want {
			t.Errorf("%s of %s: want %s, got %s", tc.user, tc.account, tc.want, got)
		}
	}
}
