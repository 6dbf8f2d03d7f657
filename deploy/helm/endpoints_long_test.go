//go:build long

package helm

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/discovery"
	"github.com/leaky-tokens/leaky-tokens/internal/discovery/endpointslices"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// TestTheClusterSaysWherePodsAre to xds as the chart installs it: by the token of its service account, by
// the Role that the chart makes of config.discovery.kubernetes, and by nothing else.
func TestTheClusterSaysWherePodsAre(t *testing.T) {
	c := startCluster(t)
	c.create(t, "/api/v1/namespaces", "{apiVersion: v1, kind: Namespace, metadata: {name: models}}")
	r := &release{cluster: c, namespace: "gateways", example: "managed-stores"}
	r.prepare(t)
	r.finish(t)
	r.must(t, "install", "leaky", chart, "--set-json", `config.discovery.kubernetes.providers={"openai":"models/vllm:http"}`)
	deployments, err := r.list(t.Context(), "Deployment")
	if err != nil || len(deployments) != 1 {
		t.Fatalf("want one Deployment, got %d, %v", len(deployments), err)
	}
	if err := r.take(t.Context(), deployments[0]); err != nil {
		t.Errorf("Kubernetes does not take a pod with a token for xds: %v", err)
	}

	registry := discovery.NewTracker(discovery.TrackerConfig{Site: "here", Log: slog.New(slog.DiscardHandler)})
	follower, err := endpointslices.New(endpointslices.Config{Kubeconfig: r.asXDS(t), Placed: registry.Place, Log: slog.New(slog.DiscardHandler),
		Services: map[string]config.KubernetesService{"provider-openai": {Namespace: "models", Name: "vllm", Port: "http"}}})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- follower.Run(t.Context()) }()
	t.Cleanup(func() {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	const path = "/apis/discovery.k8s.io/v1/namespaces/models/endpointslices"
	want := func(what string, addresses ...string) {
		t.Helper()
		testenv.Eventually(t, what, func() bool {
			var at []string
			for _, e := range registry.At("provider-openai") {
				at = append(at, e.Addr.String()+"@"+e.Zone)
			}
			return slices.Equal(at, addresses)
		})
	}
	c.create(t, path, slice("vllm-1", "vllm", `{addresses: [10.1.0.1], zone: eu-1, conditions: {ready: true}},
  {addresses: [10.1.0.2], conditions: {ready: false}}`))
	c.create(t, path, slice("other-1", "other", "{addresses: [10.1.9.9]}"))
	want("the pod that is ready", "10.1.0.1:8000@eu-1")
	c.create(t, path, slice("vllm-2", "vllm", "{addresses: [10.1.0.3], conditions: {ready: true}}"))
	want("that of another slice beside it", "10.1.0.1:8000@eu-1", "10.1.0.3:8000@")
	ending := `{"endpoints": [{"addresses": ["10.1.0.1"], "conditions": {"ready": false, "serving": true, "terminating": true}}]}`
	if err := c.call(t.Context(), "PATCH", path+"/vllm-1", "application/merge-patch+json", []byte(ending), nil); err != nil {
		t.Fatal(err)
	}
	want("the one that does not end", "10.1.0.3:8000@")
	if err := c.call(t.Context(), "DELETE", path+"/vllm-2", "", nil, nil); err != nil {
		t.Fatal(err)
	}
	want("nobody")
}

// slice is an EndpointSlice of a Service, as the controller of Kubernetes writes it.
func slice(name, service, endpoints string) string {
	return fmt.Sprintf(`{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, ports: [{name: http, port: 8000, protocol: TCP}],
  metadata: {name: %s, labels: {kubernetes.io/service-name: %s}}, endpoints: [%s]}`, name, service, endpoints)
}

// asXDS is a kubeconfig with what the chart lets its pods do, which is to read EndpointSlices in one
// namespace.
func (r *release) asXDS(t *testing.T) string {
	t.Helper()
	var made struct{ Status struct{ Token string } }
	if err := r.call(t.Context(), "POST", r.path("ServiceAccount")+"/leaky/token", "application/json",
		[]byte(`{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}`), &made); err != nil {
		t.Fatal(err)
	}
	pod := *r.cluster
	pod.token = made.Status.Token
	for path, allowed := range map[string]bool{
		"/apis/discovery.k8s.io/v1/namespaces/models/endpointslices":   true,
		"/apis/discovery.k8s.io/v1/namespaces/gateways/endpointslices": false,
		"/api/v1/namespaces/models/pods":                               false,
		"/api/v1/namespaces/gateways/secrets":                          false,
	} {
		err := pod.call(t.Context(), "GET", path, "", nil, nil)
		if (err == nil) != allowed || err != nil && !strings.Contains(err.Error(), "status 403") {
			t.Errorf("%s: want it allowed %v, got %v", path, allowed, err)
		}
	}
	text, err := os.ReadFile(r.kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "kubeconfig")
	old, err := json.Marshal(r.token)
	if err != nil {
		t.Fatal(err)
	}
	write(t, file, strings.ReplaceAll(string(text), string(old), `"`+pod.token+`"`))
	return file
}
