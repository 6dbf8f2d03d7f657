package limits_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	"github.com/envoyproxy/ratelimit/src/config"
	"github.com/envoyproxy/ratelimit/src/settings"
	"github.com/envoyproxy/ratelimit/src/stats"
	gostats "github.com/lyft/gostats"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/leaky-tokens/leaky-tokens/deploy"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
)

// upstreamFiles are the limit files of upstream's own tests, from the module's source.
func upstreamFiles(t *testing.T) []string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/envoyproxy/ratelimit").Output()
	if err != nil {
		t.Fatalf("find upstream's source: %v", err)
	}
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(out)), "test", "config", "*.yaml"))
	if err != nil || len(files) < 15 {
		t.Fatalf("want upstream's files, got %d: %v", len(files), err)
	}
	return files
}

// theirs loads text as upstream does, which panics on a mistake.
func theirs(text string) (set config.RateLimitConfig, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%v", r)
		}
	}()
	manager := stats.NewStatManager(gostats.NewStore(gostats.NewNullSink(), false), settings.Settings{})
	return config.NewRateLimitConfigImpl([]config.RateLimitConfigToLoad{{Name: "f", ConfigYaml: config.ConfigFileContentToYaml("f", text)}},
		manager, false), nil
}

// dump is our rules as upstream's Dump writes its own, line by line, sorted.
func dump(set *limits.Set) []string {
	var lines []string
	for _, r := range set.Rules() {
		unit := "UNKNOWN"
		if !r.Unlimited {
			unit = strings.ToUpper(unitOf(r))
		}
		lines = append(lines, fmt.Sprintf("%s.%s: unit=%s requests_per_unit=%d, shadow_mode: %t, quota_mode: %t", set.Domain(), r.Path, unit,
			r.PerPeriod, r.Shadow, r.Quota))
	}
	slices.Sort(lines)
	return lines
}

func sameRules(t interface{ Errorf(string, ...any) }, ours *limits.Set, upstream config.RateLimitConfig) {
	var want []string
	for s := bufio.NewScanner(strings.NewReader(upstream.Dump())); s.Scan(); {
		want = append(want, s.Text())
	}
	slices.Sort(want)
	if got := dump(ours); !slices.Equal(want, got) {
		t.Errorf("want rules\n%s\ngot\n%s", strings.Join(want, "\n"), strings.Join(got, "\n"))
	}
}

// TestUpstreamsFiles is upstream's own accept and reject table, and what comes of the
// files that load.
func TestUpstreamsFiles(t *testing.T) {
	t.Parallel()
	for _, file := range upstreamFiles(t) {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			upstream, want := theirs(string(text))
			ours, got := limits.ParseWith(text, limits.Options{AnyKeys: true, File: file})
			if (want == nil) != (got == nil) {
				t.Fatalf("want %v, got %v", want, got)
			}
			if want != nil {
				if !strings.HasPrefix(got.Error(), file+":") {
					t.Errorf("want file, line and column, got %v", got)
				}
				return
			}
			sameRules(t, ours, upstream)
		})
	}
}

// TestLanguage goes through the language word by word: what upstream accepts and
// refuses is accepted and refused here.
func TestLanguage(t *testing.T) {
	t.Parallel()
	rule := func(inside string) string { return "domain: d\ndescriptors:\n  - key: k\n" + indent(inside) }
	for name, text := range map[string]string{
		"week":                       rule("rate_limit: {unit: week, requests_per_unit: 1}"),
		"month":                      rule("rate_limit: {unit: month, requests_per_unit: 1}"),
		"year":                       rule("rate_limit: {unit: Year, requests_per_unit: 1}"),
		"fortnight":                  rule("rate_limit: {unit: fortnight, requests_per_unit: 1}"),
		"unknown":                    rule("rate_limit: {unit: unknown, requests_per_unit: 1}"),
		"no number":                  rule("rate_limit: {unit: day}"),
		"hexadecimal":                rule("rate_limit: {unit: day, requests_per_unit: 0x10}"),
		"underscores":                rule("rate_limit: {unit: day, requests_per_unit: 1_000}"),
		"negative":                   rule("rate_limit: {unit: day, requests_per_unit: -1}"),
		"fraction":                   rule("rate_limit: {unit: day, requests_per_unit: 0.5}"),
		"too many":                   rule("rate_limit: {unit: day, requests_per_unit: 4294967296}"),
		"unlimited, unknown unit":    rule("rate_limit: {unit: fortnight, unlimited: true}"),
		"shadow":                     rule("shadow_mode: yes\nrate_limit: {unit: day, requests_per_unit: 1}"),
		"quoted yes":                 rule("shadow_mode: \"yes\"\nrate_limit: {unit: day, requests_per_unit: 1}"),
		"quota":                      rule("quota_mode: on\nrate_limit: {unit: day, requests_per_unit: 1}"),
		"value to metric":            rule("value_to_metric: true\ndescriptors: [{key: b, rate_limit: {unit: day, requests_per_unit: 1}}]"),
		"threshold of a value":       rule("value: x\nshare_threshold: true"),
		"threshold of a pattern":     rule("value: x*\nshare_threshold: true"),
		"number for a value":         rule("value: 010\nrate_limit: {unit: day, requests_per_unit: 1}"),
		"bool for a value":           rule("value: true\nrate_limit: {unit: day, requests_per_unit: 1}"),
		"null for a value":           rule("value: ~\nrate_limit: {unit: day, requests_per_unit: 1}"),
		"unicode":                    rule("value: \"naïve Ωmega*\"\nrate_limit: {name: näme, unit: day, requests_per_unit: 1}"),
		"name twice":                 rule("rate_limit: {name: a, unit: day, requests_per_unit: 1}\ndescriptors: [{key: b, rate_limit: {name: a, unit: day, requests_per_unit: 1}}]"),
		"replaces":                   rule("rate_limit: {name: a, replaces: [{name: b}, {name: c}], unit: day, requests_per_unit: 1}"),
		"no limit":                   rule("rate_limit:"),
		"anchor":                     rule("rate_limit: &r {unit: day, requests_per_unit: 1}\ndescriptors: [{key: b, rate_limit: *r}]"),
		"merge":                      rule("rate_limit: &r {unit: day, requests_per_unit: 1}\ndescriptors: [{key: b, rate_limit: {<<: *r, requests_per_unit: 2}}]"),
		"alias before its anchor":    rule("rate_limit: *r\ndescriptors: [{key: b, rate_limit: &r {unit: day, requests_per_unit: 1}}]"),
		"descriptors are no list":    "domain: d\ndescriptors: {key: k}\n",
		"descriptors are null":       "domain: d\ndescriptors: ~\n",
		"an empty limit":             rule("rate_limit: {}"),
		"unknown word of the limit":  rule("rate_limit: {unit: day, per: 1}"),
		"key of a number":            "domain: d\ndescriptors: [{key: 5, rate_limit: {unit: day, requests_per_unit: 1}}]\n",
		"two with one value":         "domain: d\ndescriptors: [{key: a, value: b}, {key: a, value: b}]\n",
		"a value and a pattern":      "domain: d\ndescriptors: [{key: a, value: b}, {key: a, value: b*}, {key: a}]\n",
		"the same deeper":            "domain: d\ndescriptors: [{key: a, descriptors: [{key: a, descriptors: [{key: a}]}]}]\n",
		"spaces in a key":            "domain: \"d e\"\ndescriptors: [{key: \"a b\", rate_limit: {unit: day, requests_per_unit: 1}}]\n",
		"block text":                 "domain: |-\n  d\ndescriptors: [{key: a, rate_limit: {unit: day, requests_per_unit: 1}}]\n",
		"a domain that is a mapping": "domain: {a: b}\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			upstream, want := theirs(text)
			ours, got := limits.ParseWith([]byte(text), limits.Options{AnyKeys: true})
			if (want == nil) != (got == nil) {
				t.Fatalf("want %v, got %v in\n%s", want, got, text)
			}
			if want == nil {
				sameRules(t, ours, upstream)
			}
		})
	}
}

func indent(text string) string {
	return "    " + strings.ReplaceAll(text, "\n", "\n    ") + "\n"
}

// TestOursLoadThere loads the built-in limits and the documented examples in upstream,
// without the metadata, which the pinned version does not know yet.
func TestOursLoadThere(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(filepath.Join("..", "..", "docs", "limits", "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	texts := map[string]string{"deploy/limits.yaml": string(deploy.DefaultLimits)}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "\ndomain: ") || strings.HasPrefix(string(text), "domain: ") {
			texts[filepath.Base(file)] = string(text)
		}
	}
	for name, text := range texts {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ours, err := limits.ParseWith([]byte(text), limits.Options{AnyKeys: true})
			if err != nil {
				t.Fatal(err)
			}
			upstream, err := theirs(withoutMetadata(t, text))
			if err != nil {
				t.Fatal(err)
			}
			sameRules(t, ours, upstream)
		})
	}
}

// withoutMetadata drops the lines that hold metadata: in these files each is one line.
func withoutMetadata(t *testing.T, text string) string {
	t.Helper()
	var out strings.Builder
	for line := range strings.Lines(text) {
		trimmed := strings.TrimSpace(line)
		if strings.HasPrefix(trimmed, "metadata:") {
			if !strings.HasSuffix(trimmed, "}") {
				t.Fatalf("metadata of more than one line: %s", line)
			}
			continue
		}
		out.WriteString(line)
	}
	return out.String()
}

// TestLabelsAsUpstream compares what metrics are labelled with.
func TestLabelsAsUpstream(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := flagged(t)
		ours, err := limits.ParseWith([]byte(text), limits.Options{AnyKeys: true})
		if err != nil {
			t.Fatalf("parse: %v\n%s", err, text)
		}
		upstream, err := theirs(text)
		if err != nil {
			t.Fatal(err)
		}
		for range 10 {
			var entries []limits.Entry
			d := &common.RateLimitDescriptor{}
			for range rapid.IntRange(1, 3).Draw(t, "depth") {
				e := limits.Entry{Key: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "key"), Value: rapid.SampledFrom([]string{"", "x", "xy",
					"z"}).Draw(t, "value")}
				entries = append(entries, e)
				d.Entries = append(d.Entries, &common.RateLimitDescriptor_Entry{Key: e.Key, Value: e.Value})
			}
			limit := upstream.GetLimit(t.Context(), "d", proto.Clone(d).(*common.RateLimitDescriptor))
			rule, ok := ours.Match(entries)
			if ok != (limit != nil) {
				t.Fatalf("%v: upstream %v, ours %v", entries, limit, rule)
			}
			if !ok {
				continue
			}
			if got := "d." + string(rule.AppendLabel(nil, entries)); got != limit.FullKey {
				t.Fatalf("%v: want label %q, got %q in\n%s", entries, limit.FullKey, got, text)
			}
			if rule.Shadow != limit.ShadowMode || rule.Quota != limit.QuotaMode || rule.Detailed != limit.DetailedMetric ||
				rule.Unlimited != limit.Unlimited {
				t.Fatalf("%v: want %+v, got %+v", entries, limit, rule)
			}
		}
	})
}

// flagged is a random tree without names whose descriptors carry every flag.
func flagged(t *rapid.T) string {
	var level func(depth int) string
	level = func(depth int) string {
		var items []string
		for _, key := range []string{"a", "b"} {
			for _, value := range []string{"", "x", "x*"} {
				if rapid.Bool().Draw(t, "left out") && (key != "a" || value != "") {
					continue
				}
				item := fmt.Sprintf("{key: %s, value: %q, rate_limit: {unit: day, requests_per_unit: 1}", key, value)
				for _, flag := range []string{"detailed_metric", "value_to_metric", "shadow_mode", "quota_mode", "share_threshold"} {
					if flag != "share_threshold" || strings.HasSuffix(value, "*") {
						item += fmt.Sprintf(", %s: %t", flag, rapid.Bool().Draw(t, flag))
					}
				}
				if depth < 3 && rapid.Bool().Draw(t, "nested") {
					item += ", descriptors: " + level(depth+1)
				}
				items = append(items, item+"}")
			}
		}
		return "[" + strings.Join(items, ",\n") + "]"
	}
	return "domain: d\ndescriptors: " + level(1) + "\n"
}
