package e2e

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/rawprovider"
)

// TestProviderFaultsAreSettled lets the provider misbehave: the client sees what wire
// terms promise, and the hold is settled once, by the provider's count, an estimate, or nothing.
func TestProviderFaultsAreSettled(t *testing.T) {
	t.Parallel()
	const body = `{"model":"gpt-4o-mini","max_tokens":200,"messages":[{"role":"user","content":"[[tokens=60]] how are you?"}]}`
	const stream = `{"model":"gpt-4o-mini","stream":true,"max_tokens":200,"messages":[{"role":"user","content":"[[tokens=60]] how are you?"}]}`
	for _, tc := range []struct {
		name, body, header, value string
		status                    int // 0: the answer may be cut
		source                    string
	}{
		{"usage omitted", body, "x-stub-omit-usage", "true", 200, "estimated"},
		{"usage omitted in a stream", stream, "x-stub-omit-usage", "true", 200, "estimated"},
		{"stream cut", stream, "x-stub-truncate-after-chunks", "20", 0, "estimated"},
		{"answers 500", body, "x-stub-status", "500", 500, "released"},
		{"answers 429", body, "x-stub-status", "429", 429, "released"},
		{"broken JSON", body, "x-stub-broken-json", "true", 200, "estimated"},
		{"ignores max_tokens", strings.Replace(body, "200", "7", 1), "x-stub-ignore-max-tokens", "true", 200, "provider"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			who := newAccount(t)
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, running.Gateway+"/v1/chat/completions", strings.NewReader(tc.body))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", "application/json")
			req.Header.Set("Authorization", "Bearer "+who.Key)
			req.Header.Set(tc.header, tc.value)
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			_, _ = io.Copy(io.Discard, res.Body) // a cut answer ends in an error, as it should
			if tc.status != 0 && res.StatusCode != tc.status {
				t.Fatalf("want %d, got %d", tc.status, res.StatusCode)
			}
			row := booked(t, who, "openai", res.Header.Get("X-Request-Id"))
			if row.Source != tc.source {
				t.Fatalf("want %s, got %+v", tc.source, row)
			}
			switch tc.source {
			case "released":
				if row.Tokens != 0 {
					t.Fatalf("nothing was served and %d tokens are charged", row.Tokens)
				}
			case "estimated":
				if row.Tokens <= 0 || row.Tokens > 200+int64(len(tc.body)) {
					t.Fatalf("an estimate must lie between nothing and the hold, got %+v", row)
				}
			case "provider":
				if row.OutputTokens != 60 {
					t.Fatalf("what the provider served is charged, also above the hold: want 60, got %+v", row)
				}
			}
		})
	}
}

func TestHangingProviderAndClientThatGivesUp(t *testing.T) {
	t.Parallel()
	who := newAccount(t)
	giveUpRaw(t, who, chatPath, strings.Replace(okBody, "gpt-4o-mini", "raw1", 1), rawprovider.Wait(20*time.Second))
	if row := onlyRow(t, who, "raw"); row.Source != "estimated" || row.InputTokens <= 0 || row.OutputTokens != 0 {
		t.Errorf("want the call's input on the books, got %+v", row)
	}
}
