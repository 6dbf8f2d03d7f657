package xds_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/rawprovider"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// startRaw is a gateway whose provider sends what each request tells it.
func startRaw(t *testing.T) *gateway {
	t.Helper()
	g := start(t, nil, nil)
	raw := &rawprovider.Provider{}
	t.Cleanup(raw.Close)
	g.back.set(raw.ServeHTTP)
	g.limit.set(admit(nil))
	return g
}

// read is what a client got before it left or the answer ended.
type read struct {
	id     string // X-Correlation-Id
	status int
	header http.Header
	text   string
	err    error
}

// raw calls and reads until the text until was read, to the end without one. A client that
// gives up sooner has a deadline in ctx.
func (g *gateway) raw(t *testing.T, ctx context.Context, path, body, script, until string) read {
	t.Helper()
	ctx, leave := context.WithCancel(ctx)
	defer leave() // closes the connection of an answer that is not read to its end
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, g.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", goodKey)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept-Encoding", "identity") // or the client would unpack by itself
	req.Header.Set(rawprovider.Header, script)
	id := uuid.NewString() // an answer that never came tells no request id
	req.Header.Set("X-Correlation-Id", id)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return read{id: id, err: err}
	}
	defer res.Body.Close()
	var text bytes.Buffer
	for piece := make([]byte, 32<<10); ; {
		n, err := res.Body.Read(piece)
		text.Write(piece[:n])
		if until != "" && strings.Contains(text.String(), until) {
			return read{id, res.StatusCode, res.Header, text.String(), nil}
		}
		if err == io.EOF {
			return read{id, res.StatusCode, res.Header, text.String(), nil}
		}
		if err != nil {
			return read{id, res.StatusCode, res.Header, text.String(), err}
		}
	}
}

const (
	rawUsage = `"usage":{"prompt_tokens":100,"completion_tokens":40,"total_tokens":140}`
	rawDone  = "data: {\"choices\":[]," + rawUsage + "}\n\ndata: [DONE]\n\n"
	headless = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n"
)

func packed(t *testing.T, text string) string {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestUsageHoweverItIsTold sends what real providers send, and looks at what the line of the
// call says they told.
func TestUsageHoweverItIsTold(t *testing.T) {
	t.Parallel()
	g := startRaw(t)
	send, script := rawprovider.Send, rawprovider.Script
	labelled := func(label string) string {
		return send("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: " + label + "\r\n\r\n")
	}
	json, sse := send(rawprovider.JSON), send(rawprovider.SSE)
	zipped := send("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-encoding: gzip\r\ncontent-type: application/json\r\n\r\n")
	for name, c := range map[string]struct {
		script, until string
		in, out       int64
		text          string // what the client must get; empty: not looked at
	}{
		"control":               {script(sse, send(rawDone)), "", 100, 40, rawDone},
		"left at [DONE]":        {script(sse, send(rawDone), "~0.5"), "[DONE]", 100, 40, rawDone},
		"left after usage":      {script(sse, send(strings.TrimSuffix(rawDone, "data: [DONE]\n\n")), "~5"), "140}", 100, 40, ""},
		"total alone":           {script(json, send(`{"object":"list","data":[],"usage":{"total_tokens":9}}`)), "", 9, 0, ""},
		"reasoning beside":      {script(json, send(`{"usage":{"prompt_tokens":100,"completion_tokens":10,"total_tokens":410,"completion_tokens_details":{"reasoning_tokens":300}}}`)), "", 100, 310, ""},
		"4 MB":                  {script(json, send(`{"data":[{"embedding":"`), rawprovider.Fill(4_300_000), send(`"}],"usage":{"prompt_tokens":900,"total_tokens":900}}`)), "", 900, 0, ""},
		"an event of 2 MB":      {script(sse, send(`data: {"candidates":[{"content":{"parts":[{"inlineData":{"data":"`), rawprovider.Fill(2_000_000), send(`"}}]}}],"usageMetadata":{"promptTokenCount":7,"candidatesTokenCount":1290,"totalTokenCount":1297}}`+"\n\n")), "", 7, 1290, ""},
		"choices":               {script(sse, send("data: {\"choices\":[{\"index\":0,\"delta\":{},"+rawUsage+"}]}\n\n")), "", 100, 40, ""},
		"x_groq":                {script(sse, send("data: {\"choices\":[],\"x_groq\":{"+rawUsage+"}}\n\n")), "", 100, 40, ""},
		"numbers as strings":    {script(json, send(`{"usage":{"prompt_tokens":"100","completion_tokens":"40"}}`)), "", 100, 40, ""},
		"no blank line":         {script(sse, send("data: {\"choices\":[]}\n\ndata: {"+rawUsage+"}")), "", 100, 40, "data: {\"choices\":[]}\n\ndata: {" + rawUsage + "}"},
		"one newline apart":     {script(sse, send("data: {\"choices\":[{}]}\ndata: {"+rawUsage+"}\ndata: [DONE]\n")), "", 100, 40, ""},
		"gzip":                  {script(zipped, send(packed(t, "{"+rawUsage+"}"))), "", 100, 40, "{" + rawUsage + "}"},
		"text/plain":            {script(labelled("text/plain"), send("{"+rawUsage+"}")), "", 100, 40, ""},
		"octets":                {script(labelled("application/octet-stream"), send(rawDone)), "", 100, 40, ""},
		"no content type":       {script(send(headless), send("{"+rawUsage+"}")), "", 100, 40, ""},
		"SSE labelled JSON":     {script(json, send(rawDone)), "", 100, 40, rawDone},
		"JSON labelled SSE":     {script(sse, send("{"+rawUsage+"}")), "", 100, 40, "{" + rawUsage + "}"},
		"byte order mark":       {script(json, send("\xef\xbb\xbf{"+rawUsage+"}")), "", 100, 40, "\xef\xbb\xbf{" + rawUsage + "}"},
		"split over two chunks": {script(sse, send(`data: {"usage":{"prompt_tokens":100,"completion_tokens":0}}`+"\n\n"+`data: {"usage":{"prompt_tokens":0,"completion_tokens":40}}`+"\n\n")), "", 100, 40, ""},
		"a broken event beside": {script(sse, send("data: {\"choices\":[{\"del\n\n"+rawDone)), "", 100, 40, ""},
		"above 2^31":            {script(json, send(`{"usage":{"prompt_tokens":3000000000,"completion_tokens":40}}`)), "", 3_000_000_000, 40, ""},
		"kept alive by spaces":  {script(json, send(" \n\n"), "~0.1", send("\n{"+rawUsage+"}")), "", 100, 40, ""},
		"byte by byte":          {script(append([]string{sse}, each(rawDone)...)...), "", 100, 40, rawDone},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := g.raw(t, t.Context(), chatPath, body(""), c.script, c.until)
			if got.err != nil || got.status != 200 {
				t.Fatalf("want 200, got %+v", got)
			}
			if c.text != "" && got.text != c.text {
				t.Errorf("want %q, got %q", c.text, got.text)
			}
			raw, l := g.rawLine(t, got.id)
			if in, out := l.Answer.Tokens(); in != c.in || out != c.out || !l.Answer.Counted() {
				t.Errorf("want %d and %d, got %d and %d in %s", c.in, c.out, in, out, raw)
			}
		})
	}
}

// each sends every byte by itself.
func each(text string) []string {
	var steps []string
	for i := range len(text) {
		steps = append(steps, rawprovider.Send(text[i:i+1]))
	}
	return steps
}

// TestUsageThatOnlyTheGatewayAskedFor: the caller did not ask for the event, so they do not
// get it, and gets every other byte.
func TestUsageThatOnlyTheGatewayAskedFor(t *testing.T) {
	t.Parallel()
	g := startRaw(t)
	delta := `data: {"choices":[{"delta":{"content":"x"}}],"usage":null}` + "\n\n"
	stream := delta + delta + rawDone
	for name, c := range map[string]struct {
		ours  bool
		steps []string
		want  string
	}{
		"ours":               {true, []string{rawprovider.Send(rawprovider.SSE), rawprovider.Send(stream)}, delta + delta + "data: [DONE]\n\n"},
		"ours, byte by byte": {true, append([]string{rawprovider.Send(rawprovider.SSE)}, each(stream)...), delta + delta + "data: [DONE]\n\n"},
		"ours, with a length": {true, []string{rawprovider.Send(fmt.Sprintf("HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n", len(stream))),
			rawprovider.Send(stream)}, delta + delta + "data: [DONE]\n\n"},
		"the caller's": {false, []string{rawprovider.Send(rawprovider.SSE), rawprovider.Send(stream)}, stream},
	} {
		t.Run(name, func(t *testing.T) {
			splice := map[string]any{}
			if c.ours {
				splice[attributes.AskUsage] = "true"
			}
			g.limit.set(admit(splice))
			got := g.raw(t, t.Context(), chatPath, body(`,"stream":true`), rawprovider.Script(c.steps...), "")
			if got.err != nil || got.text != c.want {
				t.Errorf("want %q, got %q, %v", c.want, got.text, got.err)
			}
			raw, l := g.rawLine(t, got.id)
			if in, out := l.Answer.Tokens(); in != 100 || out != 40 || !l.Answer.Counted() {
				t.Errorf("want the usage told, got %s", raw)
			}
		})
	}
}

// TestUsageOfCallsThatEndEarly: what the line says of calls that did not come to their end.
func TestUsageOfCallsThatEndEarly(t *testing.T) {
	t.Parallel()
	g := startRaw(t)
	send, script := rawprovider.Send, rawprovider.Script
	delta := `data: {"choices":[{"delta":{"content":"x"}}]}` + "\n\n"
	t.Run("client gives up before the answer", func(t *testing.T) {
		t.Parallel()
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		asked, result := body(`,"user":"who gives up"`), make(chan read, 1)
		go func() { result <- g.raw(t, ctx, chatPath, asked, script("~60", send(rawprovider.JSON)), "") }()
		testenv.Eventually(t, "the provider has the call", func() bool { return g.back.got("who gives up") })
		stop()
		got := <-result
		if got.err == nil {
			t.Fatalf("want no answer, got %+v", got)
		}
		raw, l := g.rawLine(t, got.id)
		if l.Upstream != "-" || l.Flags != "DC" || l.WireSent <= int64(len(asked)) || l.Held == nil {
			t.Errorf("want a call that was delivered and not answered, got %s", raw)
		}
	})
	t.Run("client leaves in the middle", func(t *testing.T) {
		t.Parallel()
		got := g.raw(t, t.Context(), chatPath, body(""), script(send(rawprovider.SSE), send(strings.Repeat(delta, 40)), "~60"), delta)
		raw, l := g.rawLine(t, got.id)
		if l.Flags != "DC" || l.Answer.Counted() || l.Answer.Events < 27 || l.Answer.Events > 40 || l.Answer.Bytes == 0 {
			t.Errorf("want the events that passed, got %s", raw)
		}
	})
	t.Run("an error in a 200", func(t *testing.T) {
		t.Parallel()
		got := g.raw(t, t.Context(), chatPath, body(""), script(send(rawprovider.JSON), send(`{"error":{"message":"overloaded"}}`)), "")
		if raw, l := g.rawLine(t, got.id); !l.Answer.Failed || l.Answer.Told() {
			t.Errorf("want a failure, got %s", raw)
		}
	})
	t.Run("a coding that nobody reads", func(t *testing.T) {
		t.Parallel()
		head := "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-encoding: br\r\n\r\n"
		got := g.raw(t, t.Context(), chatPath, body(""), script(send(head), send("\x0b\x02\x80"), "~0.1", send("abc\x03")), "")
		if got.status != 502 || !strings.Contains(got.text, `"code":"provider_encoding"`) || got.header.Get("content-encoding") != "" {
			t.Errorf("want 502 and why, got %+v", got)
		}
		if raw, l := g.rawLine(t, got.id); !l.Answer.Coded {
			t.Errorf("want it said, got %s", raw)
		}
	})
	t.Run("a provider's 401", func(t *testing.T) {
		t.Parallel()
		got := g.raw(t, t.Context(), chatPath, body(""), script(send("HTTP/1.1 401 No\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}")), "")
		if raw, l := g.rawLine(t, got.id); got.status != 503 || l.Upstream != "401" {
			t.Errorf("want 503 for the client and 401 in the line, got %d %s", got.status, raw)
		}
	})
}

// TestUsageOfAnyAnswer generates answers and holds what the line says to what was told.
func TestUsageOfAnyAnswer(t *testing.T) {
	t.Parallel()
	g := startRaw(t)
	var all sync.WaitGroup
	for worker := range uint64(8) { // what takes time is the access log's buffer
		all.Go(func() {
			for n := range uint64(16) {
				seed := worker<<32 + n
				a := rawprovider.Generate(rand.New(rand.NewPCG(seed, 11)))
				got := g.raw(t, t.Context(), chatPath, body(""), a.Script, "")
				raw, l := g.rawLine(t, got.id)
				if in, out := l.Answer.Tokens(); in != a.In || out != a.Out || l.Answer.Counted() != a.Counted() ||
					l.Answer.Events != a.Events && !a.Cut || got.text != a.Text && a.Text != "" {
					t.Errorf("seed %d: want %+v, got %q and %s", seed, a, got.text, raw)
				}
			}
		})
	}
	all.Wait()
}
