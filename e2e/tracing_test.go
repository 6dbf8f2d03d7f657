package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/otlptest"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/stacktest"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// The trees of calls, without what extauthz asks identity the first time that it meets a key. A "?" is
// before a span whose parent is the caller's own.
const (
	treeAdmitted = `?envoy: POST openai-chat:openai/gpt-4o-mini
  envoy: async envoy.service.auth.v3.Authorization.Check egress
    extauthz: check who calls
  envoy: async envoy.service.ratelimit.v3.RateLimitService.ShouldRateLimit egress
    ratelimit: hold
  envoy: call provider-openai
  meter: chat gpt-4o-mini
    analytics: insert usage events
    meter: settle
    tokensvc: book usage
`
	treeRefused = `?envoy: POST openai-chat:openai/gpt-4o-mini
  envoy: async envoy.service.auth.v3.Authorization.Check egress
    extauthz: check who calls
  envoy: async envoy.service.ratelimit.v3.RateLimitService.ShouldRateLimit egress
    ratelimit: hold
  meter: chat gpt-4o-mini
    analytics: insert usage events
    tokensvc: book usage
`
	treeKept = `meter: chat gpt-4o-mini
  analytics: insert usage events
  tokensvc: book usage
`
)

// TestTheWholeTreeOfACall reads the spans of a call from the first to the last part that it passes.
func TestTheWholeTreeOfACall(t *testing.T) {
	t.Parallel()
	const prompt = "a prompt that no span shall hold"
	body := func(more string) string {
		return `{"model":"gpt-4o-mini","messages":[{"role":"user","content":"` + prompt + `"}]` + more + `}`
	}
	const fits, never = `,"max_tokens":900`, `,"max_tokens":5000` // in the thousand tokens of TINY
	for name, c := range map[string]struct {
		roles  []string
		body   string
		chosen bool // by Envoy, of the hundredth of all calls
		leave  bool // in the middle of the answer
		tree   string
		want   map[string]string // attributes of the meter's span
	}{
		"admitted": {nil, body(fits), true, false, treeAdmitted, map[string]string{"error.type": "", "http.response.status_code": "200",
			"gen_ai.request.model": "gpt-4o-mini", "gen_ai.provider.name": "openai", "gen_ai.operation.name": "chat", "leaky.charge.source": "provider"}},
		"refused": {[]string{"TINY"}, body(never), true, false, treeRefused, map[string]string{"error.type": "rate_limited",
			"http.response.status_code": "429", "leaky.tokens.charged": "0"}},
		"aborted": {nil, body(fits + `,"stream":true`), true, true, treeAdmitted, map[string]string{"error.type": "client_disconnected",
			"leaky.charge.source": "estimated"}},
		"refused and not chosen": {[]string{"TINY"}, body(never), false, false, treeKept, map[string]string{"error.type": "rate_limited"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			who := newAccount(t, c.roles...)
			id := traceID(c.chosen)
			callIn(t, id, who, c.body, c.leave)
			found := treeOf(t, id, c.tree)
			for _, s := range found {
				if text := s.String(); strings.Contains(text, prompt) || strings.Contains(text, who.Key) {
					t.Errorf("a prompt or a key is in a span: %s", text)
				}
				if s.Service != "meter" || s.GetName() == "settle" {
					continue
				}
				for attribute, want := range c.want {
					if got := s.Attribute(attribute); got != want {
						t.Errorf("%s: want %q, got %q", attribute, want, got)
					}
				}
			}
		})
	}
}

// TestWhatTheOutboxCarries: what consume and purchases tell goes by Postgres and NATS, and ends in the
// trace of the call all the same.
func TestWhatTheOutboxCarries(t *testing.T) {
	t.Parallel()
	who := newAccount(t)
	buy(t, who, "openai", 1000)
	for _, c := range []struct {
		name, path, body string
		status           int
		want             []string
	}{
		{"purchase", pathPurchase, `{"provider":"openai","tokens":1000}`, http.StatusAccepted,
			[]string{"tokensvc: HTTP POST", "analytics: insert events of purchases"}},
		{"consume", pathConsume, `{"provider":"openai","tokens":1}`, http.StatusOK,
			[]string{"Limiter/Hold", "Limiter/Settle", "envoy: call egress-openai", "tokensvc: book usage", "analytics: insert usage events"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			id := traceID(true)
			header := append([]string{"Traceparent", "00-" + id + "-00f067aa0ba902b7-00"}, byKey(who)...)
			if a := request(t, "POST", c.path, "", c.body, header...); a.status != c.status {
				t.Fatalf("want %d, got %d %s", c.status, a.status, a.text)
			}
			var tree string
			t.Cleanup(func() {
				if t.Failed() {
					t.Log(tree)
				}
			})
			testenv.Eventually(t, "the spans, all below the gateway's", func() bool {
				tree = otlptest.Tree(spans.Trace(id))
				missing := slices.ContainsFunc(c.want, func(name string) bool { return !strings.Contains(tree, name+"\n") })
				return !missing && strings.Count(tree, "?") == 1
			})
		})
	}
}

// traceID is the id of a new trace. Of a share of the traces Envoy chooses those whose first half is
// small; zero is chosen always.
func traceID(chosen bool) string {
	first := uint64(0)
	if !chosen {
		first = 0xff
	}
	return fmt.Sprintf("%016x%016x", first, rand.Uint64()|1)
}

// treeOf waits for the spans of a trace.
func treeOf(t *testing.T, id, want string) []otlptest.Span {
	t.Helper()
	var found []otlptest.Span
	var tree string
	defer func() {
		if tree != want {
			t.Logf("want the spans\n%s, got\n%s", want, tree)
		}
	}()
	testenv.Eventually(t, "the spans of the call", func() bool {
		found = slices.DeleteFunc(spans.Trace(id), func(s otlptest.Span) bool {
			return s.Service == "identity" || strings.HasPrefix(s.GetName(), "HTTP ")
		})
		tree = otlptest.Tree(found)
		return tree == want
	})
	return found
}

// callIn makes a call in a trace; leave ends it after the first line of the answer.
func callIn(t *testing.T, traceID string, who stacktest.Account, body string, leave bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, running.Gateway+chatPath, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+who.Key)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Traceparent", "00-"+traceID+"-00f067aa0ba902b7-00")
	if leave {
		req.Header.Set("X-Stub-Chunk-Delay-Ms", "1000")
	}
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if leave {
		_, err = bufio.NewReader(res.Body).ReadString('\n')
	} else {
		_, err = io.Copy(io.Discard, res.Body)
	}
	if err != nil {
		t.Fatal(err)
	}
}
