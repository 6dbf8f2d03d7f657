package stubs

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/google/uuid"
)

// geminiCall answers POST /v1beta/models/{model}:{method}.
func (s *Server) geminiCall(c *call) error {
	name := c.r.PathValue("call")
	at := strings.LastIndexByte(name, ':')
	if at < 0 {
		return s.noSuchPath(c)
	}
	model, method := name[:at], name[at+1:]
	var answer func(c *call, model string) error
	switch method {
	case "generateContent":
		answer = func(c *call, model string) error { return s.generate(c, model, false) }
	case "streamGenerateContent":
		answer = func(c *call, model string) error { return s.generate(c, model, true) }
	case "countTokens":
		answer = s.geminiCount
	case "embedContent":
		answer = s.geminiEmbed
	case "batchEmbedContents":
		answer = s.geminiEmbedBatch
	default:
		return s.noSuchPath(c)
	}
	if !s.knows(model) {
		return &apiError{status: http.StatusNotFound, message: fmt.Sprintf("models/%s is not found for API version v1beta, or is not supported for %s.", model, method)}
	}
	return answer(c, model)
}

// generate answers :generateContent and :streamGenerateContent (SSE with ?alt=sse, else a JSON array
// that grows).
func (s *Server) generate(c *call, model string, stream bool) error {
	p, bad := planGemini(c, model)
	if bad != nil {
		return bad
	}
	c.serves(p, stream)
	if c.gone() {
		return errGone
	}
	g := &geminiAnswer{c: c, p: p, id: uuid.NewString()[:22]}
	if stream {
		return g.stream()
	}
	b := []byte(`{"candidates":[`)
	for i := range p.n {
		if i > 0 {
			b = append(b, ',')
		}
		b = g.appendCandidate(b, i, g.parts(), true)
	}
	return c.whole(g.appendEnd(append(b, ']'), p.n*p.thoughts, p.n*p.length))
}

func planGemini(c *call, model string) (*plan, *apiError) {
	m, bad := object(c.body)
	if bad != nil {
		return nil, invalid("", "", "Invalid JSON payload received.")
	}
	p := &plan{model: model, n: 1}
	w := wish{print: newFingerprint()}
	if !m.has("contents") {
		return nil, invalid("contents", "", "* GenerateContentRequest.contents: contents is not specified")
	}
	for _, field := range []string{"contents", "systemInstruction", "system_instruction"} {
		texts, ok := geminiTexts(m[field])
		if !ok {
			return nil, invalid(field, "", "Invalid JSON payload received. Invalid value at '%s'", field)
		}
		for _, text := range texts {
			p.input += countTokens(text)
			w.read(text)
		}
	}
	generation, bad := m.firstObject("generationConfig", "generation_config")
	if bad != nil {
		return nil, bad
	}
	limit, stated, bad := generation.firstInteger(1, maxLimit, "maxOutputTokens", "max_output_tokens")
	if bad != nil {
		return nil, bad
	}
	if stated {
		w.limit = limit
	}
	if n, stated, bad := generation.firstInteger(1, 8, "candidateCount", "candidate_count"); bad != nil {
		return nil, bad
	} else if stated {
		p.n = n
	}
	if w.json, bad = geminiForm(generation, w.print); bad != nil {
		return nil, bad
	}
	if p.tools, bad = geminiTools(m); bad != nil {
		return nil, bad
	}
	thinking, bad := generation.firstObject("thinkingConfig", "thinking_config")
	if bad != nil {
		return nil, bad
	}
	if budget, stated, bad := thinking.firstInteger(-1, maxLimit, "thinkingBudget", "thinking_budget"); bad != nil {
		return nil, bad
	} else if stated {
		w.thinking = budget != 0
	}
	if m.has("cachedContent") {
		p.cached = p.input / 2
	}
	p.fill(w, &c.faults)
	return p, nil
}

// geminiForm is the answer of the form that the options ask for; empty for a text.
func geminiForm(generation members, print fingerprint) (string, *apiError) {
	for _, name := range []string{"responseJsonSchema", "response_json_schema", "responseSchema", "response_schema"} {
		if generation.has(name) {
			return structured(generation[name], print, name)
		}
	}
	for _, name := range []string{"responseMimeType", "response_mime_type"} {
		if kind, bad := generation.text(name); bad != nil || kind == "application/json" {
			text, _ := structured(nil, print, name)
			return text, bad
		}
	}
	return "", nil
}

// geminiTexts gives the texts of one content or of an array of them.
func geminiTexts(raw json.RawMessage) ([]string, bool) {
	if len(raw) == 0 || string(raw) == "null" {
		return nil, true
	}
	type content struct {
		Parts []struct {
			Text string `json:"text"`
		} `json:"parts"`
	}
	var contents []content
	if raw[0] == '[' {
		if json.Unmarshal(raw, &contents) != nil {
			return nil, false
		}
	} else {
		contents = make([]content, 1)
		if json.Unmarshal(raw, &contents[0]) != nil {
			return nil, false
		}
	}
	var texts []string
	for _, one := range contents {
		for _, part := range one.Parts {
			texts = append(texts, part.Text)
		}
	}
	return texts, true
}

// geminiAnswer writes GenerateContentResponse messages.
type geminiAnswer struct {
	c   *call
	p   *plan
	id  string
	buf []byte
}

// parts are those of a whole answer: a text, or the functions' calls.
func (g *geminiAnswer) parts() string {
	if g.p.calls == nil {
		return geminiText(g.p.text)
	}
	all := make([]string, len(g.p.calls))
	for i, one := range g.p.calls {
		all[i] = geminiCall(one)
	}
	return strings.Join(all, ",")
}

func geminiText(text string) string { return `{"text":` + quoted(text) + `}` }

func geminiCall(v invocation) string {
	return `{"functionCall":{"name":` + quoted(v.name) + `,"args":` + v.object() + `}}`
}

// geminiPiece is what one message of a stream has: a piece of the text, or a call, which is told whole.
type geminiPiece struct {
	part   string
	tokens int
}

func (g *geminiAnswer) pieces() (all []geminiPiece) {
	for _, one := range g.p.calls {
		all = append(all, geminiPiece{geminiCall(one), countTokens(one.arguments)})
	}
	if all != nil {
		return all
	}
	size := g.c.faults.TokensPerChunk * bytesPerToken
	for at := 0; at == 0 || at < len(g.p.text); at += size {
		piece := g.p.text[at:min(at+size, len(g.p.text))]
		all = append(all, geminiPiece{geminiText(piece), countTokens(piece)})
	}
	return all
}

func (g *geminiAnswer) appendCandidate(b []byte, index int, parts string, last bool) []byte {
	b = append(append(b, `{"content":{"parts":[`...), parts...)
	b = append(b, `],"role":"model"}`...)
	if last {
		reason := "STOP"
		if g.p.cut {
			reason = "MAX_TOKENS"
		}
		b = append(b, `,"finishReason":"`+reason+`"`...)
	}
	return fmt.Appendf(b, `,"index":%d}`, index)
}

// appendEnd closes a message with the usage so far. The total is prompt + candidates + thoughts.
func (g *geminiAnswer) appendEnd(b []byte, thoughts, candidates int) []byte {
	if !g.c.faults.OmitUsage {
		b = fmt.Appendf(b, `,"usageMetadata":{"promptTokenCount":%d,"candidatesTokenCount":%d,"totalTokenCount":%d`,
			g.p.input, candidates, g.p.input+candidates+thoughts)
		if g.p.cached > 0 {
			b = fmt.Appendf(b, `,"cachedContentTokenCount":%d`, g.p.cached)
		}
		b = fmt.Appendf(b, `,"promptTokensDetails":[{"modality":"TEXT","tokenCount":%d}]`, g.p.input)
		if thoughts > 0 {
			b = fmt.Appendf(b, `,"thoughtsTokenCount":%d`, thoughts)
		}
		b = append(b, '}')
	}
	return append(append(b, `,"modelVersion":`+quoted(g.p.model)+`,"responseId":"`+g.id+`"`...), '}')
}

// stream writes one message per piece, candidates taking turns; every message carries the
// usage so far and the last one the totals, as the real service does.
func (g *geminiAnswer) stream() error {
	c, p := g.c, g.p
	sse := c.r.URL.Query().Get("alt") == "sse"
	before, between, after, label := "data: ", "data: ", "\r\n\r\n", "text/event-stream"
	if !sse {
		before, between, after, label = "[", ",\r\n", "", "application/json; charset=UTF-8"
	}
	if !c.start(label) {
		return errGone
	}
	pieces := g.pieces()
	written, thoughts := 0, 0
	for at, piece := range pieces {
		if at > 0 && !c.pause() {
			return errGone
		}
		for i := range p.n {
			tokens := piece.tokens
			if at == 0 {
				tokens += p.thoughts
				thoughts += p.thoughts
			}
			written += piece.tokens
			b := append(append(g.buf[:0], before...), `{"candidates":[`...)
			b = append(g.appendCandidate(b, i, piece.part, at == len(pieces)-1), ']')
			g.buf = append(g.appendEnd(b, thoughts, written), after...)
			before = between
			if !c.chunk(g.buf, tokens) || !c.passed() {
				return errGone
			}
			if c.faults.BrokenJSON && c.pieces == 1 {
				c.chunk([]byte(before+"{\"candidates\":"+after), 0)
			}
		}
	}
	if !sse && !c.chunk([]byte("]"), 0) {
		return errGone
	}
	return nil
}
