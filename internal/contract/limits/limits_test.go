package limits_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
)

func TestBuiltIn(t *testing.T) {
	t.Parallel()
	set, err := limits.Load("")
	if err != nil {
		t.Fatal(err)
	}
	if len(set.Rules()) == 0 || len(set.Paths()) == 0 {
		t.Fatalf("want rules and paths, got %d and %d", len(set.Rules()), len(set.Paths()))
	}
	for _, path := range set.Paths() {
		if path[0].Key != "count" {
			t.Errorf("path %v: want it to begin with count", path)
		}
	}
}

const example = `
domain: leaky
descriptors:
  - key: count
    value: tokens
    descriptors:
      - key: user
        rate_limit: {name: mine, unit: minute, requests_per_unit: 60}
        metadata: {rate_limit_policy: {algorithm: leaky_bucket, burst: 1000, unit: tokens, scale: tier}}
        descriptors:
          - {key: model, value: gpt-4o, rate_limit: {unit: second, requests_per_unit: 5}}
          - {key: model, value: gpt-4*, rate_limit: {unit: hour, requests_per_unit: 6}}
          - {key: model, value: free*, share_threshold: true, rate_limit: {unit: day, requests_per_unit: 7}}
          - {key: model, rate_limit: {unit: year, requests_per_unit: 8}}
      - {key: user, value: boss, rate_limit: {name: boss, unlimited: true, replaces: [{name: mine}]}}
  - key: count
    value: requests
    descriptors:
      - {key: remote_address, shadow_mode: true, rate_limit: {unit: week, requests_per_unit: 9}}
`

func entries(pairs ...string) []limits.Entry {
	var out []limits.Entry
	for i := 0; i < len(pairs); i += 2 {
		out = append(out, limits.Entry{Key: pairs[i], Value: pairs[i+1]})
	}
	return out
}

func TestMatch(t *testing.T) {
	t.Parallel()
	set, err := limits.Parse([]byte(example))
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		entries []limits.Entry
		want    string // path, empty for none
		key     string
	}{
		"any value": {entries("count", "tokens", "user", "ann"), "count_tokens.user", "count_tokens.user_ann"},
		"fixed value wins": {entries("count", "tokens", "user", "ann", "model", "gpt-4o"), "count_tokens.user.model_gpt-4o",
			"count_tokens.user_ann.model_gpt-4o"},
		"prefix": {entries("count", "tokens", "user", "ann", "model", "gpt-4.1"), "count_tokens.user.model_gpt-4*",
			"count_tokens.user_ann.model_gpt-4%2e1"},
		"prefix that shares": {entries("count", "tokens", "user", "ann", "model", "free-2"), "count_tokens.user.model_free*",
			"count_tokens.user_ann.model_free*"},
		"no prefix": {entries("count", "tokens", "user", "ann", "model", "qwen"), "count_tokens.user.model",
			"count_tokens.user_ann.model_qwen"},
		"fixed value":                    {entries("count", "tokens", "user", "boss"), "count_tokens.user_boss", "count_tokens.user_boss"},
		"no way back from a fixed value": {entries("count", "tokens", "user", "boss", "model", "gpt-4o"), "", ""},
		"too short":                      {entries("count", "tokens"), "", ""},
		"too long":                       {entries("count", "requests", "remote_address", "::1", "user", "ann"), "", ""},
		"unknown value":                  {entries("count", "coins", "user", "ann"), "", ""},
		"nothing":                        {nil, "", ""},
		"value that looks like a key": {entries("count", "tokens", "user", "{x}.model_gpt-4o %|\x00"), "count_tokens.user",
			"count_tokens.user_%7bx%7d%2emodel_gpt-4o%20%25%7c%00"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rule, ok := set.Match(tc.entries)
			if ok != (tc.want != "") {
				t.Fatalf("want a match: %t, got %t", tc.want != "", ok)
			}
			if !ok {
				return
			}
			if rule.Path != tc.want {
				t.Errorf("want rule %s, got %s", tc.want, rule.Path)
			}
			if got := string(rule.AppendKey(nil, tc.entries)); got != tc.key {
				t.Errorf("want key %s, got %s", tc.key, got)
			}
		})
	}
}

func TestRules(t *testing.T) {
	t.Parallel()
	set, err := limits.Parse([]byte(example))
	if err != nil {
		t.Fatal(err)
	}
	rules := map[string]*limits.Rule{}
	for _, r := range set.Rules() {
		rules[r.Name] = r
	}
	mine := rules["mine"]
	if mine == nil || mine.Unit != limits.Tokens || mine.Algorithm != limits.LeakyBucket || mine.Capacity != 1000 || mine.PerPeriod != 60 ||
		mine.Period != time.Minute || !mine.Scaled || mine.Shared {
		t.Errorf("rule mine: %+v", mine)
	}
	if boss := rules["boss"]; boss == nil || !boss.Unlimited || !cmp.Equal(boss.Replaces, []string{"mine"}) {
		t.Errorf("rule boss: %+v", boss)
	}
	if r := rules["count_requests.remote_address"]; r == nil || !r.Shadow || !r.Shared || r.Unit != limits.Requests ||
		r.Algorithm != limits.FixedWindow || r.Capacity != 9 {
		t.Errorf("rule of addresses: %+v", r)
	}
	want := []limits.Path{
		{{Key: "count", Value: "tokens"}, {Key: "user"}},
		{{Key: "count", Value: "tokens"}, {Key: "user"}, {Key: "model"}},
		{{Key: "count", Value: "requests"}, {Key: "remote_address"}},
	}
	if diff := cmp.Diff(want, set.Paths()); diff != "" {
		t.Errorf("paths differ (-want +got):\n%s", diff)
	}
}

func TestPathsOfRoutes(t *testing.T) {
	t.Parallel()
	rule := func(value, more string) string {
		return "      - {key: route" + value + ", descriptors: [{key: user, rate_limit: {unit: day, requests_per_unit: 1}}]" + more + "}\n"
	}
	head := "domain: leaky\ndescriptors:\n  - key: count\n    value: requests\n    descriptors:\n"
	path := func(route string) limits.Path {
		return limits.Path{{Key: "count", Value: "requests"}, {Key: "route", Value: route}, {Key: "user"}}
	}
	for name, tc := range map[string]struct {
		text string
		want []limits.Path
	}{
		"fixed":               {rule(", value: a", "") + rule(", value: b", ""), []limits.Path{path("a"), path("b")}},
		"fixed, then any":     {rule(", value: a", "") + rule("", ""), []limits.Path{path("")}},
		"any, then fixed":     {rule("", "") + rule(", value: a", ""), []limits.Path{path("")}},
		"a prefix is no name": {rule(", value: a*", ""), []limits.Path{path("")}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			set, err := limits.Parse([]byte(head + tc.text))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, set.Paths()); diff != "" {
				t.Errorf("paths differ (-want +got):\n%s", diff)
			}
		})
	}
}

func TestMistakes(t *testing.T) {
	t.Parallel()
	rule := func(inside string) string {
		return "domain: leaky\ndescriptors:\n  - key: count\n    value: tokens\n    descriptors:\n      - key: user\n        " + inside + "\n"
	}
	for name, tc := range map[string]struct{ text, want string }{
		"empty":          {"", "1:1: the file is empty"},
		"only a comment": {"# nothing\n", "1:1: the file is empty"},
		"not YAML":       {"domain: [", "1:9: "},
		"a list":         {"- a\n", "1:1: the file must be a mapping"},
		"no domain":      {"descriptors: []\n", "domain is missing"},
		"other domain":   {"domain: mine\n", `1:9: domain is "mine", but Envoy asks in domain "leaky"`},
		"unknown key":    {"domain: leaky\ndescriptor: []\n", `2:1: unknown key "descriptor" in the file; did you mean "descriptors"?`},
		"key twice":      {"domain: leaky\ndomain: leaky\n", "2:1: "},
		"two documents":  {"domain: leaky\n---\ndomain: leaky\n", "more than one YAML document"},
		"no anchor":      {"domain: *a\n", `1:9: there is no anchor "a" above`},
		"anchor twice":   {"domain: &a leaky\ndescriptors: &a []\n", `2:14: the anchor "a" is there twice`},
		"anchor in itself": {"domain: leaky\ndescriptors: &a [{key: count, value: tokens, descriptors: *a}]\n",
			"count can only be the first key"},
		"merge of itself": {"domain: leaky\ndescriptors:\n  - &a\n    <<: *a\n    key: count\n", "merge keys lead deeper than 8"},
		"tag":             {"domain: !!str leaky\n", "1:9: domain must be text; tags are not read"},
		"not a list":      {"domain: leaky\ndescriptors: 3\n", "2:14: descriptors must be a list"},
		"no key":          {"domain: leaky\ndescriptors:\n  - value: tokens\n", "a descriptor needs a key"},
		"unknown entry":   {"domain: leaky\ndescriptors:\n  - key: cuont\n", `3:10: unknown key "cuont"; did you mean "count"?`},
		"not count first": {"domain: leaky\ndescriptors:\n  - key: user\n", "3:10: a path begins with key: count"},
		"count of coins": {"domain: leaky\ndescriptors:\n  - {key: count, value: token}\n",
			`unknown value "token" of count; did you mean "tokens"?`},
		"count of nothing": {"domain: leaky\ndescriptors:\n  - {key: count}\n", "count needs a value"},
		"unit":             {rule("rate_limit: {unit: minuet, requests_per_unit: 1}"), `7:28: unknown unit "minuet"; did you mean "minute"?`},
		"no unit":          {rule("rate_limit: {requests_per_unit: 1}"), "rate_limit needs a unit"},
		"no number":        {rule("rate_limit: {unit: day}"), "rate_limit needs requests_per_unit"},
		"negative": {rule("rate_limit: {unit: day, requests_per_unit: -1}"),
			"7:52: requests_per_unit must be a whole number from 0 to 4294967295"},
		"fraction":          {rule("rate_limit: {unit: day, requests_per_unit: 1.5}"), "must be a whole number"},
		"text for a number": {rule("rate_limit: {unit: day, requests_per_unit: many}"), "must be a whole number"},
		"unlimited unit":    {rule("rate_limit: {unit: day, unlimited: true}"), "an unlimited rule has no unit"},
		"algorithm": {rule("rate_limit: {unit: day, requests_per_unit: 1}\n        metadata: {rate_limit_policy: {algorithm: leaky_buket}}"),
			`8:51: unknown algorithm "leaky_buket"; did you mean "leaky_bucket"?`},
		"policy key": {rule("rate_limit: {unit: day, requests_per_unit: 1}\n        metadata: {rate_limit_policy: {brust: 3}}"),
			`8:40: unknown key "brust" in rate_limit_policy; did you mean "burst"?`},
		"burst of a window": {rule("rate_limit: {unit: day, requests_per_unit: 1}\n        metadata: {rate_limit_policy: {burst: 3}}"),
			"a fixed_window has no burst"},
		"burst of zero": {rule("rate_limit: {unit: day, requests_per_unit: 1}\n        metadata: {rate_limit_policy: {algorithm: leaky_bucket, burst: 0}}"), "burst must be a whole number from 1"},
		"never drains":  {rule("rate_limit: {unit: day, requests_per_unit: 0}\n        metadata: {rate_limit_policy: {algorithm: leaky_bucket, burst: 3}}"), "never drains"},
		"unit of another path": {rule("rate_limit: {unit: day, requests_per_unit: 1}\n        metadata: {rate_limit_policy: {unit: requests}}"),
			"unit is requests, but the path counts tokens"},
		"scale": {rule("rate_limit: {unit: day, requests_per_unit: 1}\n        metadata: {rate_limit_policy: {scale: tiers}}"),
			`did you mean "tier"?`},
		"metadata alone": {rule("metadata: {rate_limit_policy: {unit: tokens}}"), "metadata without rate_limit does nothing"},
		"second descriptor": {rule("rate_limit: {unit: day, requests_per_unit: 1}\n      - key: user"),
			"8:14: a second descriptor for user at this level"},
		"name twice": {rule("rate_limit: {name: a, unit: day, requests_per_unit: 1}\n      - key: org\n        rate_limit: {name: a, unit: day, requests_per_unit: 1}"),
			`9:28: the name "a" is taken by the rule on line 7`},
		"name of another world": {rule("rate_limit: {name: \"a\\r\\nb: c\", unit: day, requests_per_unit: 1}"), "the name goes into headers"},
		"replaces itself": {rule("rate_limit: {name: a, unit: day, requests_per_unit: 1, replaces: [{name: a}]}"),
			"a rule cannot replace itself"},
		"threshold": {rule("share_threshold: true"), "share_threshold needs a value with a *"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := limits.Parse([]byte(tc.text))
			if err == nil {
				t.Fatal("want an error, got none")
			}
			if !strings.Contains(err.Error(), tc.want) {
				t.Errorf("want an error with %q, got %q", tc.want, err)
			}
		})
	}
}

func TestManyMistakesAtOnce(t *testing.T) {
	t.Parallel()
	_, err := limits.Parse([]byte("domain: mine\ndescriptors:\n  - key: cuont\n  - key: usr\n" + strings.Repeat("  - key: x\n", 50)))
	if err == nil {
		t.Fatal("want errors, got none")
	}
	if lines := strings.Count(err.Error(), "\n") + 1; lines != 10 {
		t.Errorf("want ten mistakes told, got %d:\n%v", lines, err)
	}
}

func TestDeepNestingIsRefused(t *testing.T) {
	t.Parallel()
	for depth, want := range map[int]string{20: "deeper than 16", 200: "2:1: it nests more than 64 deep"} {
		text := "domain: leaky\ndescriptors: [{key: count, value: tokens" + strings.Repeat(", descriptors: [{key: user", depth) +
			strings.Repeat("}]", depth) + "}]\n"
		if _, err := limits.Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want the depth refused, got %v", err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(example))
	f.Add([]byte("domain: leaky\ndescriptors:\n  - {key: count, value: tokens, rate_limit: {unit: day, requests_per_unit: 1}}\n"))
	f.Add([]byte("a: &a [*a]\n<<: *a\n? [x]\n: !!int y\n"))
	f.Add([]byte("domain: d\ndescriptors:\n  - &a {key: k, value: v*, share_threshold: yes, rate_limit: &r {unit: day}}\n  - {<<: *a, key: l}\n  - {key: m, rate_limit: *r, descriptors: [*a]}\n"))
	f.Add([]byte("domain: |\n  leaky\ndescriptors: ~\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, o := range []limits.Options{{}, {AnyKeys: true}} {
			parsed(t, text, o)
		}
	})
}

// parsed reads a text that may be anything and uses what comes of it.
func parsed(t *testing.T, text []byte, o limits.Options) {
	t.Helper()
	set, err := limits.ParseWith(text, o)
	if (err == nil) != (set != nil) {
		t.Fatalf("set %v with error %v", set, err)
	}
	if err != nil {
		return
	}
	for _, path := range set.Paths() {
		var descriptor []limits.Entry
		for _, k := range path {
			descriptor = append(descriptor, limits.Entry(k))
		}
		set.Reach(descriptor)
		if rule, ok := set.Match(descriptor); ok {
			rule.AppendKey(nil, descriptor)
			rule.AppendLabel(nil, descriptor)
		}
	}
	for _, r := range set.Rules() {
		if r.Name == "" || !r.Unlimited && r.Period <= 0 || r.Capacity < 0 {
			t.Fatalf("rule %+v", r)
		}
	}
}

func BenchmarkMatch(b *testing.B) {
	set, err := limits.Parse([]byte(example))
	if err != nil {
		b.Fatal(err)
	}
	descriptor := entries("count", "tokens", "user", "7b0c1f2e-0a51-4d8c-9a37-2f1f5b6c7d8e", "model", "gpt-4.1")
	key := make([]byte, 0, 256)
	b.ReportAllocs()
	for b.Loop() {
		rule, _ := set.Match(descriptor)
		key = rule.AppendKey(key[:0], descriptor)
	}
}

// TestADeepTextIsNotParsed: it would cost memory that grows with the square of its depth.
func TestADeepTextIsNotParsed(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{"brackets": strings.Repeat("[", 5_000), "lists": strings.Repeat("- ", 5_000) + "a"} {
		if _, err := limits.Parse([]byte("domain: leaky\ndescriptors:\n  " + text)); err == nil || !strings.Contains(err.Error(), "3:1: it nests more than 64 deep") {
			t.Errorf("%s: want it refused, got %.200v", name, err)
		}
	}
}
