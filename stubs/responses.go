package stubs

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/google/uuid"
)

// responses answers POST /v1/responses. It remembers nothing, so what names an earlier response is
// refused as one that is not found.
func (s *Server) responses(c *call) error {
	m, bad := object(c.body)
	if bad != nil {
		return bad
	}
	p, stream, bad := s.planResponse(c, m)
	if bad != nil {
		return bad
	}
	c.serves(p, stream)
	if c.gone() {
		return errGone
	}
	r := newResponseAnswer(c, p)
	if stream {
		return r.stream()
	}
	return c.whole([]byte(r.response("completed", r.items())))
}

func (s *Server) planResponse(c *call, m members) (*plan, bool, *apiError) {
	p := &plan{n: 1}
	w := wish{print: newFingerprint()}
	var err *apiError
	if p.model, err = s.model(m); err != nil {
		return nil, false, err
	}
	stream, err := m.flag("stream")
	if err != nil {
		return nil, false, err
	}
	for _, unknown := range []string{"n", "max_tokens", "max_completion_tokens", "messages"} {
		if m.has(unknown) {
			return nil, false, invalid(unknown, "unknown_parameter", "Unknown parameter: '%s'.", unknown)
		}
	}
	if m.has("previous_response_id") {
		return nil, false, invalid("previous_response_id", "previous_response_not_found", "Previous response not found.")
	}
	if err = p.readInput(m, &w); err != nil {
		return nil, false, err
	}
	if limit, stated, bad := m.integer("max_output_tokens", 1, maxLimit); bad != nil {
		return nil, false, bad
	} else if stated {
		w.limit = limit
	}
	text, err := m.object("text")
	if err != nil {
		return nil, false, err
	}
	if w.json, err = text.form(w.print, "format"); err != nil {
		return nil, false, err
	}
	reasoning, err := m.object("reasoning")
	if err != nil {
		return nil, false, err
	}
	effort, err := reasoning.text("effort")
	if err != nil {
		return nil, false, err
	}
	w.thinking = effort != "" && effort != "none" && effort != "minimal"
	if p.tools, err = flatTools(m); err != nil {
		return nil, false, err
	}
	if m.has("prompt_cache_key") && p.input >= 1024 {
		p.cached = p.input / 128 * 128
	}
	p.fill(w, &c.faults)
	return p, stream, nil
}

// readInput counts a text, or the texts and pictures of items.
func (p *plan) readInput(m members, w *wish) *apiError {
	instructions, err := m.text("instructions")
	if err != nil {
		return err
	}
	p.input = countTokens(instructions)
	if !m.has("input") {
		return invalid("input", "missing_required_parameter", "Missing required parameter: 'input'.")
	}
	raw := m["input"]
	if raw[0] == '"' {
		raw = append(append([]byte(`[{"role":"user","content":`), raw...), `}]`...)
	}
	var items []struct {
		Content   json.RawMessage `json:"content"`
		Output    json.RawMessage `json:"output"`
		Arguments string          `json:"arguments"`
	}
	if json.Unmarshal(raw, &items) != nil {
		return invalid("input", "invalid_type", "Invalid type for 'input': expected a string or an array of items")
	}
	for i, item := range items {
		p.input += countTokens(item.Arguments)
		for _, content := range []json.RawMessage{item.Content, item.Output} {
			texts, ok := contentTexts(content)
			if !ok {
				return invalid(fmt.Sprintf("input[%d].content", i), "invalid_type",
					"Invalid type for 'input[%d].content': expected a string or an array of parts", i)
			}
			for _, text := range texts {
				p.input += countTokens(text)
				w.read(text)
			}
			p.input += strings.Count(string(content), `"input_image"`) * highPicture
		}
	}
	return nil
}

// responseAnswer writes one response, whole or as events.
type responseAnswer struct {
	c        *call
	p        *plan
	id, item string
	calls    []string // their ids, one for each function that is called
	number   int      // of the next event
	thinking string   // item of the reasoning
	created  int64
}

func newResponseAnswer(c *call, p *plan) *responseAnswer {
	name := strings.ReplaceAll(uuid.NewString(), "-", "")
	r := &responseAnswer{c: c, p: p, id: "resp_" + name, item: "msg_" + name, thinking: "rs_" + name, created: unixNow()}
	for range p.calls {
		r.calls = append(r.calls, callID())
	}
	return r
}

func (r *responseAnswer) status() string {
	if r.p.cut {
		return "incomplete"
	}
	return "completed"
}

// response is the object of the response, in a status and with the items that it has by then.
func (r *responseAnswer) response(status, output string) string {
	usage, details := "null", "null"
	if status != "in_progress" {
		status = r.status()
		if r.p.cut {
			details = `{"reason":"max_output_tokens"}`
		}
		if !r.c.faults.OmitUsage {
			usage = fmt.Sprintf(`{"input_tokens":%d,"input_tokens_details":{"cached_tokens":%d},"output_tokens":%d,`+
				`"output_tokens_details":{"reasoning_tokens":%d},"total_tokens":%d}`, r.p.input, r.p.cached, r.p.output(), r.p.thoughts,
				r.p.input+r.p.output())
		}
	}
	return fmt.Sprintf(`{"id":"%s","object":"response","created_at":%d,"status":"%s","background":false,"error":null,"incomplete_details":%s,`+
		`"instructions":null,"max_output_tokens":null,"model":%s,"output":[%s],"parallel_tool_calls":true,"previous_response_id":null,`+
		`"reasoning":{"effort":null,"summary":null},"store":false,"temperature":1.0,"text":{"format":{"type":"text"}},"tool_choice":"auto",`+
		`"tools":[],"top_p":1.0,"truncation":"disabled","usage":%s,"metadata":{}}`,
		r.id, r.created, status, details, quoted(r.p.model), output, usage)
}

func (r *responseAnswer) part(text string) string {
	return `{"type":"output_text","annotations":[],"logprobs":[],"text":` + quoted(text) + `}`
}

func (r *responseAnswer) reasoning() string {
	return `{"id":"` + r.thinking + `","type":"reasoning","summary":[]}`
}

// invocation is the item of one function's call; as it begins it has no arguments.
func (r *responseAnswer) invocation(i int, arguments, status string) string {
	return fmt.Sprintf(`{"id":"fc_%s","type":"function_call","status":"%s","call_id":"%s","name":%s,"arguments":%s}`, r.calls[i], status, r.calls[i],
		quoted(r.p.calls[i].name), quoted(arguments))
}

// message is the item of the text; as it begins it has none.
func (r *responseAnswer) message(text, status string) string {
	content := r.part(text)
	if status == "in_progress" {
		content = ""
	}
	return fmt.Sprintf(`{"id":"%s","type":"message","status":"%s","role":"assistant","content":[%s]}`, r.item, status, content)
}

func (r *responseAnswer) items() string {
	var items []string
	if r.p.thoughts > 0 {
		items = append(items, r.reasoning())
	}
	for i, one := range r.p.calls {
		items = append(items, r.invocation(i, one.arguments, r.status()))
	}
	if r.p.calls == nil {
		items = append(items, r.message(r.p.text, r.status()))
	}
	return strings.Join(items, ",")
}

// event writes one event of a type; members are behind its type and number.
func (r *responseAnswer) event(kind, members string, tokens int) bool {
	b := fmt.Appendf(nil, "event: %s\ndata: {\"type\":\"%s\",\"sequence_number\":%d,%s}\n\n", kind, kind, r.number, members)
	r.number++
	return r.c.chunk(b, tokens)
}

// stream writes the events in the order of OpenAI's reference
// (platform.openai.com/docs/api-reference/responses-streaming).
func (r *responseAnswer) stream() error {
	if !r.c.start("text/event-stream; charset=utf-8") {
		return errGone
	}
	index := 0
	for _, kind := range []string{"response.created", "response.in_progress"} {
		if !r.event(kind, `"response":`+r.response("in_progress", ""), 0) {
			return errGone
		}
	}
	if r.p.thoughts > 0 {
		at := fmt.Sprintf(`"output_index":%d,"item":%s`, index, r.reasoning())
		if !r.event("response.output_item.added", at, 0) || !r.event("response.output_item.done", at, r.p.thoughts) {
			return errGone
		}
		index++
	}
	if !r.body(index) || !r.event("response."+r.status(), `"response":`+r.response("completed", r.items()), 0) {
		return errGone
	}
	return nil
}

// body writes the events of the items after the reasoning: the text, or each function's call.
func (r *responseAnswer) body(index int) bool {
	for i, one := range r.p.calls {
		at := fmt.Sprintf(`"output_index":%d`, index+i)
		where := fmt.Sprintf(`"item_id":"fc_%s",%s`, r.calls[i], at)
		if !r.event("response.output_item.added", at+`,"item":`+r.invocation(i, "", "in_progress"), 0) ||
			!r.deltas("response.function_call_arguments", where, one.arguments) ||
			!r.event("response.function_call_arguments.done", where+`,"arguments":`+quoted(one.arguments), 0) ||
			!r.event("response.output_item.done", at+`,"item":`+r.invocation(i, one.arguments, r.status()), 0) {
			return false
		}
	}
	if r.p.calls != nil {
		return true
	}
	at := fmt.Sprintf(`"output_index":%d`, index)
	where := fmt.Sprintf(`"item_id":"%s",%s,"content_index":0`, r.item, at)
	return r.event("response.output_item.added", at+`,"item":`+r.message("", "in_progress"), 0) &&
		r.event("response.content_part.added", where+`,"part":`+r.part(""), 0) &&
		r.deltas("response.output_text", where, r.p.text) &&
		r.event("response.output_text.done", where+`,"logprobs":[],"text":`+quoted(r.p.text), 0) &&
		r.event("response.content_part.done", where+`,"part":`+r.part(r.p.text), 0) &&
		r.event("response.output_item.done", at+`,"item":`+r.message(r.p.text, r.status()), 0)
}

// deltas writes a text, or a function's arguments, in pieces.
func (r *responseAnswer) deltas(kind, where, text string) bool {
	return r.c.pieceByPiece(text, func(piece string) bool {
		return r.event(kind+".delta", where+`,"delta":`+quoted(piece), countTokens(piece)) && r.c.passed()
	})
}
