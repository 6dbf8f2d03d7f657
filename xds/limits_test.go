package xds_test

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// TestABusyProviderIsRefusedAtOnce takes the one place a provider has and the one place
// to wait for it.
func TestABusyProviderIsRefusedAtOnce(t *testing.T) {
	t.Parallel()
	g := start(t, func(c *config.Config) {
		p := c.Providers["openai"]
		p.MaxRequests, p.MaxPending = 1, 1
		c.Providers["openai"] = p
	}, nil)
	g.limit.set(admit(nil))
	end := make(chan struct{})
	g.back.set(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-end:
			io.WriteString(w, "{}")
		case <-r.Context().Done():
		}
	})
	answers := make(chan answer, 3)
	for range 3 {
		go func() { answers <- g.do(t, "POST", chatPath, body("")) }()
	}
	a := <-answers // the others can't end yet
	if a.status != 503 || !strings.Contains(a.body, `"server_error"`) || a.header.Get("retry-after") == "" {
		t.Errorf("want wire.md's 503, got %+v", a)
	}
	close(end)
	served := 0 // one or two: a call waits also while its connection is made
	for range 2 {
		if a := <-answers; a.status == 200 {
			served++
		}
	}
	if served == 0 {
		t.Error("want the call that had the place to end well")
	}
	if raw, l := g.rawLine(t, a.header.Get("x-request-id")); l.Flags != "UO" || l.Upstream != "-" || l.Held == nil {
		t.Errorf("want flag UO and the hold, got %s", raw)
	}
}

// TestACallLastsNoLongerThanItsHold: holds outlive max_stream_duration by a margin, so a
// call must end by then, whether an answer began or not.
func TestACallLastsNoLongerThanItsHold(t *testing.T) {
	t.Parallel()
	g := start(t, func(c *config.Config) { c.Gateway.MaxStreamDuration = 1500 * time.Millisecond }, nil)
	g.limit.set(admit(nil))
	g.back.set(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	testenv.Eventually(t, "a call has its hold before it must end", func() bool {
		a := g.do(t, "POST", chatPath, body(""))
		raw, l := g.rawLine(t, a.header.Get("x-request-id"))
		if l.Held != nil && (a.status != 503 || !strings.Contains(a.body, `"server_error"`) || l.Upstream != "-" || l.Status != 503) {
			t.Fatalf("want 503, got %+v and %s", a, raw)
		}
		return l.Held != nil
	})
	g.back.set(func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			says("text/event-stream", chatChunk)(w, r)
			time.Sleep(20 * time.Millisecond)
		}
	})
	testenv.Eventually(t, "a stream begins before it must end", func() bool {
		id, err := g.readSome(t, t.Context(), 1<<20)
		raw, l := g.rawLine(t, id)
		if l.WireRecv > 0 && (err == nil || l.Details != "max_duration_timeout" || l.Millis > 15_000) {
			t.Fatalf("want the stream cut, got %v %s", err, raw)
		}
		return l.WireRecv > 0
	})
}

func TestTheProvidersHeadersDoNotSpeakForTheGateway(t *testing.T) {
	t.Parallel()
	g := start(t, nil, nil)
	g.limit.set(admit(nil))
	g.back.set(func(w http.ResponseWriter, r *http.Request) {
		for name, value := range map[string]string{"X-Request-Id": "theirs", "X-Ratelimit-Remaining-Tokens": "9",
			"X-Ratelimit-Limit-Requests": "9", "Set-Cookie": "a=b", "Server": "theirs",
			"Openai-Organization": "ours", "X-Correlation-Id": "theirs", "X-Frame-Options": "SAMEORIGIN", "Retry-After": "7"} {
			w.Header().Set(name, value)
		}
		w.WriteHeader(429)
	})
	a := g.do(t, "POST", chatPath, body(""))
	for _, name := range []string{"X-Ratelimit-Remaining-Tokens", "X-Ratelimit-Limit-Requests", "Set-Cookie", "Server",
		"Openai-Organization"} {
		if got := a.header.Values(name); len(got) > 0 {
			t.Errorf("the provider's %s reached the client: %v", name, got)
		}
	}
	for _, name := range []string{"X-Request-Id", "X-Correlation-Id", "X-Frame-Options"} {
		if got := a.header.Values(name); len(got) != 1 || got[0] == "theirs" || got[0] == "SAMEORIGIN" {
			t.Errorf("want our own %s once, got %v", name, got)
		}
	}
	if a.status != 429 || a.header.Get("Retry-After") != "7" {
		t.Errorf("want the provider's status and retry-after, got %d %v", a.status, a.header)
	}
}

func TestTrustedHopsDecideTheClientsAddress(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		hops          int
		forwarded     string
		want, refused string
	}{
		"none trusted":   {0, "203.0.113.7", "127.0.0.1", "203.0.113.7"},
		"one trusted":    {1, "198.51.100.1, 203.0.113.7", "203.0.113.7", "198.51.100.1"},
		"two trusted":    {2, "198.51.100.1, 203.0.113.7", "198.51.100.1", "203.0.113.7"},
		"fewer than two": {2, "203.0.113.7", "127.0.0.1", "203.0.113.7"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := start(t, func(cfg *config.Config) { cfg.Gateway.TrustedHops = c.hops }, nil)
			if a := g.do(t, "POST", "/api/v1/auth/login", "{}", "Authorization", "", "X-Forwarded-For", c.forwarded); a.status != 200 {
				t.Fatalf("want 200, got %+v", a)
			}
			asked := strings.Join(g.limit.last(), ";")
			if !strings.Contains(asked, "remote_address="+c.want) || strings.Contains(asked, c.refused) {
				t.Errorf("want remote_address=%s, got %s", c.want, asked)
			}
		})
	}
}

func TestHTTP2ClientsAreServed(t *testing.T) {
	t.Parallel()
	g := start(t, func(c *config.Config) { c.Gateway.MaxBodyBytes = 4 << 20 }, nil)
	g.limit.set(admit(decided("fill")))
	g.back.set(says("text/event-stream", chatChunk, chatEnd, chatDone))
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	client := &http.Client{Transport: &http.Transport{Protocols: protocols}}
	t.Cleanup(client.CloseIdleConnections)
	for _, c := range []struct{ size, status int }{{100, 200}, {1 << 20, 200}, {3 << 20, 200}, {5 << 20, 413}} {
		text := body(`,"x":"` + strings.Repeat("y", c.size) + `"`)
		req, err := http.NewRequestWithContext(t.Context(), "POST", g.url+chatPath, bytes.NewReader([]byte(text)))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", goodKey)
		req.Header.Set("Content-Type", "application/json")
		resp, err := client.Do(req)
		if err != nil {
			t.Fatalf("%d bytes: %v", c.size, err)
		}
		answer, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != c.status || resp.ProtoMajor != 2 || err != nil {
			t.Errorf("%d bytes: want %d, got %d %s %v %.200s", c.size, c.status, resp.StatusCode, resp.Proto, err, answer)
		}
		if c.status == 200 && len(g.back.last(t).body) != len(text)+len(`,"max_tokens":256`) {
			t.Errorf("%d bytes: the provider got %d", c.size, len(g.back.last(t).body))
		}
	}
}
