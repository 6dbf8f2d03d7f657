package metricsdoc

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite docs/metrics.md")

const page = "docs/metrics.md"

const head = `# Metrics

What each part tells Prometheus, at ` + "`/metrics`" + ` of its port, also ` + "`/actuator/prometheus`" + `.
This page is made from the code: ` + "`go test ./internal/testing/metricsdoc -update`" + `.

Every series has ` + "`application`" + `, the part's name, beside the labels below. Labels take their
values from known lists and the configuration: no user, key or text of a client is among them. The
names of the predecessor stay; those that start with ` + "`gen_ai_`" + ` are OpenTelemetry's for
generative AI. A series with labels that no list fixes appears with its first event.

Every part written in Go has ` + "`go_*`" + ` (memory, garbage collection, goroutines) and ` + "`process_*`" + `
(CPU, resident memory, descriptors) too. Envoy's own series, ` + "`envoy_*`" + `, are described in its manual.
`

func TestThePageIsThatOfTheCode(t *testing.T) {
	t.Parallel()
	root := filepath.Join("..", "..", "..")
	all, err := Read(root)
	if err != nil {
		t.Fatal(err)
	}
	want := render(all)
	path := filepath.Join(root, page)
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil || string(got) != want {
		t.Errorf("%s is not that of the code (%v): go test ./internal/testing/metricsdoc -update", page, err)
	}
}

// render is the page.
func render(all []Metric) string {
	byPart := map[string][]Metric{}
	for _, m := range all {
		part, _, _ := strings.Cut(m.Room, "/")
		if part == "internal" || part == "cmd" {
			part = "every service"
		}
		byPart[part] = append(byPart[part], m)
	}
	var b strings.Builder
	b.WriteString(head)
	for _, part := range slices.Sorted(maps.Keys(byPart)) {
		fmt.Fprintf(&b, "\n## %s\n\n| name | kind | labels | what |\n|---|---|---|---|\n", strings.ToUpper(part[:1])+part[1:])
		for _, m := range byPart[part] {
			labels := "none"
			if len(m.Labels) > 0 {
				labels = "`" + strings.Join(m.Labels, "`, `") + "`"
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", m.Name, m.Kind, labels, strings.ReplaceAll(m.Help, "|", `\|`))
		}
	}
	return b.String()
}

// TestNamesFollowTheRules are Prometheus' own: counters end in _total, and no other does; a
// label that could hold anything is not there.
func TestNamesFollowTheRules(t *testing.T) {
	t.Parallel()
	all, err := Read(filepath.Join("..", "..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range all {
		if strings.HasSuffix(m.Name, "_total") != (m.Kind == "counter") {
			t.Errorf("%s is a %s", m.Name, m.Kind)
		}
		if !strings.HasSuffix(m.Help, ".") {
			t.Errorf("%s: its help is no sentence: %q", m.Name, m.Help)
		}
		for _, label := range m.Labels {
			if slices.Contains([]string{"user", "userId", "user_id", "key", "org", "account", "path", "request_id"}, label) {
				t.Errorf("%s: label %s grows with the callers", m.Name, label)
			}
		}
	}
	if len(all) < 80 {
		t.Errorf("want the whole product's metrics, got %d", len(all))
	}
}

func TestReadTellsWhatItCannotRead(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ code, want string }{
		"a name from elsewhere": {`var x = prometheus.NewCounter(prometheus.CounterOpts{Name: prefix + "_total", Help: "H."})`, "not written out"},
		"labels from elsewhere": {`var x = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "a_total", Help: "H."}, labels)`, "not written out"},
		"twice": {`var x, y = prometheus.NewGauge(prometheus.GaugeOpts{Name: "a", Help: "H."}), prometheus.NewGauge(prometheus.GaugeOpts{Name: "a", Help: "H."})`,
			"is made in"},
		"pieces": {`func f() { g := func(n, label string) { prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: n, Help: "H" + "."}, []string{label}) }; g("b", "l") }`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "a.go"), []byte("package a\n"+tc.code), 0o600); err != nil {
				t.Fatal(err)
			}
			found, err := Read(dir)
			switch {
			case tc.want == "" && (err != nil || len(found) != 1 || found[0].Name != "b" || found[0].Help != "H." || found[0].Labels[0] != "l"):
				t.Errorf("want the gauge b, got %+v, %v", found, err)
			case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
				t.Errorf("want an error with %q, got %v", tc.want, err)
			}
		})
	}
}
