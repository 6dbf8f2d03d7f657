package xds_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/discovery"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// TestPodsOfAProviderAreCalled where another than its URL says where they are: each that is ready, none
// that ends, and the URL's address when there is none of them. No call fails meanwhile.
func TestPodsOfAProviderAreCalled(t *testing.T) {
	t.Parallel()
	g := startWith(t, func(g *gateway, c *config.Config) {
		g.processes = discovery.NewTracker(discovery.TrackerConfig{Site: "here", Log: slog.New(slog.DiscardHandler)})
	}, nil)
	pod := func(name string) string {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, `{"pod": %q, "usage": {"total_tokens": 1}}`, name)
		}))
		t.Cleanup(server.Close)
		return strings.TrimPrefix(server.URL, "http://")
	}
	one, two := pod("one"), pod("two")
	says := func(state ...discovery.State) {
		var all []discovery.Instance
		for i, s := range state {
			all = append(all, discovery.Instance{Address: []string{one, two}[i], Part: "pod", Zone: "eu-1", Weight: 1, State: s})
		}
		g.processes.Place(discovery.OfProvider("openai"), all)
	}
	answers := func(want string) func() bool {
		return func() bool {
			seen := map[string]bool{}
			for range 12 {
				a := g.do(t, "POST", chatPath, body(""))
				if a.status != 200 {
					t.Fatalf("want 200, got %d %s", a.status, a.body)
				}
				for _, name := range []string{"one", "two"} {
					if strings.Contains(a.body, `"`+name+`"`) {
						seen[name] = true
					}
				}
			}
			return fmt.Sprint(seen["one"], seen["two"]) == want
		}
	}
	testenv.Eventually(t, "the URL is called", answers("false false"))
	says(discovery.Serving, discovery.Serving)
	testenv.Eventually(t, "both are called", answers("true true"))
	clusters := g.envoyClusters(t)
	says(discovery.Leaving, discovery.Serving)
	testenv.Eventually(t, "the other is called", answers("false true"))
	says(discovery.Serving, discovery.Unready)
	testenv.Eventually(t, "the first is called", answers("true false"))
	if got := g.envoyClusters(t); got != clusters {
		t.Errorf("want the cluster to stay while its endpoints change: %s, then %s", clusters, got)
	}
	says()
	testenv.Eventually(t, "the URL is called again", answers("false false"))
}

// envoyClusters are the names of Envoy's clusters of the provider.
func (g *gateway) envoyClusters(t *testing.T) string {
	t.Helper()
	var page struct {
		Services []struct{ Name, Address, Zone string }
	}
	g.page(t, "/v1/services", &page)
	if len(page.Services) == 0 {
		t.Fatal("no services are shown")
	}
	text, err := g.envoy.Get("/clusters")
	if err != nil {
		t.Fatal(err)
	}
	seen := ""
	for line := range strings.Lines(text) {
		name, _, _ := strings.Cut(line, "::")
		if strings.HasPrefix(name, "provider-openai-") && strings.Contains(line, "::zone::eu-1") && !strings.Contains(seen, name) {
			seen += name + " "
		}
	}
	return seen
}
