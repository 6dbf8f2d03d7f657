package stubs

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/google/uuid"
)

// defaultCompletion is max_tokens of a legacy completion that states none.
const defaultCompletion = 16

// completions answers POST /v1/completions, OpenAI's API before chats: each prompt gets n answers,
// of the best of best_of, all of which are billed.
func (s *Server) completions(c *call) error {
	m, bad := object(c.body)
	if bad != nil {
		return bad
	}
	p, bad := s.planCompletion(c, m)
	if bad != nil {
		return bad
	}
	stream, bad := m.flag("stream")
	if bad != nil {
		return bad
	}
	c.serves(p, stream)
	c.got.NoUsage = c.faults.OmitUsage || stream && !p.usage
	if c.gone() {
		return errGone
	}
	head := fmt.Sprintf(`{"id":"cmpl-%s","object":"text_completion","created":%d,"model":%s,"choices":[`,
		strings.ReplaceAll(uuid.NewString(), "-", ""), unixNow(), quoted(p.model))
	if stream {
		return streamCompletion(c, p, head)
	}
	b := []byte(head)
	for i := range p.n {
		if i > 0 {
			b = append(b, ',')
		}
		b = fmt.Appendf(b, `{"text":"%s","index":%d,"logprobs":null,"finish_reason":"%s"}`, p.text, i, p.finish())
	}
	b = append(b, ']')
	if !c.faults.OmitUsage {
		b = appendUsage(append(b, ','), p)
	}
	return c.whole(append(b, '}'))
}

func (s *Server) planCompletion(c *call, m members) (*plan, *apiError) {
	p := &plan{n: 1}
	w := wish{print: newFingerprint(), limit: defaultCompletion}
	var err *apiError
	if p.model, err = s.model(m); err != nil {
		return nil, err
	}
	prompts := []string{"<|endoftext|>"}
	if m.has("prompt") {
		if prompts, err = completionPrompts(m["prompt"]); err != nil {
			return nil, err
		}
	}
	for _, prompt := range prompts {
		p.input += countTokens(prompt)
		w.read(prompt)
	}
	n, stated, err := m.integer("n", 1, 128)
	if err != nil {
		return nil, err
	}
	if stated {
		p.n = n
	}
	best, stated, err := m.integer("best_of", 1, 20)
	if err != nil {
		return nil, err
	}
	if stated && best < p.n {
		return nil, invalid("best_of", "", "You requested that the server return more choices than it will generate (HINT: you must set 'n' (currently %d) to be at most 'best_of' (currently %d))", p.n, best)
	}
	p.n = max(p.n, best) * len(prompts)
	if limit, stated, err := m.integer("max_tokens", 1, maxLimit); err != nil {
		return nil, err
	} else if stated {
		w.limit = limit
	}
	options, err := m.object("stream_options")
	if err != nil {
		return nil, err
	}
	if p.usage, err = options.flag("include_usage"); err != nil {
		return nil, err
	}
	p.fill(w, &c.faults)
	return p, nil
}

// completionPrompts reads a text, texts, a list of tokens or lists of them.
func completionPrompts(raw json.RawMessage) ([]string, *apiError) {
	if raw[0] == '"' { // unlike an embedding's input it may be empty
		var one string
		_ = json.Unmarshal(raw, &one)
		return []string{one}, nil
	}
	prompts, bad := embeddingInputs(members{"input": raw})
	if bad != nil {
		return nil, invalid("prompt", "invalid_type", "Invalid type for 'prompt': expected a string, an array of strings, of tokens, or of token arrays")
	}
	return prompts, nil
}

// streamCompletion writes the choices in pieces, taking turns.
func streamCompletion(c *call, p *plan, head string) error {
	if !c.start("text/event-stream; charset=utf-8") {
		return errGone
	}
	tail := "]}\n\n"
	if p.usage && !c.faults.OmitUsage {
		tail = "],\"usage\":null}\n\n"
	}
	size := c.faults.TokensPerChunk * bytesPerToken
	for at := 0; at == 0 || at < len(p.text); at += size {
		if at > 0 && !c.pause() {
			return errGone
		}
		end := min(at+size, len(p.text))
		finish := "null"
		if end == len(p.text) {
			finish = quoted(p.finish())
		}
		for i := range p.n {
			b := fmt.Appendf(nil, `data: %s{"text":"%s","index":%d,"logprobs":null,"finish_reason":%s}%s`, head, p.text[at:end], i, finish, tail)
			if !c.chunk(b, countTokens(p.text[at:end])) || !c.passed() {
				return errGone
			}
		}
	}
	if p.usage && !c.faults.OmitUsage {
		b := append(appendUsage([]byte("data: "+head+"],"), p), "}\n\n"...)
		if !c.chunk(b, 0) {
			return errGone
		}
	}
	if !c.chunk([]byte("data: [DONE]\n\n"), 0) {
		return errGone
	}
	return nil
}

// moderations answers POST /v1/moderations, for which nothing is billed.
func (s *Server) moderations(c *call) error {
	m, bad := object(c.body)
	if bad != nil {
		return bad
	}
	model := "omni-moderation-latest"
	if m.has("model") {
		if model, bad = s.model(m); bad != nil {
			return bad
		}
	}
	if !m.has("input") {
		return invalid("input", "missing_required_parameter", "Missing required parameter: 'input'.")
	}
	inputs := 1
	var list []json.RawMessage
	if json.Unmarshal(m["input"], &list) == nil && len(list) > 0 && list[0][0] == '"' {
		inputs = len(list) // a list of parts is one input
	}
	c.got.Model, c.got.NoUsage = model, true
	b := fmt.Appendf(nil, `{"id":"modr-%s","model":%s,"results":[`, strings.ReplaceAll(uuid.NewString(), "-", ""), quoted(model))
	for i := range inputs {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"flagged":false,"categories":{"harassment":false,"hate":false,"violence":false},`+
			`"category_scores":{"harassment":0.0001,"hate":0.0001,"violence":0.0001},"category_applied_input_types":{}}`...)
	}
	return c.whole(append(b, "]}"...))
}
