package e2e

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/rawprovider"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/stacktest"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// serveRaw is the provider that sends what each request tells it.
func serveRaw(t *testing.T) {
	t.Helper()
	raw := &rawprovider.Provider{}
	ln, err := net.Listen("tcp", running.Raw)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(raw)
	server.Listener.Close()
	server.Listener = ln
	server.Start()
	t.Cleanup(func() { raw.Close(); server.Close() })
}

// TestBooksHoldWhatProvidersTell: whatever a provider sends and however the call ends, the
// books say what it told, or an estimate of what was done.
func TestBooksHoldWhatProvidersTell(t *testing.T) {
	t.Parallel()
	serveRaw(t)
	send, script := rawprovider.Send, rawprovider.Script
	json, sse := send(rawprovider.JSON), send(rawprovider.SSE)
	const told = `"usage":{"prompt_tokens":100,"completion_tokens":40,"total_tokens":140}`
	const plain = `{"model":"raw1","max_tokens":500,"messages":[{"role":"user","content":"Hello"}]}`
	const stream = `{"model":"raw1","max_tokens":500,"stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"Hello"}]}`
	done := "data: {\"choices\":[]," + told + "}\n\ndata: [DONE]\n\n"
	delta := `data: {"choices":[{"delta":{"content":"word"}}]}` + "\n\n"
	for _, tc := range []struct {
		name, path, body, script, until string
		patience                        time.Duration // 0: as long as it takes
		low, high                       int64         // tokens
		source, reason                  string
	}{
		{"control", chatPath, stream, script(sse, send(done)), "", 0, 140, 140, "provider", ""},
		{"left at [DONE]", chatPath, stream, script(sse, send(done), "~0.4"), "[DONE]", 0, 140, 140, "provider", ""},
		{"total alone", "/v1/embeddings", `{"model":"rawe","input":"hello"}`,
			script(json, send(`{"object":"list","data":[],"usage":{"total_tokens":9}}`)), "", 0, 9, 9, "provider", ""},
		{"reasoning beside the output", chatPath, plain,
			script(json, send(`{"usage":{"prompt_tokens":100,"completion_tokens":10,"total_tokens":410}}`)), "", 0, 410, 410, "provider", ""},
		{"above 2^31", chatPath, plain, script(json, send(`{"usage":{"prompt_tokens":3000000000,"completion_tokens":1}}`)), "", 0,
			3_000_000_001, 3_000_000_001, "provider", ""},
		{"gives up before the answer", chatPath, plain, script("~3", json, send("{"+told+"}")), "", 500 * time.Millisecond, 1, 100,
			"estimated", "client_disconnected"},
		// At least a token for each event, and never more than was held: the other cases teach
		// the estimator that tokens take next to no bytes.
		{"leaves in the middle", chatPath, stream, script(sse, send(strings.Repeat(delta, 60)), "~3"), delta, 0, 60, 700, "estimated",
			"client_disconnected"},
		{"provider gone", chatPath, plain, script(rawprovider.Reset), "", 0, 1, 100, "estimated", "provider_gone"},
		{"provider refuses", chatPath, plain, script(send("HTTP/1.1 401 No\r\ncontent-length: 2\r\n\r\n{}")), "", 0, 0, 0, "released",
			"provider_status_401"},
		{"error in a 200", chatPath, plain, script(json, send(`{"error":{"message":"overloaded"}}`)), "", 0, 0, 0, "released", "provider_error"},
		{"error event", chatPath, stream, script(sse, send("data: {\"error\":{\"message\":\"overloaded\"}}\n\n")), "", 0, 0, 0, "released",
			"provider_error"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			who := newAccount(t)
			ctx, leave := context.WithCancel(t.Context())
			defer leave()
			if tc.patience > 0 {
				ctx, leave = context.WithTimeout(ctx, tc.patience)
				defer leave()
			}
			callRaw(ctx, t, who, tc.path, tc.body, tc.script, tc.until)
			row := onlyRow(t, who, "raw")
			if row.Tokens < tc.low || row.Tokens > tc.high || row.Source != tc.source || row.Reason != tc.reason {
				t.Errorf("want %d to %d tokens, %s, %q, got %+v", tc.low, tc.high, tc.source, tc.reason, row)
			}
		})
	}
}

const chatPath = "/v1/chat/completions"

// callRaw calls and closes its connection when it has read until, or everything.
func callRaw(ctx context.Context, t *testing.T, who stacktest.Account, path, body, script, until string) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, running.Gateway+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+who.Key)
	req.Header.Set("X-Correlation-Id", uuid.NewString())
	req.Header.Set(rawprovider.Header, script)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		return // as some cases want it
	}
	defer res.Body.Close()
	var text strings.Builder
	for piece := make([]byte, 4096); until == "" || !strings.Contains(text.String(), until); {
		n, err := res.Body.Read(piece)
		text.Write(piece[:n])
		if err != nil {
			return
		}
	}
}

// onlyRow waits for the one call of an account on the books.
func onlyRow(t *testing.T, who stacktest.Account, provider string) usage {
	t.Helper()
	var page struct{ Items []usage }
	testenv.Within(t, 20*time.Second, "the call on the books", func() bool {
		mustCall(t, 200, "GET", "/api/v1/analytics/usage?provider="+provider, who.Key, nil, &page)
		return len(page.Items) == 1
	})
	return page.Items[0]
}
