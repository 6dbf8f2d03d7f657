package e2e

import (
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/client/api"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// registry is what xds shows of the processes that registered, by part.
func registry(t *testing.T) map[string]api.RegisteredService {
	t.Helper()
	cfg, err := running.Loaded()
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+cfg.Services.XDS.HTTP+"/v1/services", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var page api.RegisteredServices
	if err := json.NewDecoder(res.Body).Decode(&page); err != nil || page.Services == nil {
		t.Fatalf("want the services, got %v", err)
	}
	all := map[string]api.RegisteredService{}
	for _, s := range *page.Services {
		if s.Part != "" {
			all[s.Part] = s
		}
	}
	return all
}

// TestAFurtherProcessNeedsNoFile: it is started by its name under calls, decides some of them, and is
// stopped, and none of them fails.
func TestAFurtherProcessNeedsNoFile(t *testing.T) {
	who := newAccount(t)
	for _, part := range topology.Having(topology.Part.Listens) {
		testenv.Eventually(t, part.Name+" is registered", func() bool { return registry(t)[part.Name].Healthy })
	}
	stop := make(chan struct{})
	var made, failed atomic.Int64
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				a, err := tryRequest(t.Context(), "GET", "/api/v1/me", who.Key, nil)
				if made.Add(1); err != nil || a.status != http.StatusOK && a.status != http.StatusTooManyRequests {
					failed.Add(1)
					t.Logf("%v %d %s", err, a.status, a.text)
				}
			}
		})
	}
	const part = "ratelimit-4"
	leaky := func(args ...string) string {
		t.Helper()
		out, err := running.Leaky(t.Context(), args...)
		if err != nil {
			t.Fatalf("leaky %s: %v %s", strings.Join(args, " "), err, out)
		}
		return out
	}
	leaky("start", part)
	var parts []struct{ Name, Address string }
	if err := json.Unmarshal([]byte(leaky("ps", "-o", "json")), &parts); err != nil {
		t.Fatal(err)
	}
	address := ""
	for _, p := range parts {
		if p.Name == part {
			address = p.Address
		}
	}
	testenv.Eventually(t, "it is registered", func() bool { return registry(t)[part].Healthy })
	testenv.Eventually(t, "it decides", func() bool {
		sum := 0.0
		for _, m := range exposed(t, address)["leaky_ratelimit_decisions_total"].GetMetric() {
			sum += m.GetCounter().GetValue()
		}
		return sum > 0
	})
	leaky("stop", part)
	testenv.Eventually(t, "who was stopped is gone from the registry", func() bool {
		_, there := registry(t)[part]
		return !there
	})
	before := made.Load()
	testenv.Eventually(t, "calls go on", func() bool { return made.Load() > before+20 })
	close(stop)
	clients.Wait()
	if failed.Load() > 0 {
		t.Errorf("of %d calls: want none failed, got %d", made.Load(), failed.Load())
	}
	if out := leaky("ps"); strings.Contains(out, part) {
		t.Errorf("want it forgotten, got\n%s", out)
	}
	if out, err := running.Leaky(t.Context(), "start", "meter-2"); err == nil || !strings.Contains(out, "meter runs once") {
		t.Errorf("want one that runs once refused, got %v %s", err, out)
	}
}
