package dashboards

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/metricsdoc"
)

var update = flag.Bool("update", false, "rewrite the dashboards")

// TestFiles: the files are what the code makes.
func TestFiles(t *testing.T) {
	t.Parallel()
	found, err := filepath.Glob("*.json")
	if err != nil || !*update && len(found) != len(pages()) {
		t.Errorf("want a file for each of %d dashboards, got %v, %v", len(pages()), found, err)
	}
	files := map[string][]byte{"../../docs/dashboards.md": []byte(Markdown())}
	for name, p := range pages() {
		text, err := p.JSON()
		if err != nil {
			t.Fatal(err)
		}
		files[name+".json"] = text
	}
	for path, want := range files {
		if *update {
			if err := os.WriteFile(path, want, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not what the code makes (%v): go test ./deploy/dashboards -update", path, err)
		}
	}
}

// TestPanelsCanBeRead: a person finds out what a panel is for, in which unit, and no two dashboards
// or panels have one id.
func TestPanelsCanBeRead(t *testing.T) {
	t.Parallel()
	uids := map[string]bool{}
	for name, p := range pages() {
		if uids[p.uid] || p.about == "" || p.title == "" {
			t.Errorf("%s: want an id of its own, a title and what it is about, got %+v", name, p)
		}
		uids[p.uid] = true
		for _, r := range p.rows {
			if !strings.HasSuffix(r.question, "?") || len(r.panels) == 0 || len(r.panels) > 6 {
				t.Errorf("%s: want a question and one to six panels that answer it, got %q and %d", name, r.question, len(r.panels))
			}
			for _, one := range r.panels {
				if one.title == "" || one.unit == "" || len(one.queries) == 0 {
					t.Errorf("%s, %q: want a title, a unit and a query, got %+v", name, r.question, one)
				}
			}
		}
		text, err := p.JSON()
		if err != nil {
			t.Fatal(err)
		}
		var made struct{ Panels []struct{ ID int } }
		if err := json.Unmarshal(text, &made); err != nil {
			t.Fatal(err)
		}
		ids := map[int]bool{}
		for _, one := range made.Panels {
			if ids[one.ID] {
				t.Errorf("%s: two panels have the id %d", name, one.ID)
			}
			ids[one.ID] = true
		}
	}
}

// TestQueriesNameMetricsThatExist: what is asked for is what the code tells, or Envoy, Go or
// Prometheus itself.
func TestQueriesNameMetricsThatExist(t *testing.T) {
	t.Parallel()
	all, err := metricsdoc.Read("../..")
	if err != nil {
		t.Fatal(err)
	}
	var known []string
	for _, m := range all {
		known = append(known, m.Series()...)
	}
	names := regexp.MustCompile(`\b(leaky|gateway|token|auth|analytics|gen_ai|http_server)_[a-z0-9_]+`)
	quoted := regexp.MustCompile(`"[^"]*"|by \([^)]*\)`)
	for name, p := range pages() {
		for _, q := range p.queries() {
			if strings.Contains(q, `error_type!=""`) { // a call that went well has "none"
				t.Errorf("%s counts every call as failed: %s", name, q)
			}
			for _, metric := range names.FindAllString(quoted.ReplaceAllString(q, ""), -1) {
				if !slices.Contains(known, metric) && !strings.HasPrefix(metric, "gen_ai_provider_name") && !strings.HasPrefix(metric, "gen_ai_request_model") {
					t.Errorf("%s asks for %s, which nothing tells: %s", name, metric, q)
				}
			}
		}
	}
}
