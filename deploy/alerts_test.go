package deploy_test

import (
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/leaky-tokens/leaky-tokens/deploy"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/metricsdoc"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// rules are the alerts as Prometheus reads them.
func rules(t *testing.T) []rule {
	t.Helper()
	var file struct {
		Groups []struct {
			Name  string
			Rules []rule
		}
	}
	if err := yaml.UnmarshalWithOptions(deploy.Alerts, &file, yaml.Strict()); err != nil {
		t.Fatal(err)
	}
	var all []rule
	for _, g := range file.Groups {
		all = append(all, g.Rules...)
	}
	return all
}

type rule struct {
	Alert       string
	Expr        string
	For         string
	Labels      map[string]string
	Annotations map[string]string
}

func TestEachAlertFiresAndStaysSilent(t *testing.T) {
	t.Parallel()
	promtool := testenv.Monitors(t)["promtool"]
	if out, err := exec.CommandContext(t.Context(), promtool, "test", "rules", "alerts_test.yml").CombinedOutput(); err != nil {
		t.Errorf("promtool test rules: %v\n%s", err, out)
	}
	tests, err := os.ReadFile("alerts_test.yml")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rules(t) {
		for _, name := range []string{r.Alert + " fires\n", r.Alert + " stays silent\n"} {
			if !strings.Contains(string(tests), "name: "+name) {
				t.Errorf("alerts_test.yml has no test %q", strings.TrimSpace(name))
			}
		}
	}
}

func TestEachAlertHasItsSectionAndAsksForMetricsThatThereAre(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	all, err := metricsdoc.Read("..")
	if err != nil {
		t.Fatal(err)
	}
	known := []string{"up"}
	for _, m := range all {
		known = append(known, m.Series()...)
	}
	ours := regexp.MustCompile(`\b(?:up|(?:auth|gateway|token|analytics|leaky|http_server|gen_ai)_[a-z0-9_]+)\b`)
	found := rules(t)
	if len(found) < 40 {
		t.Errorf("want all alerts, got %d", len(found))
	}
	for _, r := range found {
		if !strings.Contains(string(page), "\n### "+r.Alert+"\n") {
			t.Errorf("%s has no section in docs/operations.md", r.Alert)
		}
		if want := "docs/operations.md#" + strings.ToLower(r.Alert); r.Annotations["runbook"] != want {
			t.Errorf("%s: want the runbook %s, got %q", r.Alert, want, r.Annotations["runbook"])
		}
		if severity := r.Labels["severity"]; severity != "warning" && severity != "critical" {
			t.Errorf("%s: severity %q", r.Alert, severity)
		}
		quoted := regexp.MustCompile(`"[^"]*"`).ReplaceAllString(r.Expr, `""`)
		for _, name := range ours.FindAllString(quoted, -1) {
			if !slices.Contains(known, name) {
				t.Errorf("%s asks for %s, which nobody exposes", r.Alert, name)
			}
		}
	}
}
