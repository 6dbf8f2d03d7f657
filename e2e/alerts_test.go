package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/deploy"
	"github.com/leaky-tokens/leaky-tokens/internal/local/binaries"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/ports"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// webhook is somebody who is woken.
type webhook struct {
	mu    sync.Mutex
	woken map[string]string // runbook by alert
}

func (h *webhook) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	var told struct {
		Alerts []struct {
			Status, Fingerprint string
			Labels, Annotations map[string]string
		}
	}
	if json.NewDecoder(r.Body).Decode(&told) != nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, a := range told.Alerts {
		if a.Status == "firing" {
			h.woken[a.Labels["alertname"]] = a.Annotations["runbook"]
		}
	}
}

func (h *webhook) runbook(alert string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.woken[alert]
}

// watched runs a Prometheus and an Alertmanager of the test's own with the shipped rules, but for
// their patience, over the running stack and one part that is not there. Their settings are those
// that leaky up wrote.
func watched(t *testing.T, hook string) {
	t.Helper()
	dir, at := t.TempDir(), addresses(t, 3)
	tools := testenv.Monitors(t)
	settings, err := os.ReadFile(filepath.Join(running.Dir, "prometheus", "prometheus.yml"))
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := running.Loaded()
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(string(settings), cfg.Monitoring.Alertmanager, at[1])
	text = strings.ReplaceAll(text, filepath.Join(running.Dir, "prometheus", "alerts.yml"), filepath.Join(dir, "alerts.yml"))
	text += fmt.Sprintf("- job_name: gone\n  static_configs: [{targets: [%q], labels: {application: gone, part: gone}}]\n", at[2])
	for name, content := range map[string]string{"prometheus.yml": text,
		"alerts.yml": regexp.MustCompile(`for: \w+`).ReplaceAllString(string(deploy.Alerts), "for: 0s"),
		"alertmanager.yml": fmt.Sprintf("route: {receiver: hook, group_by: [alertname], group_wait: 1s}\n"+
			"receivers: [{name: hook, webhook_configs: [{url: %q}]}]\n", hook)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	started(t, dir, tools["prometheus"], "--config.file=prometheus.yml", "--storage.tsdb.path=data", "--web.listen-address="+at[0],
		"--rules.alert.resend-delay=1s")
	path, args := binaries.AlertmanagerCommand(filepath.Dir(tools["prometheus-alertmanager"]), "--config.file="+filepath.Join(dir, "alertmanager.yml"),
		"--storage.path="+filepath.Join(dir, "am"), "--web.listen-address="+at[1], "--cluster.listen-address=")
	started(t, dir, path, args...)
}

func addresses(t *testing.T, n int) []string {
	t.Helper()
	at, err := ports.Free(n)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// started runs a program until the test ends, and shows what it said if the test failed.
func started(t *testing.T, dir, path string, args ...string) {
	t.Helper()
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	var said strings.Builder
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &said, &said
	if err := cmd.Start(); err != nil {
		stop()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop()
		_ = cmd.Wait() // killed
		if t.Failed() {
			t.Logf("%s said\n%s", filepath.Base(path), said.String())
		}
	})
}

func TestAlertsReachAWebhook(t *testing.T) {
	t.Parallel()
	hook := &webhook{woken: map[string]string{}}
	server := httptest.NewServer(hook)
	t.Cleanup(server.Close)
	watched(t, server.URL)
	testenv.Within(t, 2*time.Minute, "three alerts at the webhook", func() bool {
		for range 4 {
			mustFail(t, "POST", "/api/v1/auth/login", "", map[string]string{"username": "nobody-" + t.Name(), "password": "wrong"})
			mustFail(t, "GET", "/api/v1/tokens/quota", "", nil, "X-Api-Key", "not-a-key")
		}
		return hook.runbook("ServiceDown") != "" && hook.runbook("AuthLoginFailuresSpike") != "" && hook.runbook("ApiKeyValidationFailures") != ""
	})
	if got := hook.runbook("ServiceDown"); got != "docs/operations.md#servicedown" {
		t.Errorf("want the way to the runbook in the message, got %q", got)
	}
}

// mustFail sends a request that is refused.
func mustFail(t *testing.T, method, path, credential string, body any, header ...string) {
	t.Helper()
	if a := request(t, method, path, credential, body, header...); a.status < 400 || a.status >= 500 {
		t.Errorf("%s %s: want it refused, got %d", method, path, a.status)
	}
}

// TestAlertsAskForSeriesOfEnvoyThatThereAre: the names of our own are held against the code, and
// Envoy's only against what it exposes.
func TestAlertsAskForSeriesOfEnvoyThatThereAre(t *testing.T) {
	t.Parallel()
	selectors := regexp.MustCompile(`envoy_[a-z_]+(?:\{[^}]*\})?`).FindAllString(string(deploy.Alerts), -1)
	if len(selectors) == 0 {
		t.Fatal("no alert asks Envoy")
	}
	seen := map[string]bool{}
	for _, selector := range selectors {
		// One that counts failures may have none.
		selector = regexp.MustCompile(`,?envoy_response_code(_class)?=~?"[^"]*"`).ReplaceAllString(selector, "")
		if selector == "envoy_cluster_name" || selector == "envoy_http_conn_manager_prefix" || seen[selector] {
			continue
		}
		seen[selector] = true
		testenv.Eventually(t, "series of "+selector, func() bool { return len(queried(t, selector)) > 0 })
	}
}
