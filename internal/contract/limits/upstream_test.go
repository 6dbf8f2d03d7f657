package limits_test

import (
	"fmt"
	"strings"
	"testing"

	common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	"github.com/envoyproxy/ratelimit/src/config"
	"github.com/envoyproxy/ratelimit/src/settings"
	"github.com/envoyproxy/ratelimit/src/stats"
	gostats "github.com/lyft/gostats"
	"pgregory.net/rapid"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
)

// tree writes random descriptors as YAML; every rule is named after its place.
func tree(t *rapid.T, b *strings.Builder, indent string, depth int, serial *int) {
	used := map[string]bool{}
	for range rapid.IntRange(1, 4).Draw(t, "siblings") {
		key := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "key")
		value := rapid.SampledFrom([]string{"", "x", "xy", "x*", "xy*", "*", "z"}).Draw(t, "value")
		if used[key+"="+value] {
			continue
		}
		used[key+"="+value] = true
		fmt.Fprintf(b, "%s- key: %s\n", indent, key)
		if value != "" {
			fmt.Fprintf(b, "%s  value: %q\n", indent, value)
		}
		nested := depth < 3 && rapid.Bool().Draw(t, "nested")
		if !nested || rapid.Bool().Draw(t, "limited") {
			*serial++
			fmt.Fprintf(b, "%s  rate_limit: {name: r%d, unit: %s, requests_per_unit: %d}\n", indent, *serial,
				rapid.SampledFrom([]string{"second", "minute", "hour", "day", "week", "month", "year"}).Draw(t, "unit"), *serial)
		}
		if nested {
			fmt.Fprintf(b, "%s  descriptors:\n", indent)
			tree(t, b, indent+"  ", depth+1, serial)
		}
	}
}

// TestMatchesAsUpstream compares with envoyproxy/ratelimit's own loader and matcher.
func TestMatchesAsUpstream(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		b, serial := &strings.Builder{}, 0
		b.WriteString("domain: leaky\ndescriptors:\n")
		tree(t, b, "  ", 0, &serial)
		ours, err := limits.ParseWith([]byte(b.String()), limits.Options{AnyKeys: true})
		if err != nil {
			t.Fatalf("parse: %v\n%s", err, b)
		}
		theirs := config.NewRateLimitConfigImpl([]config.RateLimitConfigToLoad{{Name: "random",
			ConfigYaml: config.ConfigFileContentToYaml("random", b.String())}},
			stats.NewStatManager(gostats.NewStore(gostats.NewNullSink(), false), settings.Settings{}), false)
		for range 20 {
			var entries []limits.Entry
			descriptor := &common.RateLimitDescriptor{}
			for range rapid.IntRange(1, 5).Draw(t, "depth") {
				e := limits.Entry{Key: rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "entry"),
					Value: rapid.SampledFrom([]string{"", "x", "xy", "xyz", "z", "q"}).Draw(t, "entry value")}
				entries = append(entries, e)
				descriptor.Entries = append(descriptor.Entries, &common.RateLimitDescriptor_Entry{Key: e.Key, Value: e.Value})
			}
			want := ""
			if limit := theirs.GetLimit(t.Context(), "leaky", descriptor); limit != nil {
				want = fmt.Sprintf("%s %d/%s", limit.Name, limit.Limit.RequestsPerUnit, strings.ToLower(limit.Limit.Unit.String()))
			}
			got := ""
			if rule, ok := ours.Match(entries); ok {
				got = fmt.Sprintf("%s %d/%s", rule.Name, rule.PerPeriod, unitOf(rule))
			}
			if got != want {
				t.Fatalf("descriptor %v: want %q, got %q in\n%s", entries, want, got, b)
			}
		}
	})
}

func unitOf(r *limits.Rule) string {
	return map[int]string{1: "second", 60: "minute", 3600: "hour", 86400: "day", 604800: "week", 2592000: "month",
		31536000: "year"}[int(r.Period.Seconds())]
}
