package xds_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/spoolfolder"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

const (
	chatUsage  = `"usage":{"prompt_tokens":9,"completion_tokens":12,"total_tokens":21,"prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":3}}`
	chatAnswer = `{"id":"c","object":"chat.completion","created":1,"model":"gpt-4o-2024","choices":[{"index":0,"message":{"role":"assistant","content":"hello"},"finish_reason":"stop"}],` + chatUsage + `}`
	chatChunk  = `data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"gpt-4o-2024","choices":[{"index":0,"delta":{"content":"hello"},"finish_reason":null}]}` + "\n\n"
	chatEnd    = `data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"gpt-4o-2024","choices":[],` + chatUsage + `}` + "\n\n"
	chatDone   = "data: [DONE]\n\n"
	embeddings = `{"object":"list","data":[{"object":"embedding","embedding":[0.1],"index":0}],"model":"embed-1","usage":{"prompt_tokens":5,"total_tokens":5}}`
	gemini     = `{"candidates":[{"content":{"parts":[{"text":"hi"}],"role":"model"},"finishReason":"STOP","index":0}],"usageMetadata":{"promptTokenCount":7,"candidatesTokenCount":11,"thoughtsTokenCount":5,"cachedContentTokenCount":2,"totalTokenCount":23},"modelVersion":"gemini-x"}`
)

// says answers 200 with the parts, each flushed.
func says(contentType string, parts ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		for _, p := range parts {
			io.WriteString(w, p)
			w.(http.Flusher).Flush()
		}
	}
}

func TestSpoolTellsTheProvidersUsage(t *testing.T) {
	t.Parallel()
	g := start(t, nil, nil)
	const sse = "text/event-stream"
	for name, c := range map[string]struct {
		path, body                     string
		reply                          http.HandlerFunc
		in, out, cached, reasoning     int64
		route, provider, model, served string
		sent                           int
	}{
		"chat json": {chatPath, body(""), says("application/json", chatAnswer), 9, 12, 4, 3, "openai-chat", "openai", "gpt-4o",
			"gpt-4o-2024", len(chatAnswer)},
		"chat stream": {chatPath, body(""), says(sse, chatChunk, chatChunk, chatEnd, chatDone), 9, 12, 4, 3, "openai-chat", "openai",
			"gpt-4o", "gpt-4o-2024", len(chatChunk)*2 + len(chatEnd+chatDone)},
		"qwen": {"/compatible-mode/v1/chat/completions", `{"model":"qwen/qwen-plus"}`, says("application/json", chatAnswer), 9, 12, 4,
			3, "qwen-chat", "qwen", "qwen-plus", "gpt-4o-2024", len(chatAnswer)},
		"embeddings": {"/v1/embeddings", `{"model":"text-embedding-3-small","input":"x"}`, says("application/json", embeddings), 5, 0, 0, 0,
			"openai-embeddings", "openai", "text-embedding-3-small", "embed-1", len(embeddings)},
		"gemini json": {genPath, `{}`, says("application/json; charset=UTF-8", gemini), 7, 16, 2, 5, "gemini-generate", "gemini",
			"gemini-2.5-flash", "gemini-x", len(gemini)},
		"gemini stream": {streaming + "?alt=sse", `{}`, says(sse, "data: "+gemini+"\r\n\r\n", "data: "+gemini+"\r\n\r\n"), 7, 16, 2, 5,
			"gemini-stream", "gemini", "gemini-2.5-flash", "gemini-x", 2*len(gemini) + 20},
	} {
		t.Run(name, func(t *testing.T) {
			g.limit.set(admit(nil))
			g.back.set(c.reply)
			a := g.do(t, "POST", c.path, c.body, "traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "x-correlation-id",
				"order:1")
			raw, l := g.rawLine(t, a.header.Get("x-request-id"))
			if in, out := l.Answer.Tokens(); !l.Answer.Counted() || in != c.in || out != c.out || l.Answer.CachedInput() != c.cached ||
				l.Answer.ReasonedOutput() != c.reasoning {
				t.Errorf("want usage %d %d %d %d, got %s", c.in, c.out, c.cached, c.reasoning, raw)
			}
			if l.Route != c.route || l.Provider != c.provider || l.Model != c.model || l.Answer.Model != c.served {
				t.Errorf("want %s %s %s %s, got %s", c.route, c.provider, c.model, c.served, raw)
			}
			if l.Account != "user:u-1" || l.Held == nil || *l.Held != 100 || l.HeldIn == nil || *l.HeldIn != 40 || l.User != "u-1" ||
				l.Key != "k-1" || l.Org != "" || l.Tier != "USER" {
				t.Errorf("want the hold and the caller, got %s", raw)
			}
			if l.Status != 200 || l.Upstream != "200" || l.Flags != "-" || l.Details != "via_upstream" || l.BytesSent != int64(c.sent) ||
				l.WireRecv-l.HeaderRecv < int64(c.sent) || l.FirstByte == nil {
				t.Errorf("want status, flags and %d bytes, got %s", c.sent, raw)
			}
			if _, err := time.Parse(time.RFC3339, l.Start); err != nil || l.Trace == "" || l.Corr != "order:1" || l.Stream != "false" {
				t.Errorf("want start, trace, correlation and stream, got %s", raw)
			}
		})
	}
}

func TestSpoolTellsWhatWentWrong(t *testing.T) {
	t.Parallel()
	g := start(t, nil, nil)
	impatient := start(t, func(c *config.Config) { // with who hangs; a busy machine may stand as long with any other
		c.Gateway.StreamIdleTimeout, c.Gateway.FirstByteTimeout = 1500*time.Millisecond, 2*time.Second
	}, nil)
	for name, c := range map[string]struct {
		reply                    http.HandlerFunc
		status                   int
		flags, details, upstream string
		told                     bool // some usage
		body                     bool // bytes of an answer came
	}{
		"no usage":     {says("text/event-stream", chatChunk, chatDone), 200, "-", "via_upstream", "200", false, true},
		"broken json":  {says("application/json", `{"usage":{"prompt_tokens":`), 200, "-", "via_upstream", "200", false, true},
		"provider 500": {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, `{}`, 500) }, 500, "-", "via_upstream", "500", false, true},
		"provider 429": {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, `{}`, 429) }, 429, "-", "via_upstream", "429", false, true},
		"reset": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, 503, "UC",
			"upstream_reset_before_response_started", "-", false, false},
		"hang": {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, 503, "UT", "upstream_per_try_timeout", "-", false, false},
	} {
		t.Run(name, func(t *testing.T) {
			g := g
			if c.flags == "UT" {
				g = impatient
			}
			g.limit.set(admit(nil))
			g.back.set(c.reply)
			a := g.do(t, "POST", chatPath, body(""))
			raw, l := g.rawLine(t, a.header.Get("x-request-id"))
			if a.status != c.status || l.Status != c.status || l.Flags != c.flags || !strings.HasPrefix(l.Details, c.details) ||
				l.Upstream != c.upstream || l.Answer.Told() != c.told || l.WireRecv-l.HeaderRecv > 0 != c.body {
				t.Errorf("want %+v, got %d %s %s", c, a.status, a.body, raw)
			}
			if l.Account != "user:u-1" || l.Held == nil {
				t.Errorf("want the hold, got %s", raw)
			}
			again, never := a.header.Get("retry-after") != "", a.header.Get("x-should-retry") == "false"
			if c.status == 503 && (!strings.Contains(a.body, `"server_error"`) || again == never || never != (c.flags == "UT")) {
				t.Errorf("want 503, and no retry of a call that timed out, got %v %s", a.header, a.body)
			}
		})
	}
	t.Run("cut by the provider", func(t *testing.T) {
		g.back.set(func(w http.ResponseWriter, r *http.Request) {
			says("text/event-stream", chatChunk)(w, r)
			panic(http.ErrAbortHandler)
		})
		id, err := g.readSome(t, t.Context(), 1<<20)
		raw, l := g.rawLine(t, id)
		if err == nil || l.Flags == "-" || l.Status != 200 || l.Upstream != "200" || l.WireRecv-l.HeaderRecv < int64(len(chatChunk)) ||
			l.Answer.Told() {
			t.Errorf("want a cut stream, got %v %s", err, raw)
		}
	})
	t.Run("hung in the stream", func(t *testing.T) {
		impatient.back.set(func(w http.ResponseWriter, r *http.Request) {
			says("text/event-stream", chatChunk)(w, r)
			<-r.Context().Done()
		})
		id, err := impatient.readSome(t, t.Context(), 1<<20)
		if raw, l := impatient.rawLine(t, id); err == nil || l.Flags != "SI" || l.Answer.Told() {
			t.Errorf("want an idle stream ended, got %v %s", err, raw)
		}
	})
	t.Run("client left", func(t *testing.T) {
		left := make(chan struct{})
		g.back.set(func(w http.ResponseWriter, r *http.Request) {
			says("text/event-stream", chatChunk)(w, r)
			<-r.Context().Done()
			close(left)
		})
		ctx, cancel := context.WithCancel(t.Context())
		id, err := g.readSome(t, ctx, len(chatChunk))
		cancel()
		raw, l := g.rawLine(t, id)
		if err != nil || l.Flags != "DC" || l.Status != 200 || l.BytesSent < int64(len(chatChunk)) || l.Answer.Told() {
			t.Errorf("want flag DC, bytes and no usage, got %v %s", err, raw)
		}
		<-left // the abort reaches the provider
	})
}

// readSome calls and reads at most n bytes of the answer.
func (g *gateway) readSome(t *testing.T, ctx context.Context, n int) (id string, err error) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, "POST", g.url+chatPath, strings.NewReader(body(`,"stream":true`)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", goodKey)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	_, err = io.ReadFull(resp.Body, make([]byte, n))
	return resp.Header.Get("x-request-id"), err
}

func TestSpoolTellsRefusals(t *testing.T) {
	t.Parallel()
	g := start(t, nil, nil)
	g.limit.set(func(*rlsv3.RateLimitRequest) (*rlsv3.RateLimitResponse, error) {
		return &rlsv3.RateLimitResponse{OverallCode: rlsv3.RateLimitResponse_OVER_LIMIT, RawBody: []byte(`{"error":{"message":"no"}}`),
			ResponseHeadersToAdd: []*corev3.HeaderValue{{Key: "content-type", Value: "application/json"}, {Key: "retry-after", Value: "3"},
				{Key: "x-should-retry", Value: "true"}}}, nil
	})
	a := g.do(t, "POST", chatPath, body(""))
	if a.status != 429 || a.body != `{"error":{"message":"no"}}` || a.header.Get("content-type") != "application/json" ||
		a.header.Get("retry-after") != "3" || a.header.Get("x-should-retry") != "true" {
		t.Errorf("want ratelimit's own answer, got %+v", a)
	}
	raw, l := g.rawLine(t, a.header.Get("x-request-id"))
	if l.Flags != "RL" || l.Status != 429 || l.Account != "" || l.Held != nil || l.User != "u-1" || l.Provider != "openai" ||
		l.Model != "gpt-4o" || l.Upstream != "-" || l.Bytes == "" {
		t.Errorf("want a refused line, got %s", raw)
	}

	g.limit.set(func(*rlsv3.RateLimitRequest) (*rlsv3.RateLimitResponse, error) { return nil, errors.New("down") })
	a = g.do(t, "POST", chatPath, body(""))
	if a.status != 503 || !strings.Contains(a.body, `"gateway_unavailable"`) || a.header.Get("retry-after") == "" {
		t.Errorf("want 503 gateway_unavailable, got %+v", a)
	}
	if raw, l := g.rawLine(t, a.header.Get("x-request-id")); l.Flags != "RLSE" || l.Account != "" {
		t.Errorf("want flag RLSE, got %s", raw)
	}

	reached := g.back.count()
	for _, path := range []string{genPath, "/api/v1/me"} {
		if a := g.do(t, map[string]string{genPath: "POST", "/api/v1/me": "GET"}[path], path, `{}`); a.status != 503 {
			t.Errorf("%s: want 503, got %+v", path, a)
		}
	}
	if g.back.count() != reached {
		t.Error("a call passed while ratelimit was down")
	}
}

func TestSpoolTellsWhatACallSaysOfItself(t *testing.T) {
	t.Parallel()
	g := start(t, func(c *config.Config) {
		c.Dimensions.Tags = map[string]config.Dimension{"project": {Header: "x-project"}, "feature": {Header: "x-feature", Body: "feature"},
			"cost_center": {Body: "cost-center"}}
	}, nil)
	long := strings.Repeat("x", 128)
	for name, c := range map[string]struct {
		body    string
		headers []string
		endUser string
		session string
		tags    string
	}{
		"nothing": {body(""), nil, "", "", ""},
		"headers": {body(""), []string{"x-end-user", "customer 7", "x-session-id", "run-1", "x-project", "a&b=c,d;e"}, "customer 7", "run-1",
			"project=a%26b%3Dc%2Cd%3Be"},
		"members":               {body(`,"user":"u@x.org","feature":"chat","cost-center":"42"`), nil, "u@x.org", "", "cost_center=42&feature=chat"},
		"the header goes first": {body(`,"user":"b","feature":"b"`), []string{"x-end-user", "a", "x-feature", "a"}, "a", "", "feature=a"},
		"as long as may be":     {body(`,"user":"` + long + `"`), []string{"x-session-id", long}, long, long, ""},
		"too long":              {body(`,"user":"` + long + `x"`), []string{"x-session-id", long + "x"}, "", "", ""},
		"no text":               {body(`,"user":5,"feature":["x"]`), nil, "", "", ""},
		"an escape":             {body(`,"user":"a\u0000b"`), nil, "", "", ""},
		"a member further in":   {body(`,"metadata":{"user":"inner","feature":"inner"}`), nil, "", "", ""},
		"not ASCII":             {body(`,"user":"Müller"`), []string{"x-project", "M\xfcller"}, "", "", ""},
		"a control":             {body(""), []string{"x-project", "a\tb"}, "", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			g.limit.set(admit(nil))
			g.back.set(says("application/json", chatAnswer))
			a := g.do(t, "POST", chatPath, c.body, c.headers...)
			raw, l := g.rawLine(t, a.header.Get("x-request-id"))
			if l.EndUser != c.endUser || l.Session != c.session || l.Tags != c.tags || l.Attempts != 1 {
				t.Errorf("want %q, %q and %q, got %q, %q and %q: %s", c.endUser, c.session, c.tags, l.EndUser, l.Session, l.Tags, raw)
			}
		})
	}
}

// TestASpoolOfAnotherStackIsGivenToNoEnvoy: a file that moves the spool into a folder that another
// stack's Envoy writes is refused, and taken once that has ended.
func TestASpoolOfAnotherStackIsGivenToNoEnvoy(t *testing.T) {
	t.Parallel()
	url, folder, other := named(t, "provider"), t.TempDir(), t.TempDir()
	claim, err := spoolfolder.Hold(folder, spoolfolder.Writer, spoolfolder.Of(other))
	if err != nil {
		t.Fatal(err)
	}
	g, path := fromFile(t, url)
	rewrite(t, path, g.yamlFor(url, "envoy: {spool: "+filepath.Join(folder, "usage.jsonl")+"}"))
	testenv.Eventually(t, "the refusal is shown", func() bool {
		refused := g.status(t).Refused
		return refused != nil && strings.Contains(refused.Reason, other)
	})
	claim.Release() // it is tried again by itself
	testenv.Eventually(t, "a line in the new folder", func() bool {
		g.do(t, "POST", chatPath, body(""))
		info, err := os.Stat(filepath.Join(folder, "usage.jsonl"))
		return err == nil && info.Size() > 0
	})
}
