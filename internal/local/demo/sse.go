package demo

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/leaky-tokens/leaky-tokens/internal/local/demo/judge"
)

// maxEvent is the longest SSE line taken, in bytes.
const maxEvent = 1 << 20

var errNoUsage = errors.New("the answer tells no usage")

// parseUsage reads the token counts of a JSON answer or of one SSE event.
func parseUsage(text []byte, p judge.Protocol) (input, output int64, err error) {
	var answer struct {
		OpenAI *struct {
			Input  int64 `json:"prompt_tokens"`
			Output int64 `json:"completion_tokens"`
		} `json:"usage"`
		Gemini *struct {
			Input    int64 `json:"promptTokenCount"`
			Output   int64 `json:"candidatesTokenCount"`
			Thoughts int64 `json:"thoughtsTokenCount"`
		} `json:"usageMetadata"`
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return -1, -1, fmt.Errorf("parse answer: %w", err)
	}
	switch {
	case p == judge.ProtocolGemini && answer.Gemini != nil:
		return answer.Gemini.Input, answer.Gemini.Output + answer.Gemini.Thoughts, nil
	case p == judge.ProtocolOpenAI && answer.OpenAI != nil:
		return answer.OpenAI.Input, answer.OpenAI.Output, nil
	}
	return -1, -1, errNoUsage
}

// sse reads a stream event by event and parses only those that matter.
type sse struct {
	lines    *bufio.Scanner
	protocol judge.Protocol
	input    int64 // -1 until told
	output   int64 // -1 until told
	complete bool  // the protocol's end was seen
}

func newSSE(r io.Reader, p judge.Protocol) *sse {
	s := &sse{lines: bufio.NewScanner(r), protocol: p, input: -1, output: -1}
	s.lines.Buffer(make([]byte, 0, 4<<10), maxEvent)
	return s
}

// next reads one event; io.EOF at the end of the body.
func (s *sse) next() error {
	for s.lines.Scan() {
		data, ok := bytes.CutPrefix(s.lines.Bytes(), []byte("data:"))
		if !ok {
			continue
		}
		return s.event(bytes.TrimSpace(data))
	}
	if err := s.lines.Err(); err != nil {
		return err
	}
	return io.EOF
}

func (s *sse) event(data []byte) error {
	usage := []byte(`"usage"`)
	if s.protocol == judge.ProtocolGemini {
		usage = []byte(`"usageMetadata"`)
		s.complete = s.complete || bytes.Contains(data, []byte(`"finishReason"`))
	} else if bytes.Equal(data, []byte("[DONE]")) {
		s.complete = true
		return nil
	}
	if !bytes.Contains(data, usage) {
		return nil
	}
	input, output, err := parseUsage(data, s.protocol)
	if errors.Is(err, errNoUsage) {
		return nil // "usage": null, as every chunk but the last says
	}
	if err != nil {
		return err
	}
	s.input, s.output = input, output
	return nil
}
