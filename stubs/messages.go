package stubs

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/errorbody"
)

// What Anthropic bills beside the texts: the instructions about tools, and a picture.
const (
	toolInstructions = 346
	claudePicture    = 1600
)

// anthropicError writes {"type":"error","error":{type,message},"request_id"}.
func anthropicError(w http.ResponseWriter, e *apiError) {
	message := e.message
	if e.param != "" {
		message = e.param + ": " + message
	}
	writeError(w, e.status, map[string]any{"type": "error", "request_id": w.Header().Get("X-Request-Id"),
		"error": map[string]string{"type": errorbody.AnthropicType(e.status), "message": message}})
}

// messagePlan is a plan with what Anthropic tells apart: of the input, what was read from the cache
// and written to it.
type messagePlan struct {
	*plan
	read, written, hour int // hour is of written
}

// messages answers POST /v1/messages.
func (s *Server) messages(c *call) error {
	m, bad := object(c.body)
	if bad != nil {
		return bad
	}
	p, w, bad := s.planMessages(m)
	if bad != nil {
		return bad
	}
	limit, stated, bad := m.integer("max_tokens", 1, maxLimit)
	if bad != nil {
		return bad
	}
	if !stated {
		return invalid("max_tokens", "", "Field required")
	}
	w.limit = limit
	stream, bad := m.flag("stream")
	if bad != nil {
		return bad
	}
	if p.tools, bad = flatTools(m); bad != nil {
		return bad
	}
	output, bad := m.object("output_config")
	if bad != nil {
		return bad
	}
	if w.json, bad = output.form(w.print, "format"); bad != nil {
		return bad
	}
	thinking, bad := m.object("thinking")
	if bad != nil {
		return bad
	}
	if budget, _, bad := thinking.integer("budget_tokens", 1024, maxLimit); bad != nil {
		return bad
	} else if budget > 0 {
		if budget >= limit {
			return invalid("max_tokens", "", "`max_tokens` must be greater than `thinking.budget_tokens`")
		}
		w.thinking = true
	}
	p.fill(w, &c.faults)
	c.serves(p.plan, stream)
	c.got.Kinds = Kinds{CacheRead: p.read, CacheWrite5m: p.written - p.hour, CacheWrite1h: p.hour}
	if c.gone() {
		return errGone
	}
	a := &messageAnswer{c: c, p: p, id: "msg_" + strings.ReplaceAll(uuid.NewString(), "-", "")[:24]}
	if stream {
		return a.stream()
	}
	return c.whole([]byte(a.message(a.blocks(), quoted(a.reason()), p.output())))
}

// countMessageTokens answers POST /v1/messages/count_tokens, for which nothing is billed.
func (s *Server) countMessageTokens(c *call) error {
	m, bad := object(c.body)
	if bad != nil {
		return bad
	}
	p, _, bad := s.planMessages(m)
	if bad != nil {
		return bad
	}
	c.got.Model, c.got.NoUsage = p.model, true
	return c.whole(fmt.Appendf(nil, `{"input_tokens":%d}`, p.input))
}

// planMessages counts the input. A request that marks something for the cache finds a quarter of
// its input there, and writes half of it.
func (s *Server) planMessages(m members) (messagePlan, wish, *apiError) {
	p := messagePlan{plan: &plan{n: 1}}
	w := wish{print: newFingerprint()}
	var err *apiError
	if p.model, err = s.model(m); err != nil {
		return p, w, err
	}
	if m.has("system") {
		texts, ok := contentTexts(m["system"])
		if !ok {
			return p, w, invalid("system", "", "Input should be a valid string or list of blocks")
		}
		for _, text := range texts {
			p.input += countTokens(text)
		}
	}
	if err = p.readMessages(m, &w); err != nil {
		return p, w, err
	}
	p.input += bytes.Count(m["messages"], []byte(`"type":"image"`)) * claudePicture
	if m.has("tools") && !bytes.Equal(bytes.TrimSpace(m["tools"]), []byte("[]")) {
		p.input += toolInstructions
		var tools []struct {
			Name        string          `json:"name"`
			Description string          `json:"description"`
			Schema      json.RawMessage `json:"input_schema"`
		}
		if json.Unmarshal(m["tools"], &tools) != nil {
			return p, w, invalid("tools", "", "Input should be a valid list")
		}
		for _, t := range tools {
			p.input += countTokens(t.Name + t.Description + string(t.Schema))
		}
	}
	whole := bytes.Join([][]byte{m["system"], m["messages"], m["tools"]}, nil)
	if bytes.Contains(whole, []byte(`"cache_control":{`)) {
		p.read, p.written = p.input/4, p.input/2
		if bytes.Contains(whole, []byte(`"ttl":"1h"`)) {
			p.hour = p.written
		}
	}
	return p, w, nil
}

// messageAnswer writes one message, whole or as events.
type messageAnswer struct {
	c  *call
	p  messagePlan
	id string
}

func (a *messageAnswer) reason() string {
	switch {
	case a.p.cut:
		return "max_tokens"
	case a.p.tools != nil:
		return "tool_use"
	}
	return "end_turn"
}

func (a *messageAnswer) usage(output int) string {
	if a.c.faults.OmitUsage {
		return `{}`
	}
	p := a.p
	return fmt.Sprintf(`{"input_tokens":%d,"cache_creation_input_tokens":%d,"cache_read_input_tokens":%d,`+
		`"cache_creation":{"ephemeral_5m_input_tokens":%d,"ephemeral_1h_input_tokens":%d},"output_tokens":%d,"service_tier":"standard"}`,
		p.input-p.read-p.written, p.written, p.read, p.written-p.hour, p.hour, output)
}

// message is the object of the message; reason is JSON.
func (a *messageAnswer) message(blocks, reason string, output int) string {
	return fmt.Sprintf(`{"id":"%s","type":"message","role":"assistant","model":%s,"content":[%s],"stop_reason":%s,"stop_sequence":null,"usage":%s}`,
		a.id, quoted(a.p.model), blocks, reason, a.usage(output))
}

func textBlock(text string) string { return `{"type":"text","text":` + quoted(text) + `}` }

// toolBlock is one function's call.
func (a *messageAnswer) toolBlock(i int, input string) string {
	return fmt.Sprintf(`{"type":"tool_use","id":"toolu_%s%d","name":%s,"input":%s}`, a.id, i, quoted(a.p.calls[i].name), input)
}

func (a *messageAnswer) blocks() string {
	var all []string
	if a.p.thoughts > 0 {
		all = append(all, `{"type":"thinking","thinking":"so","signature":"c2ln"}`)
	}
	for i, one := range a.p.calls {
		all = append(all, a.toolBlock(i, one.object()))
	}
	if a.p.calls == nil {
		all = append(all, textBlock(a.p.text))
	}
	return strings.Join(all, ",")
}

func (a *messageAnswer) event(kind, members string, tokens int) bool {
	return a.c.chunk(fmt.Appendf(nil, "event: %s\ndata: {\"type\":\"%s\"%s}\n\n", kind, kind, members), tokens)
}

// stream writes the events in Anthropic's order (docs.anthropic.com/en/docs/build-with-claude/streaming).
func (a *messageAnswer) stream() error {
	if !a.c.start("text/event-stream; charset=utf-8") || !a.event("message_start", `,"message":`+a.message("", "null", 1), 0) {
		return errGone
	}
	index := 0
	if a.p.thoughts > 0 {
		if !a.event("content_block_start", `,"index":0,"content_block":{"type":"thinking","thinking":"","signature":""}`, 0) ||
			!a.event("content_block_delta", `,"index":0,"delta":{"type":"thinking_delta","thinking":"so"}`, a.p.thoughts) ||
			!a.event("content_block_delta", `,"index":0,"delta":{"type":"signature_delta","signature":"c2ln"}`, 0) ||
			!a.event("content_block_stop", `,"index":0`, 0) {
			return errGone
		}
		index = 1
	}
	if !a.content(index) {
		return errGone
	}
	usage := ""
	if !a.c.faults.OmitUsage {
		usage = fmt.Sprintf(`,"usage":{"output_tokens":%d}`, a.p.output())
	}
	if !a.event("message_delta", `,"delta":{"stop_reason":`+quoted(a.reason())+`,"stop_sequence":null}`+usage, 0) ||
		!a.event("message_stop", "", 0) {
		return errGone
	}
	return nil
}

// content writes the events of the blocks after the thinking: the text, or each function's call.
func (a *messageAnswer) content(index int) bool {
	for i, one := range a.p.calls {
		if !a.oneBlock(index+i, a.toolBlock(i, "{}"), "input_json_delta", "partial_json", one.arguments) {
			return false
		}
	}
	return a.p.calls != nil || a.oneBlock(index, textBlock(""), "text_delta", "text", a.p.text)
}

// oneBlock writes the events of one block, as it begins and with its text in pieces.
func (a *messageAnswer) oneBlock(index int, block, kind, member, text string) bool {
	return a.event("content_block_start", fmt.Sprintf(`,"index":%d,"content_block":%s`, index, block), 0) && a.event("ping", "", 0) &&
		a.c.pieceByPiece(text, func(piece string) bool {
			delta := fmt.Sprintf(`,"index":%d,"delta":{"type":"%s","%s":%s}`, index, kind, member, quoted(piece))
			return a.event("content_block_delta", delta, countTokens(piece)) && a.c.passed()
		}) &&
		a.event("content_block_stop", fmt.Sprintf(`,"index":%d`, index), 0)
}
