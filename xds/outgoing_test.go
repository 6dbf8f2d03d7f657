package xds_test

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
)

// foreign are headers that clients, their proxies or attackers send, and that no provider may
// see: who calls, what makes a provider leave the usage out or do another thing, whose account
// pays, and whatever else nobody has allowed.
func foreign() []string {
	var all []string
	for _, name := range []string{"X-Goog-Fieldmask", "X-Goog-User-Project", "X-Goog-Api-Client", "X-HTTP-Method-Override", "X-Method-Override",
		"Api-Key", "Proxy-Authorization", "Forwarded", "X-Real-Ip", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Client-Ip", "True-Client-Ip",
		"Cf-Connecting-Ip", "Via", "Baggage", "Tracestate", "Openai-Beta", "Openai-Organization", "Idempotency-Key", "Cookie", "Referer",
		"Origin", "X-Dashscope-Workspace", "X-Something-New", "Accept-Encoding", "Accept-Language", "X-Original-Url", "Prefer", "If-None-Match"} {
		all = append(all, name, "foreign")
	}
	return all
}

// TestOnlyWhatIsAllowedReachesAProvider.
func TestOnlyWhatIsAllowedReachesAProvider(t *testing.T) {
	t.Parallel()
	g := start(t, func(c *config.Config) {
		p := c.Providers["qwen"]
		p.Headers, p.Query = []string{"openai-beta", "x-something-new"}, []string{"api-version"}
		c.Providers["qwen"] = p
	}, nil)
	const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	common := []string{"Accept", "Content-Length", "Content-Type", "Traceparent", "User-Agent", "X-Correlation-Id", "X-Raw", "X-Request-Id"}
	const query = "?fields=candidates&%24fields=x&alt=proto&access_token=t&callback=c&api_key=k&Key=k&api-version=3&alt=sse&api-version=4"
	for name, c := range map[string]struct {
		path, body, query string
		more              []string
	}{
		"chat":            {chatPath + query, body(""), "", nil},
		"embeddings":      {"/v1/embeddings" + query, `{"model":"text-embedding-3-small"}`, "", nil},
		"gemini":          {genPath + query, `{}`, "", nil},
		"gemini stream":   {streaming + strings.Replace(query, "alt=proto", "alt=sse", 1), `{}`, "?alt=sse", nil},
		"a provider asks": {chatPath + query, `{"model":"qwen-plus"}`, "?api-version=3", []string{"Openai-Beta", "X-Something-New"}},
	} {
		t.Run(name, func(t *testing.T) {
			a := g.do(t, "POST", c.path, c.body, append(foreign(), "Accept", "text/event-stream", "Traceparent", trace, "X-Raw", "made for tests",
				"Content-Type", "application/json; charset=UTF-8; x=y")...)
			if a.status != 200 {
				t.Fatalf("want 200, got %d %s", a.status, a.body)
			}
			got := g.back.last(t)
			want := slices.Sorted(slices.Values(append(c.more, common...)))
			if have := slices.Sorted(maps.Keys(got.header)); !slices.Equal(have, want) {
				t.Errorf("want the headers %v, got %v", want, have)
			}
			if got.header.Get("Content-Type") != "application/json" || got.header.Get("Traceparent") != trace {
				t.Errorf("want JSON and the trace, got %v", got.header)
			}
			if _, have, _ := strings.Cut(got.uri, "?"); have != strings.TrimPrefix(c.query, "?") {
				t.Errorf("want the query %q, got %s", c.query, got.uri)
			}
		})
	}
}

// TestAProvidersRedirectStaysHere: it would tell where the provider is, and SDKs follow it.
func TestAProvidersRedirectStaysHere(t *testing.T) {
	t.Parallel()
	g := start(t, nil, nil)
	for _, status := range []int{301, 302, 303, 307, 308} {
		g.back.set(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "https://internal.example/v1")
			w.WriteHeader(status)
		})
		for _, path := range []string{chatPath, genPath} {
			a := g.do(t, "POST", path, body(""))
			if a.status != 503 || a.header.Get("Location") != "" || strings.Contains(a.body, "internal") || !strings.Contains(a.body, "redirect") {
				t.Errorf("%s %d: want 503 without a location, got %+v", path, status, a)
			}
		}
	}
}
