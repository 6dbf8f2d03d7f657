package stack

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

func TestPrometheusScrapesEveryPart(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		text, scheme string
	}{
		"plain":  {`services: {ratelimit: {http: "127.0.0.1:8084", grpc: "unix:run/r.sock", replicas: [{http: "127.0.0.1:8184", grpc: "unix:run/r2.sock"}]}}`, ""},
		"mutual": {`tls: {mode: mutual}`, "https"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := plan(t, t.TempDir(), tc.text, nil)
			jobs, err := p.jobs()
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, j := range jobs {
				got = append(got, j.Name)
				if part, _ := topology.Find(j.Name); part.Callers != nil && j.Scheme != tc.scheme {
					t.Errorf("%s: want scheme %q, got %q", j.Name, tc.scheme, j.Scheme)
				}
				if want := map[string]int{"ratelimit": 2}[j.Name]; name == "plain" && want > 0 && len(j.Static) != want {
					t.Errorf("%s: want %d processes scraped, got %v", j.Name, want, j.Static)
				}
			}
			for _, part := range topology.Having(func(p topology.Part) bool { return p.Listens() || p.Kind == topology.Monitor }) {
				if !slices.Contains(got, part.Name) {
					t.Errorf("%s is scraped by no job", part.Name)
				}
			}
			if !slices.Contains(got, topology.Gateway) {
				t.Error("Envoy is scraped by no job")
			}
		})
	}
}

func TestMonitorsGetTheirSettings(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	p := plan(t, dir, `monitoring: {webhook: "http://127.0.0.1:1/hook?token=secret", every: 2s}`, nil)
	for _, name := range []string{topology.Prometheus, topology.Alertmanager} {
		part := fakeParts(t, p)[name]
		if err := part.Prepare(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]string{"prometheus/prometheus.yml": "127.0.0.1:9093", "prometheus/alerts.yml": "groups",
		"alertmanager/alertmanager.yml": "token=secret"} {
		text, err := os.ReadFile(filepath.Join(dir, path))
		if err != nil || !strings.Contains(string(text), want) {
			t.Errorf("%s: want %q in it, got %s, %v", path, want, text, err)
		}
		var any map[string]any
		if err := yaml.Unmarshal(text, &any); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		if info, err := os.Stat(filepath.Join(dir, path)); err == nil && info.Mode().Perm() != 0o600 {
			t.Errorf("%s: want it closed to others, got %v", path, info.Mode())
		}
	}
	tools := testenv.Monitors(t)
	for _, args := range [][]string{{"promtool", "check", "config", filepath.Join(dir, "prometheus", "prometheus.yml")},
		{"amtool", "check-config", filepath.Join(dir, "alertmanager", "alertmanager.yml")}} {
		if out, err := exec.CommandContext(t.Context(), tools[args[0]], args[1:]...).CombinedOutput(); err != nil {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
	}
}

func TestWithoutItsProgramAMonitorIsLeftOut(t *testing.T) {
	t.Parallel()
	p := plan(t, t.TempDir(), "", nil)
	if got := len(p.Pages()); got != 6 {
		t.Errorf("want six pages, got %v", p.Pages())
	}
	p.Without(topology.Prometheus, topology.Alertmanager)
	if got := fakeParts(t, p); got[topology.Prometheus].Name != "" || got[topology.Envoy].Name == "" {
		t.Errorf("want the others alone, got %v", got)
	}
	ports, err := p.Ports()
	if err != nil || slices.ContainsFunc(ports, func(p Port) bool { return p.Part == topology.Prometheus }) {
		t.Errorf("want no port of it, got %v, %v", ports, err)
	}
	if got := len(p.Pages()); got != 3 {
		t.Errorf("want three pages, got %v", p.Pages())
	}
}
