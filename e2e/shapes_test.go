package e2e

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/rawprovider"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/streams"
)

// broken begins a stream that never has all that it promises.
const broken = "HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\ncontent-type: text/event-stream\r\n\r\n"

// TestStreamsOfAllShapesThatEndEarly: the answers of one model come in many shapes, in any order. One
// that ends after 30 of 100 tokens, since the caller leaves or the provider breaks off, is charged within
// a tenth of what came, whatever its shape.
func TestStreamsOfAllShapesThatEndEarly(t *testing.T) {
	t.Parallel()
	const story = `"max_tokens":500,"stream":true,"messages":[{"role":"user","content":"Tell me a story."}]}`
	for _, c := range []struct {
		api                  streams.API
		provider, path, body string
	}{
		{streams.Chat, "raw", chatPath, `{"model":"shapes",` + story},
		{streams.Responses, "raw", "/v1/responses", `{"model":"shapes","stream":true,"max_output_tokens":500,"input":"Tell me a story."}`},
		{streams.Messages, "rawa", "/v1/messages", `{"model":"shapes-a",` + story},
		{streams.Gemini, "rawg", "/v1beta/models/shapes-g:streamGenerateContent?alt=sse",
			`{"contents":[{"parts":[{"text":"Tell me a story."}]}],"generationConfig":{"maxOutputTokens":500}}`},
	} {
		t.Run(string(c.api), func(t *testing.T) {
			t.Parallel()
			who, all, r := newAccount(t), streams.Shapes(), rand.New(rand.NewPCG(30, 100))
			var last rawAnswer
			for range 2 {
				for _, shape := range r.Perm(len(all)) {
					last = callRaw(t.Context(), t, who, c.path, c.body, rawprovider.Script(rawprovider.Send(rawprovider.SSE),
						rawprovider.Stream(c.api, shape, 40+r.IntN(160), 0)), nil)
				}
			}
			if row := booked(t, who, c.provider, last.request); row.Source != "provider" {
				t.Fatalf("want the provider's count of a whole stream, got %+v", row)
			}
			ids := make([]string, len(all))
			for shape, s := range all {
				before, _ := streams.Cut(streams.Of(c.api, s, 100), 30)
				length := len(strings.Join(streams.Texts(before), ""))
				head, end := rawprovider.SSE, []string{rawprovider.Wait(20 * time.Second)}
				if shape%2 == 0 {
					head, end = broken, nil
				}
				got := callRaw(t.Context(), t, who, c.path, c.body, rawprovider.Script(append([]string{rawprovider.Send(head),
					rawprovider.Stream(c.api, shape, 100, 30)}, end...)...), func(text string) bool { return shape%2 == 1 && len(text) >= length })
				if ids[shape] = got.request; len(got.text) != length {
					t.Errorf("%s: want %d bytes read, got %d: %v", s.Name, length, len(got.text), got.err)
				}
			}
			for shape, s := range all {
				_, came := streams.Cut(streams.Of(c.api, s, 100), 30)
				row := booked(t, who, c.provider, ids[shape])
				if off := float64(row.OutputTokens-int64(came)) / float64(came); row.Source != "estimated" || off < -0.1 || off > 0.1 {
					t.Errorf("%s: of %d tokens %d are charged, %.0f %% off", s.Name, came, row.OutputTokens, 100*off)
				}
			}
		})
	}
}
