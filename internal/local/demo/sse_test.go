package demo

import (
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/local/demo/judge"
)

func TestSSE(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		protocol      judge.Protocol
		body          string
		events        int
		input, output int64
		complete      bool
	}{
		"openai":                  {judge.ProtocolOpenAI, "data: {\"choices\":[{}],\"usage\":null}\n\ndata: {\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4}}\n\ndata: [DONE]\n\n", 3, 3, 4, true},
		"openai without usage":    {judge.ProtocolOpenAI, "data: {\"choices\":[{}]}\n\ndata: [DONE]\n\n", 2, -1, -1, true},
		"openai cut":              {judge.ProtocolOpenAI, "data: {\"choices\":[{}]}\n\n", 1, -1, -1, false},
		"comments and CRLF":       {judge.ProtocolOpenAI, ": hello\r\n\r\ndata:[DONE]\r\n\r\n", 1, -1, -1, true},
		"gemini counts thoughts":  {judge.ProtocolGemini, "data: {\"candidates\":[{\"finishReason\":\"STOP\"}],\"usageMetadata\":{\"promptTokenCount\":3,\"candidatesTokenCount\":4,\"thoughtsTokenCount\":5}}\n\n", 1, 3, 9, true},
		"gemini tells as it goes": {judge.ProtocolGemini, "data: {\"usageMetadata\":{\"promptTokenCount\":3}}\n\ndata: {\"usageMetadata\":{\"promptTokenCount\":3,\"candidatesTokenCount\":4}}\n\n", 2, 3, 4, false},
		"nothing":                 {judge.ProtocolGemini, "", 0, -1, -1, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSSE(strings.NewReader(test.body), test.protocol)
			events := 0
			for ; ; events++ {
				if err := s.next(); errors.Is(err, io.EOF) {
					break
				} else if err != nil {
					t.Fatal(err)
				}
			}
			if events != test.events || s.input != test.input || s.output != test.output || s.complete != test.complete {
				t.Errorf("want %d events, %d + %d tokens, complete %v; got %d, %d + %d, %v", test.events, test.input, test.output, test.complete,
					events, s.input, s.output, s.complete)
			}
		})
	}
}

// Whatever a gateway answers, reading it ends, and tokens are only ever told or -1.
func FuzzSSE(f *testing.F) {
	f.Add([]byte("data: {\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4}}\n\ndata: [DONE]\n\n"), true)
	f.Add([]byte("data: {\"usageMetadata\":{\"promptTokenCount\":3}}\n"), false)
	f.Add([]byte("data: {\"usage\": 1e99}\r\n\ndata:\n:"), true)
	f.Fuzz(func(t *testing.T, body []byte, openai bool) {
		p := judge.ProtocolGemini
		if openai {
			p = judge.ProtocolOpenAI
		}
		s := newSSE(strings.NewReader(string(body)), p)
		for range len(body) + 2 {
			if err := s.next(); err != nil {
				return
			}
		}
		t.Fatal("reading did not end")
	})
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		header map[string][]string
		want   string
	}{
		"milliseconds win":  {map[string][]string{"Retry-After-Ms": {"120"}, "Retry-After": {"1"}}, "120ms"},
		"seconds":           {map[string][]string{"Retry-After": {"2"}}, "2s"},
		"never fits":        {map[string][]string{"X-Should-Retry": {"false"}, "Retry-After-Ms": {"120"}}, "-1ns"},
		"nothing is said":   {nil, "250ms"},
		"nonsense":          {map[string][]string{"Retry-After-Ms": {"-5"}, "Retry-After": {"soon"}}, "250ms"},
		"beyond all bounds": {map[string][]string{"Retry-After-Ms": {"1e300"}}, "277h46m40s"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := retryAfter(test.header).String(); got != test.want {
				t.Errorf("want %s, got %s", test.want, got)
			}
		})
	}
}
