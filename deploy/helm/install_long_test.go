//go:build long

package helm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
)

// paths are where the API server keeps the kinds that the chart has, below a group and before a namespace.
func paths() map[string]string {
	return map[string]string{
		"ConfigMap": "/api/v1/%sconfigmaps", "Service": "/api/v1/%sservices", "ServiceAccount": "/api/v1/%sserviceaccounts",
		"Deployment": "/apis/apps/v1/%sdeployments", "StatefulSet": "/apis/apps/v1/%sstatefulsets", "Job": "/apis/batch/v1/%sjobs",
		"Pod":                     "/api/v1/%spods",
		"PodDisruptionBudget":     "/apis/policy/v1/%spoddisruptionbudgets",
		"NetworkPolicy":           "/apis/networking.k8s.io/v1/%snetworkpolicies",
		"HorizontalPodAutoscaler": "/apis/autoscaling/v2/%shorizontalpodautoscalers",
		"ServiceMonitor":          "/apis/monitoring.coreos.com/v1/%sservicemonitors",
		"PrometheusRule":          "/apis/monitoring.coreos.com/v1/%sprometheusrules",
	}
}

// release is the chart in a namespace of its own, whose pods Kubernetes itself takes only when they are
// as its profile "restricted" has them: not root, no privileges, no escalation.
type release struct {
	*cluster
	namespace string
	example   string
}

// TestTheClusterTakesEachExample installs, upgrades, rolls back, tests and removes the chart with the values of
// each example in an API server that refuses fields which it does not know.
func TestTheClusterTakesEachExample(t *testing.T) {
	c := startCluster(t)
	for _, example := range examples() {
		t.Run(example, func(t *testing.T) {
			t.Parallel()
			r := &release{cluster: c, namespace: example, example: example}
			r.prepare(t)
			ended := r.finish(t)
			if _, err := r.helm(t, "install", "leaky", chart, "--set-json", `tolerations=[{"kye":"gpu"}]`); err == nil ||
				!strings.Contains(err.Error(), "spec.tolerations[0].kye: field not declared in schema") {
				t.Errorf("want a field that Kubernetes does not know refused, got %v", err)
			}
			if _, err := r.helm(t, "uninstall", "leaky"); err != nil {
				t.Fatal(err)
			}
			r.must(t, "install", "leaky", chart, "--set", "image.tag=v1,drainSeconds=61")
			r.check(t, "v1", 61)
			r.must(t, "upgrade", "leaky", chart, "--set", "image.tag=v2,drainSeconds=62,config.gateway.max_body_bytes=20971520")
			r.check(t, "v2", 62)
			r.must(t, "rollback", "leaky", "1")
			r.check(t, "v1", 61)
			r.must(t, "test", "leaky")
			var history []struct {
				Revision int
				Status   string
			}
			if err := json.Unmarshal(r.must(t, "history", "leaky", "-o", "json"), &history); err != nil {
				t.Fatal(err)
			}
			if last := history[len(history)-1]; last.Status != "deployed" || last.Revision < 3 {
				t.Errorf("want what was rolled back to deployed, got %+v", history)
			}
			r.must(t, "uninstall", "leaky")
			for _, left := range r.objects(t) {
				if left.Metadata.Labels["app.kubernetes.io/part-of"] != "" {
					t.Errorf("%s %s is left", left.Kind, left.Metadata.Name)
				}
			}
			t.Logf("what Kubernetes would have run to its end: %q", ended())
		})
	}
}

// prepare makes what stands before an installation: namespace and secret.
func (r *release) prepare(t *testing.T) {
	t.Helper()
	r.create(t, "/api/v1/namespaces", fmt.Sprintf(`{apiVersion: v1, kind: Namespace,
  metadata: {name: %s, labels: {pod-security.kubernetes.io/enforce: restricted, pod-security.kubernetes.io/enforce-version: latest}}}`, r.namespace))
	// A controller does this in a whole cluster.
	r.create(t, r.path("ServiceAccount"), "{apiVersion: v1, kind: ServiceAccount, metadata: {name: default}}")
	secret, err := exec.CommandContext(t.Context(), "sh", "secret.sh", "leaky").Output()
	if err != nil {
		t.Fatal(err)
	}
	r.create(t, "/api/v1/namespaces/"+r.namespace+"/secrets", string(secret))
}

func (r *release) path(kind string) string {
	return fmt.Sprintf(paths()[kind], "namespaces/"+r.namespace+"/")
}

// helm runs a command on the release; install and upgrade get the values of the example.
func (r *release) helm(t *testing.T, args ...string) ([]byte, error) {
	t.Helper()
	args = append(args, "--namespace", r.namespace)
	if slices.Contains(args, chart) {
		args = append(args, "--values", filepath.Join(chart, "examples", r.example+".yaml"))
	}
	return helmWith(t, r.kubeconfig, args...)
}

func (r *release) must(t *testing.T, args ...string) []byte {
	t.Helper()
	out, err := r.helm(t, args...)
	if err != nil {
		t.Fatalf("helm %s: %v", args[0], err)
	}
	return out
}

// raw is an object as the server has it.
type raw map[string]any

// list gives the objects of a kind.
func (r *release) list(ctx context.Context, kind string) ([]raw, error) {
	var page struct{ Items []raw }
	err := r.call(ctx, "GET", r.path(kind), "", nil, &page)
	for _, one := range page.Items {
		one["kind"] = kind // lists leave it out
	}
	return page.Items, err
}

// objects gives all that the namespace has.
func (r *release) objects(t *testing.T) (all []object) {
	t.Helper()
	for kind := range paths() {
		items, err := r.list(t.Context(), kind)
		if err != nil {
			t.Fatal(err)
		}
		for _, item := range items {
			all = append(all, item.object(t))
		}
	}
	return all
}

func (o raw) object(t *testing.T) (one object) {
	t.Helper()
	text, err := yaml.Marshal(o)
	if err == nil {
		err = yaml.Unmarshal(text, &one)
	}
	if err != nil {
		t.Fatal(err)
	}
	return one
}

// check holds what the server has against what was rendered and against the rules, and has it take each
// pod that a controller would make.
func (r *release) check(t *testing.T, tag string, drain int) {
	t.Helper()
	all := r.objects(t)
	for _, want := range objects(t, r.must(t, "get", "manifest", "leaky")) {
		find(t, all, want.Kind, want.Metadata.Name)
	}
	run := 0
	for _, kind := range []string{"Deployment", "StatefulSet"} {
		items, err := r.list(t.Context(), kind)
		if err != nil {
			t.Fatal(err)
		}
		for _, item := range items {
			one := item.object(t)
			one.bound(t, all)
			if err := r.take(t.Context(), item); err != nil {
				t.Errorf("%s %s: Kubernetes does not take its pod: %v", kind, one.Metadata.Name, err)
			}
			run++
			if one.Metadata.Name != "leaky" {
				continue
			}
			if p := one.Spec.Template.Spec; p.InitContainers[0].Image != "leaky-tokens:"+tag || p.Grace != drain+45 {
				t.Errorf("want %s with %d s to drain, got %s and %d s", tag, drain, p.InitContainers[0].Image, p.Grace)
			}
		}
	}
	if t.Logf("%s: %d objects, %d of them run pods", tag, len(all), run); run == 0 {
		t.Error("nothing runs")
	}
}

// take asks the server whether it would take the pod of a workload, its admission included.
func (r *release) take(ctx context.Context, workload raw) error {
	text, err := json.Marshal(workload)
	if err != nil {
		return err
	}
	var w struct {
		Spec struct {
			Template struct{ Metadata, Spec map[string]any }
			Claims   []struct{ Metadata struct{ Name string } } `json:"volumeClaimTemplates"`
		}
	}
	if err := json.Unmarshal(text, &w); err != nil {
		return err
	}
	volumes, _ := w.Spec.Template.Spec["volumes"].([]any)
	for _, claim := range w.Spec.Claims {
		volumes = append(volumes, map[string]any{"name": claim.Metadata.Name, "persistentVolumeClaim": map[string]any{"claimName": claim.Metadata.Name}})
	}
	w.Spec.Template.Spec["volumes"] = volumes
	w.Spec.Template.Metadata["generateName"] = "pod-"
	pod, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "Pod", "metadata": w.Spec.Template.Metadata, "spec": w.Spec.Template.Spec})
	if err != nil {
		return err
	}
	return r.call(ctx, "POST", r.path("Pod")+"?dryRun=All&fieldValidation=Strict", "application/json", pod, nil)
}

// finish ends jobs and pods well that helm waits for, as nodes would, after the server took their pods. The
// function that it gives stops that and names them.
func (r *release) finish(t *testing.T) (ended func() []string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var names []string
	var failed error
	var work sync.WaitGroup
	work.Go(func() {
		for tick := time.NewTicker(100 * time.Millisecond); ; {
			select {
			case <-ctx.Done():
				tick.Stop()
				return
			case <-tick.C:
				done, err := r.finishAll(ctx)
				names = append(names, done...)
				if err != nil && ctx.Err() == nil {
					failed = errors.Join(failed, err)
				}
			}
		}
	})
	stop := func() []string {
		cancel()
		work.Wait()
		return names
	}
	t.Cleanup(func() {
		if stop(); failed != nil {
			t.Error(failed)
		}
	})
	return stop
}

// finishAll ends what has not ended yet.
func (r *release) finishAll(ctx context.Context) (names []string, failed error) {
	now := time.Now().UTC().Format(time.RFC3339)
	condition := func(kind string) map[string]any {
		return map[string]any{"type": kind, "status": "True", "reason": "CompletionsReached", "lastProbeTime": now, "lastTransitionTime": now}
	}
	for kind, status := range map[string]map[string]any{
		"Job": {"startTime": now, "completionTime": now, "succeeded": 1, "conditions": []any{condition("SuccessCriteriaMet"), condition("Complete")}},
		"Pod": {"phase": "Succeeded"},
	} {
		items, err := r.list(ctx, kind)
		if err != nil {
			return names, err
		}
		for _, one := range items {
			meta, _ := one["metadata"].(map[string]any)
			had, _ := one["status"].(map[string]any)
			if had["completionTime"] != nil || had["phase"] == "Succeeded" || meta["deletionTimestamp"] != nil {
				continue
			}
			if kind == "Job" {
				failed = errors.Join(failed, r.take(ctx, one)) // helm waits for it all the same
			}
			name := fmt.Sprint(meta["name"])
			patch, err := json.Marshal(map[string]any{"status": status})
			if err != nil {
				return names, err
			}
			if err := r.call(ctx, "PATCH", r.path(kind)+"/"+name+"/status", "application/merge-patch+json", patch, nil); err != nil {
				return names, err
			}
			names = append(names, kind+" "+name)
		}
	}
	return names, failed
}
