package helm

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/toolcache"
)

const (
	chart       = "leaky-tokens"
	helmVersion = "v4.3.1"
)

// examples are the values that the chart comes with.
func examples() []string { return []string{"one-machine", "high-availability", "managed-stores"} }

// object is one that Kubernetes would get.
type object struct {
	Kind     string
	Metadata struct {
		Name        string
		Namespace   string
		Labels      map[string]string
		Annotations map[string]string
	}
	Data map[string]string
	Spec spec
	text []byte
}

// spec has what the rules ask of any kind.
type spec struct {
	Template struct {
		Metadata struct{ Labels map[string]string }
		Spec     pod
	}
	Pod         pod `yaml:",inline"`
	Selector    any
	PodSelector struct {
		MatchLabels map[string]string `yaml:"matchLabels"`
	} `yaml:"podSelector"`
	PolicyTypes    []string `yaml:"policyTypes"`
	MaxUnavailable any      `yaml:"maxUnavailable"`
	Ports          []struct{ Name string }
	Endpoints      []struct{ Port string }
	Groups         any
}

type pod struct {
	AutomountToken  *bool `yaml:"automountServiceAccountToken"`
	SecurityContext struct {
		RunAsNonRoot   bool                  `yaml:"runAsNonRoot"`
		RunAsUser      int                   `yaml:"runAsUser"`
		SeccompProfile struct{ Type string } `yaml:"seccompProfile"`
	} `yaml:"securityContext"`
	InitContainers []container `yaml:"initContainers"`
	Containers     []container
	Grace          int `yaml:"terminationGracePeriodSeconds"`
}

type container struct {
	Name           string
	Image          string
	Args           []string
	RestartPolicy  string `yaml:"restartPolicy"`
	StartupProbe   any    `yaml:"startupProbe"`
	LivenessProbe  any    `yaml:"livenessProbe"`
	ReadinessProbe any    `yaml:"readinessProbe"`
	Lifecycle      struct {
		PreStop struct{ Exec struct{ Command []string } } `yaml:"preStop"`
	}
	Resources struct {
		Requests map[string]any
		Limits   map[string]any
	}
	SecurityContext struct {
		AllowPrivilegeEscalation *bool                   `yaml:"allowPrivilegeEscalation"`
		ReadOnlyRootFilesystem   bool                    `yaml:"readOnlyRootFilesystem"`
		Capabilities             struct{ Drop []string } `yaml:"capabilities"`
	} `yaml:"securityContext"`
}

// helm runs it without a cluster; the error has what it said.
func helm(t *testing.T, args ...string) ([]byte, error) {
	t.Helper()
	return helmWith(t, filepath.Join(t.TempDir(), "none"), args...)
}

// helmWith runs it with the cluster of a kubeconfig.
func helmWith(t *testing.T, kubeconfig string, args ...string) ([]byte, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), toolcache.Go(t, "helm.sh/helm/v4/cmd/helm", helmVersion), args...)
	home := t.TempDir() // not the settings of who runs the test
	cmd.Env = append(os.Environ(), "HELM_CONFIG_HOME="+home, "HELM_CACHE_HOME="+home, "HELM_DATA_HOME="+home, "KUBECONFIG="+kubeconfig)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return nil, errors.New(said.String() + out.String())
	}
	return out.Bytes(), nil
}

// render gives the objects of an example, with further arguments for helm.
func render(t *testing.T, example string, more ...string) []object {
	t.Helper()
	args := append([]string{"template", "leaky", chart, "--namespace", "leaky", "--values", filepath.Join(chart, "examples", example+".yaml")},
		more...)
	text, err := helm(t, args...)
	if err != nil {
		t.Fatal(err)
	}
	return objects(t, text)
}

// objects reads the documents of a YAML text.
func objects(t *testing.T, text []byte) []object {
	t.Helper()
	var all []object
	for decoder := yaml.NewDecoder(bytes.NewReader(text)); ; {
		var raw yaml.MapSlice
		if err := decoder.Decode(&raw); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		if len(raw) == 0 {
			continue
		}
		var one object
		var err error
		if one.text, err = yaml.Marshal(raw); err == nil {
			err = yaml.Unmarshal(one.text, &one)
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, one.text)
		}
		all = append(all, one)
	}
}

// workload is whatever has pods: its template, and its labels.
func (o object) workload() (pod, map[string]string, bool) {
	switch o.Kind {
	case "Deployment", "StatefulSet", "Job":
		return o.Spec.Template.Spec, o.Spec.Template.Metadata.Labels, true
	case "Pod":
		return o.Spec.Pod, o.Metadata.Labels, true
	}
	return pod{}, nil, false
}

// selects reports whether labels have all that a selector wants.
func selects(selector, labels map[string]string) bool {
	for key, value := range selector {
		if labels[key] != value {
			return false
		}
	}
	return len(selector) > 0
}

func find(t *testing.T, all []object, kind, name string) object {
	t.Helper()
	for _, one := range all {
		if one.Kind == kind && one.Metadata.Name == name {
			return one
		}
	}
	t.Fatalf("no %s %s", kind, name)
	return object{}
}
