package helm

import (
	"slices"
	"strings"
	"testing"
)

// TestWhoAsksKubernetes: xds, where the configuration has it look pods up, in their namespaces alone.
func TestWhoAsksKubernetes(t *testing.T) {
	t.Parallel()
	for _, one := range render(t, "managed-stores") {
		if one.Kind == "Role" || one.Kind == "RoleBinding" || strings.Contains(string(one.text), "serviceAccountToken") {
			t.Errorf("%s %s: nothing is looked up, and somebody may", one.Kind, one.Metadata.Name)
		}
	}
	all := render(t, "managed-stores", "--set-json",
		`config.discovery.kubernetes.providers={"openai":"models/vllm:http","gemini":"models/other:http","qwen":"more/vllm:8000"}`)
	var roles []string
	for _, one := range all {
		text := string(one.text)
		switch one.Kind {
		case "Role":
			roles = append(roles, one.Metadata.Namespace)
			if !strings.Contains(text, "endpointslices") || strings.Count(text, "verbs:") != 1 {
				t.Errorf("want EndpointSlices and nothing else:\n%s", text)
			}
		case "Deployment":
			if strings.Count(text, "mountPath: /var/run/secrets/kubernetes.io/serviceaccount") != 1 {
				t.Errorf("%s: want the token in one container", one.Metadata.Name)
			}
		case "NetworkPolicy":
			if asks := strings.Contains(text, "port: 6443"); asks != (one.Metadata.Name == "leaky") {
				t.Errorf("%s: may ask Kubernetes: %v", one.Metadata.Name, asks)
			}
		}
	}
	if !slices.Equal(roles, []string{"models", "more"}) {
		t.Errorf("roles in %q", roles)
	}
}
