package xds_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// nowhere is an address that refuses connections.
const nowhere = "http://127.0.0.1:9"

// other is a provider that answers as it is told, and counts.
type other struct {
	backend

	url   string
	calls atomic.Int64
}

func newOther(t *testing.T, answer http.HandlerFunc) *other {
	t.Helper()
	o := &other{}
	o.set(answer)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		o.calls.Add(1)
		o.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	o.url = s.URL
	return o
}

func answering(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

// provide puts a provider of protocol openai into a configuration.
func provide(c *config.Config, name, url string, edit func(*config.Provider)) {
	p := c.Providers["openai"]
	p.URL = url
	p.Outlier = config.Outlier{Off: true, Failures: 20, Ejection: time.Second, Cooldown: time.Second}
	if edit != nil {
		edit(&p)
	}
	c.Providers[name] = p
}

// asModel answers a hold as ratelimit does: the model's name goes into the body.
func asModel(names map[string]string, more map[string]any) func(*rlsv3.RateLimitRequest) (*rlsv3.RateLimitResponse, error) {
	return func(r *rlsv3.RateLimitRequest) (*rlsv3.RateLimitResponse, error) {
		all := map[string]any{}
		for k, v := range more {
			all[k] = v
		}
		for _, e := range r.GetDescriptors()[0].GetEntries() {
			if name, ok := names[e.GetValue()]; ok && e.GetKey() == attributes.Model {
				all[attributes.SetModel] = `"` + name + `"`
			}
		}
		return admit(all)(r)
	}
}

// TestNamesThatStandForMany: wildcards, and PROVIDER/NAME of a provider that takes unlisted models.
func TestNamesThatStandForMany(t *testing.T) {
	t.Parallel()
	g := start(t, func(c *config.Config) {
		provide(c, "openai", c.Providers["openai"].URL, nil)
		provide(c, "broker", c.Providers["openai"].URL+"/broker/v1", func(p *config.Provider) { p.Unlisted = true })
		c.Models = []config.Model{{Name: "gpt-4o*", Provider: "openai", Kind: config.KindChat}, {Name: "gpt-4o-mini", Provider: "openai"},
			{Name: "gpt-4o-2024*", Provider: "openai"}, {Name: "gemini-2*", Provider: "gemini"}}
	}, nil)
	for name, c := range map[string]struct {
		path, asked string
		status      int
		uri, model  string // at the provider; of the limits
	}{
		"listed":             {chatPath, "gpt-4o-mini", 200, "/v1/chat/completions", "gpt-4o-mini"},
		"wildcard":           {chatPath, "gpt-4o-audio", 200, "/v1/chat/completions", "gpt-4o*"},
		"with its provider":  {chatPath, "openai/gpt-4o-audio", 200, "/v1/chat/completions", "gpt-4o*"},
		"the longer":         {chatPath, "gpt-4o-2024-08-06", 200, "/v1/chat/completions", "gpt-4o-2024*"},
		"no more than that":  {chatPath, "gpt-4o", 404, "", ""},
		"other":              {chatPath, "gpt-4", 404, "", ""},
		"unlisted":           {chatPath, "broker/meta-llama/Llama-3.3:free", 200, "/broker/v1/chat/completions", "broker/*"},
		"unlisted embedding": {"/v1/embeddings", "broker/some-embedding", 200, "/broker/v1/embeddings", "broker/*"},
		"no switch":          {chatPath, "openai/other", 404, "", ""},
		"gemini":             {"/v1beta/models/gemini-2.5-flash-lite:generateContent", "", 200, "/v1beta/models/gemini-2.5-flash-lite:generateContent", "gemini-2*"},
		"gemini, other":      {"/v1beta/models/gemini-1.5-flash:generateContent", "", 404, "", ""},
		"gemini, path":       {"/v1beta/models/gemini-2%2Fx:generateContent", "", 404, "", ""},
	} {
		text := fmt.Sprintf(`{"model":%q,"messages":[]}`, c.asked)
		if c.asked == "" {
			text = `{}`
		}
		a := g.do(t, "POST", c.path, text)
		if a.status != c.status {
			t.Errorf("%s: want %d, got %d %s", name, c.status, a.status, a.body)
			continue
		}
		if c.status != 200 {
			continue
		}
		if got := g.back.last(t); got.uri != c.uri {
			t.Errorf("%s: want %s at the provider, got %s", name, c.uri, got.uri)
		}
		if _, l := g.rawLine(t, a.header.Get("x-request-id")); l.Model != c.model {
			t.Errorf("%s: want the model %s in the spool, got %s", name, c.model, l.Model)
		}
	}
}

// TestFallbackAnswers: whatever the first provider does before its answer begins.
func TestFallbackAnswers(t *testing.T) {
	t.Parallel()
	large := fmt.Sprintf(`{"model":"first","messages":[{"role":"user","content":"%s"}]}`, strings.Repeat("x", 2<<20))
	for name, c := range map[string]struct {
		url    string
		answer http.HandlerFunc
		body   string
	}{
		"refuses connections": {url: nowhere},
		"out of quota":        {answer: answering(429)},
		"down":                {answer: answering(503)},
		"refuses our key":     {answer: answering(401)},
		"out of money":        {answer: answering(402)},
		"large body":          {answer: answering(500), body: large},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			first := newOther(t, c.answer)
			second := newOther(t, nil)
			url := c.url
			if url == "" {
				url = first.url
			}
			g := start(t, func(cfg *config.Config) {
				cfg.Gateway.Fallback = "unix:run/f.sock"
				provide(cfg, "one", url, nil)
				provide(cfg, "two", second.url+"/other/v1", nil)
				cfg.Models = []config.Model{{Name: "first", Provider: "one", Fallback: []string{"second"}}, {Name: "second", Provider: "two"}}
			}, nil)
			g.limit.set(asModel(map[string]string{"first": "first-upstream", "second": "second-upstream"},
				map[string]any{attributes.MaxTokens: 77, attributes.MaxTokensName: "max_tokens"}))
			text := c.body
			if text == "" {
				text = `{"model":"first","messages":[]}`
			}
			a := g.do(t, "POST", chatPath, text)
			if a.status != 200 || a.header.Get(attributes.HeaderServed) != "two/second" {
				t.Fatalf("want the fallback's answer, got %d %v %s", a.status, a.header, a.body)
			}
			got := second.last(t)
			if !strings.Contains(got.body, `"model":"second-upstream"`) || strings.Count(got.body, "max_tokens") != 1 {
				t.Errorf("want the fallback's own name and one maximum, got %.300s", got.body)
			}
			if got.uri != "/other/v1/chat/completions" {
				t.Errorf("want the fallback's own path, got %s", got.uri)
			}
			for header := range got.header {
				if strings.HasPrefix(header, "X-Leaky-") {
					t.Errorf("the provider saw %s: %v", header, got.header[header])
				}
			}
			asked := g.limit.last()
			for _, want := range []string{"provider=two", "model=second", "max_tokens=-", "moves=true", "user=u-1", "team=red", "tier=USER",
				"hold=" + a.header.Get("x-request-id")} {
				if !strings.Contains(asked[0], want) {
					t.Errorf("want %s asked of ratelimit, got %s", want, asked[0])
				}
			}
			raw, l := g.rawLine(t, a.header.Get("x-request-id"))
			if provider, model := l.Served(); provider != "two" || model != "second" || l.Model != "first" || l.Attempts != 2 {
				t.Errorf("want a line of first, served by two/second in 2 attempts: %s", raw)
			}
			if c.url == "" && first.calls.Load() != 1 {
				t.Errorf("the first provider was asked %d times", first.calls.Load())
			}
		})
	}
}

// TestFallbacksAreTriedInOrder, until one answers; the last one's refusal is the caller's.
func TestFallbacksAreTriedInOrder(t *testing.T) {
	t.Parallel()
	second, third := newOther(t, answering(500)), newOther(t, nil)
	g := start(t, func(cfg *config.Config) {
		cfg.Gateway.Fallback = "unix:run/f.sock"
		provide(cfg, "one", nowhere, nil)
		provide(cfg, "two", second.url, nil)
		provide(cfg, "three", third.url, nil)
		cfg.Models = []config.Model{{Name: "first", Provider: "one", Fallback: []string{"second", "third"}}, {Name: "second", Provider: "two"},
			{Name: "third", Provider: "three"}}
	}, nil)
	a := g.do(t, "POST", chatPath, `{"model":"first","messages":[],"stream":true}`)
	if a.status != 200 || a.header.Get(attributes.HeaderServed) != "three/third" || second.calls.Load() != 1 {
		t.Fatalf("want the third one's answer after the second failed, got %d %v %s", a.status, a.header, a.body)
	}
	// The limits of the last one bind.
	g.limit.set(func(r *rlsv3.RateLimitRequest) (*rlsv3.RateLimitResponse, error) {
		for _, e := range r.GetDescriptors()[0].GetEntries() {
			if e.GetValue() == "third" {
				return &rlsv3.RateLimitResponse{OverallCode: rlsv3.RateLimitResponse_OVER_LIMIT, RawBody: []byte(`{"error":{"message":"third is full"}}`)}, nil
			}
		}
		return admit(nil)(r)
	})
	if a := g.do(t, "POST", chatPath, `{"model":"first","messages":[]}`); a.status != 429 || !strings.Contains(a.body, "third is full") {
		t.Errorf("want the last one's refusal, got %d %s", a.status, a.body)
	}
	// Who asks for the fallback itself gets it, and a client cannot ask for one by the header.
	a = g.do(t, "POST", chatPath, `{"model":"second","messages":[]}`, attributes.HeaderFallback, "openai-chat:three/third")
	if a.status != 500 || a.header.Get(attributes.HeaderServed) != "" {
		t.Errorf("want the second one's own answer, got %d %v", a.status, a.header)
	}
}

// TestFallbackOfAnEjectedProvider: it is not asked any more, and calls are answered.
func TestFallbackOfAnEjectedProvider(t *testing.T) {
	t.Parallel()
	first, second := newOther(t, answering(503)), newOther(t, nil)
	g := start(t, func(cfg *config.Config) {
		cfg.Gateway.Fallback = "unix:run/f.sock"
		provide(cfg, "one", first.url, func(p *config.Provider) { p.Outlier = config.Outlier{Failures: 3, Ejection: time.Minute} })
		provide(cfg, "two", second.url, nil)
		cfg.Models = []config.Model{{Name: "first", Provider: "one", Fallback: []string{"second"}}, {Name: "second", Provider: "two"},
			{Name: "alone", Provider: "one"}}
	}, nil)
	for i := range 12 {
		if a := g.do(t, "POST", chatPath, `{"model":"first","messages":[]}`); a.status != 200 {
			t.Fatalf("call %d: want the fallback's answer, got %d %s", i, a.status, a.body)
		}
	}
	if n := first.calls.Load(); n != 3 {
		t.Errorf("want a provider left alone after 3 failures, got %d calls", n)
	}
	a := g.do(t, "POST", chatPath, `{"model":"alone","messages":[]}`)
	if a.status != 503 || first.calls.Load() != 3 || a.header.Get("retry-after") == "" {
		t.Errorf("want 503 at once where there is no fallback, got %d %v after %d calls", a.status, a.header, first.calls.Load())
	}
}

// TestProviderWithoutKeyHasAFallback: nobody can be asked, so the fallback is at once.
func TestProviderWithoutKeyHasAFallback(t *testing.T) {
	t.Parallel()
	second := newOther(t, nil)
	g := start(t, func(cfg *config.Config) {
		cfg.Gateway.Fallback = "unix:run/f.sock"
		provide(cfg, "one", nowhere, func(p *config.Provider) { p.APIKeyEnv = "NOT_THERE" })
		provide(cfg, "two", second.url, nil)
		cfg.Models = []config.Model{{Name: "first", Provider: "one", Fallback: []string{"second"}}, {Name: "second", Provider: "two"}}
	}, nil)
	if a := g.do(t, "POST", chatPath, `{"model":"first","messages":[]}`); a.status != 200 || a.header.Get(attributes.HeaderServed) != "two/second" {
		t.Errorf("want the fallback's answer, got %d %s", a.status, a.body)
	}
}

// TestSeveralKeys: one that is out of quota rests, another is used for the same call.
func TestSeveralKeys(t *testing.T) {
	t.Parallel()
	var limited atomic.Int64
	o := newOther(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "Bearer key-one" {
			limited.Add(1)
			w.WriteHeader(429)
		}
	})
	g := start(t, func(cfg *config.Config) {
		cfg.Gateway.Fallback = "unix:run/f.sock"
		provide(cfg, "one", o.url, func(p *config.Provider) {
			p.Keys = []config.ProviderKey{{APIKeyEnv: "ONE", Weight: 1000}, {APIKeyEnv: "TWO", Weight: 1}, {APIKeyEnv: "NOT_THERE", Weight: 1}}
			p.Outlier = config.Outlier{Failures: 20, Ejection: time.Second, Cooldown: time.Minute}
		})
		cfg.Models = []config.Model{{Name: "first", Provider: "one"}}
	}, map[string]string{"ONE": "key-one", "TWO": "key-two"})
	for i := range 20 {
		if a := g.do(t, "POST", chatPath, `{"model":"first","messages":[]}`); a.status != 200 {
			t.Fatalf("call %d: want the other key's answer, got %d %s", i, a.status, a.body)
		}
	}
	if n := limited.Load(); n == 0 || n > 3 { // each worker draws by itself; the cluster is left alone at once
		t.Errorf("want a key without quota left alone, got %d calls with it", n)
	}
	if problem := g.xds.Problem(); problem == nil || !strings.Contains(problem.Error(), "keys[2] is not used: the environment variable NOT_THERE is not set") {
		t.Errorf("want the missing key told, got %v", problem)
	}
}

// TestRetriesBeforeTheFirstByte are made where the configuration asks for them, and counted.
func TestRetriesBeforeTheFirstByte(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		retries, failures int
		code, status      int
		attempts          int64
	}{
		"none":               {0, 1, 503, 503, 1},
		"one":                {1, 1, 503, 200, 2},
		"two":                {2, 2, 500, 200, 3},
		"one is not enough":  {1, 2, 502, 502, 2},
		"out of quota":       {1, 1, 429, 200, 2},
		"a mistake of ours":  {3, 1, 400, 400, 1},
		"our key is refused": {3, 1, 401, 503, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var left atomic.Int64
			left.Store(int64(c.failures))
			o := newOther(t, func(w http.ResponseWriter, _ *http.Request) {
				if left.Add(-1) >= 0 {
					w.WriteHeader(c.code)
					fmt.Fprint(w, "{}")
				}
			})
			g := start(t, func(cfg *config.Config) {
				provide(cfg, "one", o.url, func(p *config.Provider) { p.Retries = c.retries })
				cfg.Models = []config.Model{{Name: "first", Provider: "one"}}
			}, nil)
			a := g.do(t, "POST", chatPath, `{"model":"first","messages":[]}`)
			if a.status != c.status || o.calls.Load() != c.attempts {
				t.Errorf("want %d after %d attempts, got %d after %d: %s", c.status, c.attempts, a.status, o.calls.Load(), a.body)
			}
			if _, l := g.rawLine(t, a.header.Get("x-request-id")); l.Attempts != c.attempts {
				t.Errorf("want %d attempts in the spool, got %d", c.attempts, l.Attempts)
			}
		})
	}
}

// TestOneHostIsLeftAlone after so many failures, for as long as is said.
func TestOneHostIsLeftAlone(t *testing.T) {
	t.Parallel()
	var well atomic.Bool
	failing := func(ejection time.Duration) (*gateway, *other) {
		o := newOther(t, func(w http.ResponseWriter, _ *http.Request) {
			if !well.Load() {
				w.WriteHeader(503)
			}
		})
		g := start(t, func(cfg *config.Config) {
			provide(cfg, "one", o.url, func(p *config.Provider) { p.Outlier = config.Outlier{Failures: 4, Ejection: ejection} })
			cfg.Models = []config.Model{{Name: "first", Provider: "one"}}
		}, nil)
		fails := func() {
			if a := g.do(t, "POST", chatPath, `{"model":"first","messages":[]}`); a.status != 503 {
				t.Fatalf("want 503, got %d %s", a.status, a.body)
			}
		}
		for range 4 {
			fails()
		}
		if n := o.calls.Load(); n != 4 {
			t.Errorf("want 4 calls, got %d", n)
		}
		// Envoy's main thread leaves it alone; until then another call or two may pass on a busy machine.
		testenv.Eventually(t, "the provider left alone", func() bool {
			before := o.calls.Load()
			fails()
			return o.calls.Load() == before
		})
		return g, o
	}
	long, o := failing(time.Hour)
	before := o.calls.Load()
	for range 8 {
		long.do(t, "POST", chatPath, `{"model":"first","messages":[]}`)
	}
	if n := o.calls.Load(); n != before {
		t.Errorf("want no more calls, got %d", n-before)
	}
	short, _ := failing(time.Second)
	well.Store(true)
	testenv.Eventually(t, "the provider asked again", func() bool {
		return short.do(t, "POST", chatPath, `{"model":"first","messages":[]}`).status == 200
	})
}

// TestPathsThatAreNearlyRight say which one was meant, in the shape that the client reads.
func TestPathsThatAreNearlyRight(t *testing.T) {
	t.Parallel()
	g := start(t, nil, nil)
	for path, want := range map[string]string{
		"/v1/chat/completions/": "call POST /v1/chat/completions, without a slash", "/chat/completions": "/v1/chat/completions?",
		"/v1/v1/chat/completions": "/v1/chat/completions?", "/v1/embeddings/": "POST /v1/embeddings is served", "/embeddings": "/v1/embeddings?",
		"/compatible-mode/chat/completions":       "/compatible-mode/v1/chat/completions?",
		"/openai/deployments/x/chat/completions":  "/v1/chat/completions?",
		"/v1/nothing":                             "no such path",
		"/v1beta/v1beta/models/x:generateContent": "/v1beta/models/MODEL:generateContent?",
		"/models/x:generateContent":               "/v1beta/models/MODEL:generateContent?",
		"/v1alpha/models/x:generateContent":       "no such path",
	} {
		a := g.do(t, "POST", path, body(""))
		shape := `"type":"invalid_request_error"`
		if strings.Contains(path, "beta") || strings.Contains(path, "alpha") || strings.HasPrefix(path, "/models") {
			shape = `"status":"NOT_FOUND"`
		}
		if a.status != 404 || !strings.Contains(a.body, want) || !strings.Contains(a.body, shape) {
			t.Errorf("%s: want 404 with %q and %s, got %d %s", path, want, shape, a.status, a.body)
		}
	}
}
