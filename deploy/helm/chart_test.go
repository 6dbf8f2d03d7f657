package helm

import (
	"bytes"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/leaky-tokens/leaky-tokens/deploy"
	"github.com/leaky-tokens/leaky-tokens/envoy"
	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/settings"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/toolcache"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// kubernetes is the oldest version that Chart.yaml admits, and validator has its schemas.
const (
	kubernetes = "1.33"
	validator  = "kubernetes-validate==1.37.0"
)

func TestKubernetesTakesEachExample(t *testing.T) {
	t.Parallel()
	packages := toolcache.Python(t, validator)
	for _, example := range examples() {
		t.Run(example, func(t *testing.T) {
			t.Parallel()
			var known bytes.Buffer
			for _, one := range render(t, example) {
				if one.Kind == "ServiceMonitor" || one.Kind == "PrometheusRule" {
					continue // of the Prometheus operator; TestWhatPrometheusIsTold reads them
				}
				known.WriteString("---\n")
				known.Write(one.text)
			}
			file := filepath.Join(t.TempDir(), "objects.yaml")
			if err := os.WriteFile(file, known.Bytes(), 0o600); err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), "python3", "-m", "kubernetes_validate", "--strict", "--kubernetes-version", kubernetes, file)
			cmd.Env = append(os.Environ(), "PYTHONPATH="+packages)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// TestEachPodIsBound: nobody is root, everything has bounds, and nothing is reached that need not be.
func TestEachPodIsBound(t *testing.T) {
	t.Parallel()
	for _, example := range examples() {
		t.Run(example, func(t *testing.T) {
			t.Parallel()
			all := render(t, example)
			for _, one := range all {
				one.bound(t, all)
			}
		})
	}
}

// bound holds what an object runs, if anything, against the rules; all are the objects beside it.
func (o object) bound(t *testing.T, all []object) {
	t.Helper()
	p, labels, ok := o.workload()
	if !ok {
		return
	}
	where := o.Kind + " " + o.Metadata.Name
	if c := p.SecurityContext; !c.RunAsNonRoot || c.RunAsUser == 0 || c.SeccompProfile.Type != "RuntimeDefault" {
		t.Errorf("%s: %+v", where, c)
	}
	if p.AutomountToken == nil || *p.AutomountToken {
		t.Errorf("%s gets a token of Kubernetes, and asks it nothing", where)
	}
	for _, c := range slices.Concat(p.InitContainers, p.Containers) {
		bound(t, where+", "+c.Name, c)
	}
	if !guarded(all, labels, "NetworkPolicy") {
		t.Errorf("%s has no NetworkPolicy", where)
	}
	if o.Kind == "Deployment" || o.Kind == "StatefulSet" {
		if !guarded(all, labels, "PodDisruptionBudget") {
			t.Errorf("%s has no PodDisruptionBudget", where)
		}
		probed(t, where, p)
	}
}

func bound(t *testing.T, where string, c container) {
	t.Helper()
	s := c.SecurityContext
	if s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation || !s.ReadOnlyRootFilesystem ||
		!slices.Equal(s.Capabilities.Drop, []string{"ALL"}) {
		t.Errorf("%s: %+v", where, s)
	}
	if c.Resources.Requests["cpu"] == nil || c.Resources.Requests["memory"] == nil || c.Resources.Limits["memory"] == nil {
		t.Errorf("%s: resources %+v", where, c.Resources)
	}
}

// probed wants probes of whatever goes on running.
func probed(t *testing.T, where string, p pod) {
	t.Helper()
	ready := false
	for _, c := range slices.Concat(p.InitContainers, p.Containers) {
		if c.Name == "bootstrap" {
			continue
		}
		if c.StartupProbe == nil || c.LivenessProbe == nil {
			t.Errorf("%s, %s has no startup or liveness probe", where, c.Name)
		}
		ready = ready || c.ReadinessProbe != nil
	}
	if !ready {
		t.Errorf("%s is ready before it is", where)
	}
}

// guarded reports whether an object of a kind selects a pod.
func guarded(all []object, labels map[string]string, kind string) bool {
	return slices.ContainsFunc(all, func(o object) bool {
		if o.Kind != kind {
			return false
		}
		if kind == "NetworkPolicy" {
			return selects(o.Spec.PodSelector.MatchLabels, labels) && len(o.Spec.PolicyTypes) == 2
		}
		return selects(matchLabels(o.Spec.Selector), labels) && o.Spec.MaxUnavailable != nil
	})
}

func matchLabels(selector any) map[string]string {
	labels := map[string]string{}
	top, _ := selector.(map[string]any)
	wanted, _ := top["matchLabels"].(map[string]any)
	for key, value := range wanted {
		labels[key], _ = value.(string)
	}
	return labels
}

// TestTheConfigurationIsRead: what the pods get as leaky.yaml is without a mistake.
func TestTheConfigurationIsRead(t *testing.T) {
	t.Parallel()
	for _, example := range examples() {
		t.Run(example, func(t *testing.T) {
			t.Parallel()
			all := render(t, example, "--set", "prices="+strings.ReplaceAll(string(deploy.DefaultPrices), ",", `\,`),
				"--set", "config.gateway.max_body_bytes=20971520")
			got := find(t, all, "ConfigMap", "leaky")
			if hook := find(t, all, "ConfigMap", "leaky-migrate"); !reflect.DeepEqual(hook.Data, got.Data) {
				t.Error("the migration is told another configuration than the gateway")
			}
			dir := t.TempDir()
			for name, text := range got.Data {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			none := func(string) string { return "" }
			cfg, err := config.Load(filepath.Join(dir, "leaky.yaml"), none)
			if err != nil {
				t.Fatal(err)
			}
			if cfg.Gateway.MaxBodyBytes != 20971520 {
				t.Errorf("max_body_bytes: %d", cfg.Gateway.MaxBodyBytes)
			}
			if _, err := settings.Load(filepath.Join(dir, "leaky.yaml"), none); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestEveryPartRunsBesideEnvoy in the order in which they need each other.
func TestEveryPartRunsBesideEnvoy(t *testing.T) {
	t.Parallel()
	all := render(t, "one-machine")
	p := find(t, all, "StatefulSet", "leaky").Spec.Template.Spec
	place := map[string]int{}
	for i, c := range p.InitContainers {
		if c.Name != "bootstrap" && (c.RestartPolicy != "Always" || !slices.Equal(c.Args, []string{"serve", c.Name})) {
			t.Errorf("%s: %s %q", c.Name, c.RestartPolicy, c.Args)
		}
		place[c.Name] = i
	}
	var ports []string
	for _, port := range find(t, all, "Service", "leaky-parts").Spec.Ports {
		ports = append(ports, port.Name)
	}
	for _, part := range topology.Of(topology.Service) {
		at, ok := place[part.Name]
		if !ok || !slices.Contains(ports, part.Name) {
			t.Errorf("%s is not there, or nobody can scrape it", part.Name)
		}
		for _, before := range part.After {
			if first, ok := place[before]; ok && first > at {
				t.Errorf("%s starts before %s, which it needs", part.Name, before)
			}
		}
	}
	want := append(envoy.Args(envoy.ArgsConfig{Bootstrap: "/var/lib/leaky-tokens/run/envoy.json"}), "--component-log-level", "misc:error")
	if got := p.Containers[0].Args; !slices.Equal(got, want) {
		t.Errorf("Envoy's arguments: want %q, got %q", want, got)
	}
	copied := p.InitContainers[0].Args[3]
	if hook := p.Containers[0].Lifecycle.PreStop.Exec.Command; len(hook) < 2 || hook[0] != copied || hook[1] != "drain" {
		t.Errorf("before Envoy ends: %q, with the program at %s", hook, copied)
	}
}

// TestWhatPrometheusIsTold: the alerts are those of deploy/alerts.yml, and every part is scraped.
func TestWhatPrometheusIsTold(t *testing.T) {
	t.Parallel()
	all := render(t, "high-availability")
	var want spec
	if err := yaml.Unmarshal(deploy.Alerts, &want); err != nil {
		t.Fatal(err)
	}
	if got := find(t, all, "PrometheusRule", "leaky").Spec.Groups; want.Groups == nil || !reflect.DeepEqual(got, want.Groups) {
		t.Error("the rules are not those of deploy/alerts.yml, which files/alerts.yml links to")
	}
	ports := find(t, all, "Service", "leaky-parts").Spec.Ports
	for _, one := range find(t, all, "ServiceMonitor", "leaky").Spec.Endpoints {
		if !slices.ContainsFunc(ports, func(p struct{ Name string }) bool { return p.Name == one.Port }) {
			t.Errorf("port %s is scraped, which the service does not have", one.Port)
		}
	}
	if got := len(find(t, all, "ServiceMonitor", "leaky").Spec.Endpoints); got != len(ports) {
		t.Errorf("%d ports, of which %d are scraped", len(ports), got)
	}
}

// TestGrafanaGetsTheDashboards as they are in deploy/dashboards, each in a ConfigMap that its sidecar finds.
func TestGrafanaGetsTheDashboards(t *testing.T) {
	t.Parallel()
	made, err := filepath.Glob("../dashboards/*.json")
	if err != nil || len(made) == 0 {
		t.Fatalf("no dashboards: %v", err)
	}
	all := render(t, "high-availability")
	for _, path := range made {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Base(path)
		got := find(t, all, "ConfigMap", "leaky-dashboard-"+strings.TrimSuffix(file, ".json"))
		if strings.TrimSpace(got.Data[file]) != strings.TrimSpace(string(text)) {
			t.Errorf("%s is another than that of deploy/dashboards, which files/dashboards links to", file)
		}
		if got.Metadata.Labels["grafana_dashboard"] != "1" || got.Metadata.Annotations["grafana_folder"] != "Leaky Tokens" {
			t.Errorf("%s: %+v", file, got.Metadata)
		}
	}
}

// TestTheSecretOpensTheStores: its keys are those that pods mount, its hosts the chart's.
func TestTheSecretOpensTheStores(t *testing.T) {
	t.Parallel()
	out, err := exec.CommandContext(t.Context(), "sh", "secret.sh", "leaky").Output()
	if err != nil {
		t.Fatal(err)
	}
	var secret struct {
		Kind       string
		StringData map[string]string `yaml:"stringData"`
	}
	if err := yaml.Unmarshal(out, &secret); err != nil || secret.Kind != "Secret" {
		t.Fatalf("%v in\n%s", err, out)
	}
	all := render(t, "one-machine")
	for _, store := range topology.Names(topology.Of(topology.Store)) {
		at, err := url.Parse(secret.StringData[store+"_url"])
		if err != nil {
			t.Fatal(err)
		}
		find(t, all, "Service", at.Hostname())
		if password, _ := at.User.Password(); password == "" || password != secret.StringData[store+"_password"] {
			t.Errorf("%s is told one password and asked for another", store)
		}
	}
	for _, key := range []string{"keys_secret", "admin_password"} {
		if len(secret.StringData[key]) < 24 {
			t.Errorf("%s is weak or not there", key)
		}
	}
}

// TestWrongValuesAreRefused before anything is installed.
func TestWrongValuesAreRefused(t *testing.T) {
	t.Parallel()
	for set, want := range map[string]string{
		"replica=3":                     "replica",
		"replicas=0":                    "/replicas",
		"existingSecret=":               "/existingSecret",
		"persistence.size=big":          "/persistence/size",
		"image.digest=latest":           "/image/digest",
		"topologySpread.enabled=maybe":  "/topologySpread/enabled",
		"service.type=Internal":         "/service/type",
		"resources.part.limits.cpus=1":  "cpus",
		"monitoring.serviceMonitor=yes": "/monitoring/serviceMonitor",
	} {
		t.Run(set, func(t *testing.T) {
			t.Parallel()
			_, err := helm(t, "template", "leaky", chart, "--set", set)
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("want an error with %q, got %v", want, err)
			}
		})
	}
}

// TestTheNotesSayHowToCall: what is printed after an installation, and what `helm test` runs.
func TestTheNotesSayHowToCall(t *testing.T) {
	t.Parallel()
	test := find(t, render(t, "one-machine"), "Pod", "leaky-first-call")
	if want := []string{"prove", "http://leaky:80", "--model=gpt-4o", "--provider=openai"}; !slices.Equal(test.Spec.Pod.Containers[0].Args, want) {
		t.Errorf("helm test runs %q", test.Spec.Pod.Containers[0].Args)
	}
	for _, example := range examples() {
		out, err := helm(t, "install", "leaky", chart, "--dry-run=client", "--namespace", "leaky", "--values",
			filepath.Join(chart, "examples", example+".yaml"))
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"NOTES:", "/v1/chat/completions", "port-forward service/leaky 8080:80"} {
			if !strings.Contains(string(out), want) {
				t.Errorf("%s: no %q", example, want)
			}
		}
	}
}
