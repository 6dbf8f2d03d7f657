package xds_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/egress"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// bounds are changed limits of all providers' egress calls.
func bounds(change func(*config.ProviderEgress)) func(*config.Config) {
	return func(c *config.Config) {
		for name, p := range c.Providers {
			p.Egress.Backoff = time.Millisecond
			change(&p.Egress)
			c.Providers[name] = p
		}
	}
}

// ask calls a provider as tokensvc does.
func (g *gateway) ask(t *testing.T, provider string, headers ...string) answer {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn,
		error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", filepath.Join(g.dir, "run", "egress.sock"))
	}}}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://egress"+egress.Path(provider),
		strings.NewReader(`{"prompt":"hello"}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatalf("ask %s: %v", provider, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("ask %s: read: %v", provider, err)
	}
	return answer{resp.StatusCode, resp.Header, string(text)}
}

func reason(a answer) egress.Reason { return egress.Reason(a.header.Get(egress.Header)) }

func TestEgressReachesTheProviderWithItsKey(t *testing.T) {
	t.Parallel()
	g := start(t, func(c *config.Config) {
		p := c.Providers["openai"]
		p.APIKeyEnv, p.ConsumePath = "K", "/v9/consume"
		c.Providers["openai"] = p
	}, map[string]string{"K": "sk-provider"})
	g.back.set(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set(egress.Header, string(egress.BreakerOpen)) // nobody but Envoy may say so
		io.WriteString(w, `{"id":1}`)
	})
	a := g.ask(t, "openai", "X-Correlation-Id", "order:1", "X-User-Id", "u", "X-Leaky-Identity", "signed", "Authorization", "Bearer callers")
	if a.status != 200 || a.body != `{"id":1}` || reason(a) != "" {
		t.Errorf("want the provider's answer, got %+v", a)
	}
	got := g.back.last(t)
	if got.method != "POST" || got.uri != "/v9/consume" || got.body != `{"prompt":"hello"}` ||
		got.header.Get("Authorization") != "Bearer sk-provider" || got.header.Get("X-Correlation-Id") != "order:1" {
		t.Errorf("want the call with the provider's key, got %+v", got)
	}
	if got.header.Get("X-User-Id")+got.header.Get("X-Leaky-Identity") != "" {
		t.Errorf("who calls reached the provider: %v", got.header)
	}
	if a := g.ask(t, "gemini"); a.status != 200 || g.back.last(t).uri != "/api/v1/gemini/chat" ||
		g.back.last(t).header.Get("Authorization") != "" {
		t.Errorf("want gemini's own path and no key, got %+v %+v", a, g.back.last(t))
	}
	if a := g.ask(t, "nobody"); a.status != 404 || reason(a) != egress.Unknown {
		t.Errorf("want an unknown provider, got %+v", a)
	}
	info, err := os.Stat(filepath.Join(g.dir, "run", "egress.sock"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("want a socket of its owner alone, got %v %v", info.Mode(), err)
	}
	if a := g.do(t, "POST", egress.Path("openai"), "{}"); a.status != 404 {
		t.Errorf("want nothing of it at the gateway, got %+v", a)
	}
}

func TestEgressRepeatsWhatMayPass(t *testing.T) {
	t.Parallel()
	g := start(t, bounds(func(e *config.ProviderEgress) { e.Timeout = 10 * time.Second }), nil)
	for name, c := range map[string]struct {
		fails    int32 // calls that fail before one is served
		fail     http.HandlerFunc
		status   int
		reason   egress.Reason
		attempts int32
	}{
		"twice 500":    {2, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }, 200, "", 3},
		"always 500":   {9, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }, 500, "", 3},
		"cut once":     {1, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, 200, "", 2},
		"always cut":   {9, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, 503, egress.Reset, 3},
		"a 404":        {9, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) }, 404, "", 1},
		"too many":     {9, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(429) }, 429, "", 1},
		"nothing amis": {0, nil, 200, "", 1},
	} {
		t.Run(name, func(t *testing.T) {
			var attempts atomic.Int32
			g.back.set(func(w http.ResponseWriter, r *http.Request) {
				if n := attempts.Add(1); n <= c.fails {
					c.fail(w, r)
				}
			})
			if a := g.ask(t, "openai"); a.status != c.status || reason(a) != c.reason || attempts.Load() != c.attempts {
				t.Errorf("want %d %q after %d attempts, got %d %q after %d", c.status, c.reason, c.attempts, a.status, reason(a), attempts.Load())
			}
			// Successes between the cases keep the breaker shut: it opens by ten failures in a row, or where half
			// of ten calls between two of its looks failed, and a busy machine makes any of them such ten.
			g.back.set(nil)
			for range 10 {
				g.ask(t, "openai")
			}
		})
	}
}

func TestEgressCancelsWhatTakesTooLong(t *testing.T) {
	t.Parallel()
	g := start(t, bounds(func(e *config.ProviderEgress) { e.Timeout = 200 * time.Millisecond }), nil)
	cancelled := make(chan struct{}, 9)
	g.back.set(func(_ http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
		cancelled <- struct{}{}
	})
	testenv.Eventually(t, "a call is sent before its time is over", func() bool {
		reached := g.back.count()
		if a := g.ask(t, "openai"); a.status != 504 || reason(a) != egress.TimedOut {
			t.Fatalf("want a timeout, got %+v", a)
		}
		return g.back.count() > reached
	})
	<-cancelled // the provider notices
	var slow atomic.Int32
	g.back.set(func(w http.ResponseWriter, r *http.Request) { // half the time for each attempt: the deadline is of all together
		slow.Add(1)
		select {
		case <-time.After(120 * time.Millisecond):
			w.WriteHeader(500)
		case <-r.Context().Done():
		}
	})
	if a := g.ask(t, "openai"); a.status != 504 || reason(a) != egress.TimedOut || slow.Load() > 2 {
		t.Errorf("want one deadline for all attempts, got %+v after %d", a, slow.Load())
	}
}

func TestEgressRefusesTheOneTooMany(t *testing.T) {
	t.Parallel()
	g := start(t, bounds(func(e *config.ProviderEgress) { e.MaxConcurrent, e.Timeout = 2, 10*time.Second }), nil)
	end, arrived := make(chan struct{}), make(chan struct{}, 9)
	g.back.set(func(w http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		select {
		case <-end:
			io.WriteString(w, "served")
		case <-r.Context().Done():
		}
	})
	answers := make(chan answer, 2)
	for range 2 {
		go func() { answers <- g.ask(t, "openai") }()
		<-arrived
	}
	for range 3 {
		if a := g.ask(t, "openai"); a.status != 503 || reason(a) != egress.Busy { // the others can't end yet, so it did not wait
			t.Errorf("want a refusal at once, got %+v", a)
		}
	}
	go func() { answers <- g.ask(t, "qwen") }()
	<-arrived // another provider has places of its own
	close(end)
	for range 3 {
		if a := <-answers; a.status != 200 || a.body != "served" {
			t.Errorf("want the calls with a place served, got %+v", a)
		}
	}
}

func TestEgressLeavesABrokenProviderAlone(t *testing.T) {
	t.Parallel()
	g := start(t, func(c *config.Config) {
		bounds(func(e *config.ProviderEgress) { e.Attempts = 1 })(c)
		p := c.Providers["gemini"]
		p.URL = "http://127.0.0.1:1" // nobody listens
		c.Providers["gemini"] = p
	}, nil)
	g.back.set(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) })
	for range 10 {
		if a := g.ask(t, "openai"); a.status != 500 || reason(a) != "" {
			t.Fatalf("want the provider's 500, got %+v", a)
		}
	}
	// One thread of Envoy counts and another routes, so a few calls more may pass.
	testenv.Eventually(t, "the breaker is open", func() bool { return reason(g.ask(t, "openai")) == egress.BreakerOpen })
	reached := g.back.count()
	if a := g.ask(t, "openai"); a.status != 503 || reason(a) != egress.BreakerOpen || g.back.count() != reached {
		t.Errorf("want the breaker open, got %+v", a)
	}
	if a := g.ask(t, "gemini"); a.status != 503 || reason(a) != egress.Unreachable {
		t.Errorf("want no connection, got %+v", a)
	}
	g.back.set(nil)
	if a := g.ask(t, "qwen"); a.status != 200 {
		t.Errorf("want the others served, got %+v", a)
	}
	g.limit.set(admit(nil))
	if a := g.do(t, "POST", chatPath, body("")); a.status != 200 {
		t.Errorf("want LLM calls of the same provider served, got %+v", a)
	}
}
