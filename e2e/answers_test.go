package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/rawprovider"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/stacktest"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// TestBooksHoldWhatProvidersTell: whatever a provider sends and however the call ends, the
// books say what it told, or an estimate of what was done.
func TestBooksHoldWhatProvidersTell(t *testing.T) {
	t.Parallel()
	send, script := rawprovider.Send, rawprovider.Script
	json, sse, silence := send(rawprovider.JSON), send(rawprovider.SSE), rawprovider.Wait(20*time.Second)
	const told = `"usage":{"prompt_tokens":100,"completion_tokens":40,"total_tokens":140}`
	const plain = `{"model":"raw1","max_tokens":500,"messages":[{"role":"user","content":"Hello"}]}`
	const stream = `{"model":"raw1","max_tokens":500,"stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"Hello"}]}`
	done := "data: {\"choices\":[]," + told + "}\n\ndata: [DONE]\n\n"
	delta := `data: {"choices":[{"delta":{"content":"word"}}]}` + "\n\n"
	for _, tc := range []struct {
		name, path, body, script, until string
		givesUp                         bool  // the client, once the provider has the call
		low, high                       int64 // tokens
		source, reason                  string
	}{
		{"control", chatPath, stream, script(sse, send(done)), "", false, 140, 140, "provider", ""},
		{"left at [DONE]", chatPath, stream, script(sse, send(done), "~0.4"), "[DONE]", false, 140, 140, "provider", ""},
		{"total alone", "/v1/embeddings", `{"model":"rawe","input":"hello"}`,
			script(json, send(`{"object":"list","data":[],"usage":{"total_tokens":9}}`)), "", false, 9, 9, "provider", ""},
		{"reasoning beside the output", chatPath, plain,
			script(json, send(`{"usage":{"prompt_tokens":100,"completion_tokens":10,"total_tokens":410}}`)), "", false, 410, 410, "provider", ""},
		{"above 2^31", chatPath, plain, script(json, send(`{"usage":{"prompt_tokens":3000000000,"completion_tokens":1}}`)), "", false,
			3_000_000_001, 3_000_000_001, "provider", ""},
		{"gives up, and the policy is hold", rawGemini, `{"contents":[{"parts":[{"text":"Hello"}]}],"generationConfig":{"maxOutputTokens":500}}`,
			script(silence, json, send("{}")), "", true, 500, 700, "held", "client_disconnected"},
		{"the provider goes, and the policy is hold", rawGemini, `{"contents":[],"generationConfig":{"maxOutputTokens":500}}`,
			script(rawprovider.Reset), "", false, 500, 700, "held", "provider_gone"},
		{"gives up, and the policy is nothing", "/v1/embeddings", `{"model":"rawe","input":"hello"}`, script(silence, json, send("{}")), "",
			true, 0, 0, "released", "client_disconnected"},
		{"told, whatever the policy", rawGemini, `{"contents":[]}`, script(sse, send(`data: {"usageMetadata":{"promptTokenCount":5,`+
			`"candidatesTokenCount":6}}`+"\n\n"), silence), "6}}", false, 11, 11, "provider", ""},
		{"refused, whatever the policy", rawGemini, `{"contents":[]}`, script(send("HTTP/1.1 429 No\r\ncontent-length: 2\r\n\r\n{}")), "", false, 0, 0,
			"released", "provider_status_429"},
		{"gives up before the answer", chatPath, plain, script(silence, json, send("{"+told+"}")), "", true, 1, 100,
			"estimated", "client_disconnected"},
		// At least a token for each event, and never more than was held: the other cases teach
		// the estimator that tokens take next to no bytes.
		{"leaves in the middle", chatPath, stream, script(sse, send(strings.Repeat(delta, 60)), silence), delta, false, 60, 700, "estimated",
			"client_disconnected"},
		{"provider gone", chatPath, plain, script(rawprovider.Reset), "", false, 1, 100, "estimated", "provider_gone"},
		{"provider refuses", chatPath, plain, script(send("HTTP/1.1 401 No\r\ncontent-length: 2\r\n\r\n{}")), "", false, 0, 0, "released",
			"provider_status_401"},
		{"error in a 200", chatPath, plain, script(json, send(`{"error":{"message":"overloaded"}}`)), "", false, 0, 0, "released", "provider_error"},
		{"error event", chatPath, stream, script(sse, send("data: {\"error\":{\"message\":\"overloaded\"}}\n\n")), "", false, 0, 0, "released",
			"provider_error"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			who := newAccount(t)
			if tc.givesUp {
				giveUpRaw(t, who, tc.path, tc.body, tc.script)
			} else {
				callRaw(t.Context(), t, who, tc.path, tc.body, tc.script, reading(tc.until))
			}
			provider := "raw"
			if tc.path == rawGemini {
				provider = "rawg"
			}
			row := onlyRow(t, who, provider)
			if row.Tokens < tc.low || row.Tokens > tc.high || row.Source != tc.source || row.Reason != tc.reason {
				t.Errorf("want %d to %d tokens, %s, %q, got %+v", tc.low, tc.high, tc.source, tc.reason, row)
			}
		})
	}
}

// giveUpRaw calls, and closes its connection once the provider has the call.
func giveUpRaw(t *testing.T, who stacktest.Account, path, body, script string) {
	t.Helper()
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	correlation, left := uuid.NewString(), make(chan struct{})
	go func() {
		defer close(left)
		callRaw(ctx, t, who, path, body, script, nil, "X-Correlation-Id", correlation)
	}()
	testenv.Eventually(t, "the call at the provider", func() bool { return len(delivered(correlation)) > 0 })
	leave()
	<-left
}

// onlyRow waits for the one call of an account on the books.
func onlyRow(t *testing.T, who stacktest.Account, provider string) usage {
	t.Helper()
	var all []usage
	testenv.Eventually(t, "the call on the books", func() bool {
		all = listed(t, who, provider)
		return len(all) == 1
	})
	return all[0]
}
