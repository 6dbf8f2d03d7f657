package e2e

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/genai"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/stacktest"
)

// geminiClient is Google's SDK pointed at the gateway, for one version of its API; id collects the
// last answer's request id.
func geminiClient(t *testing.T, who stacktest.Account, version string, id *atomic.Value) *genai.Client {
	t.Helper()
	client, err := genai.NewClient(t.Context(), &genai.ClientConfig{APIKey: who.Key, Backend: genai.BackendGeminiAPI,
		HTTPOptions: genai.HTTPOptions{BaseURL: running.Gateway, APIVersion: version},
		HTTPClient: &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			res, err := http.DefaultTransport.RoundTrip(r)
			if res != nil {
				id.Store(res.Header.Get("X-Request-Id"))
			}
			return res, err
		})}})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// TestGeminiByBothVersions of its API: one embedding and many, counts, lists, and what is not there.
func TestGeminiByBothVersions(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"v1", "v1beta"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			who := newAccount(t)
			var id atomic.Value
			client := geminiClient(t, who, version, &id)
			got, err := client.Models.EmbedContent(t.Context(), "gemini-embedding-001", append(genai.Text("one leak"), genai.Text("two leaks")...), nil)
			if err != nil || len(got.Embeddings) != 2 || len(got.Embeddings[0].Values) == 0 {
				t.Fatalf("want two vectors, got %v, %+v", err, got)
			}
			if row := booked(t, who, "gemini", id.Load().(string)); row.InputTokens != 5 || row.OutputTokens != 0 || row.Source != "provider" {
				t.Errorf("want 5 tokens of input, got %+v", row)
			}
			counted, err := client.Models.CountTokens(t.Context(), "gemini-2.5-flash", genai.Text("12345678"), nil)
			if err != nil || counted.TotalTokens != 2 {
				t.Errorf("want 2 tokens, got %v, %+v", err, counted)
			}
			names := map[string]bool{}
			for model, err := range client.Models.All(t.Context()) {
				if err != nil {
					t.Fatal(err)
				}
				names[model.Name] = true
			}
			if !names["models/gemini-2.5-flash"] || !names["models/gemini-embedding-001"] || names["models/gpt-4o"] {
				t.Errorf("want the models of the protocol, got %v", names)
			}
			if model, err := client.Models.Get(t.Context(), "gemini-2.5-flash", nil); err != nil || model.Name != "models/gemini-2.5-flash" {
				t.Errorf("want the model, got %v, %+v", err, model)
			}
			_, err = client.Models.GenerateContent(t.Context(), "gemini-nope", genai.Text("x"), nil)
			if refused, ok := errors.AsType[genai.APIError](err); !ok || refused.Code != 404 || refused.Status != "NOT_FOUND" || !strings.Contains(refused.Message, "model") {
				t.Errorf("want NOT_FOUND about a model, got %v", err)
			}
		})
	}
}

// TestGeminiStreamAsAList of JSON, to its end and given up in the middle.
func TestGeminiStreamAsAList(t *testing.T) {
	t.Parallel()
	who := newAccount(t)
	const path = "/v1beta/models/gemini-2.5-flash:streamGenerateContent"
	status, header, text := send(t, path, `{"contents":[{"parts":[{"text":"Hello [[tokens=31]]"}]}]}`, map[string]string{"x-goog-api-key": who.Key})
	if status != 200 || text[0] != '[' {
		t.Fatalf("want a list, got %d %.80s", status, text)
	}
	wantRow(t, who, "gemini", header, 5, 31)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, running.Gateway+path,
		strings.NewReader(`{"contents":[{"parts":[{"text":"Hello [[tokens=300]]"}]}]}`))
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{"Content-Type": "application/json", "X-Goog-Api-Key": who.Key, "X-Stub-Stall-After-Chunks": "30"} {
		req.Header.Set(name, value)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	for read := ""; strings.Count(read, "candidatesTokenCount") < 30; {
		piece := make([]byte, 1<<10)
		n, err := res.Body.Read(piece)
		if read += string(piece[:n]); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
	}
	res.Body.Close()
	// Each piece tells the usage so far.
	if row := booked(t, who, "gemini", res.Header.Get("X-Request-Id")); row.OutputTokens < 30 || row.OutputTokens > 60 {
		t.Errorf("want about 30 tokens of output, got %+v", row)
	}
}
