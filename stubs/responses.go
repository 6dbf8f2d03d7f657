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
	if p.tool, err = flatTool(m); err != nil {
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

// flatTool is toolToCall for tools whose members are not in a function of their own, as those of
// Responses and Messages.
func flatTool(m members) (string, *apiError) {
	var tools []struct {
		Name string `json:"name"`
	}
	if !m.has("tools") {
		return "", nil
	}
	if json.Unmarshal(m["tools"], &tools) != nil {
		return "", invalid("tools", "invalid_type", "Invalid type for 'tools': expected an array of objects")
	}
	var choice struct {
		Type string `json:"type"`
		Name string `json:"name"`
	}
	if json.Unmarshal(m["tool_choice"], &choice) != nil {
		choice.Type = strings.Trim(string(m["tool_choice"]), `"`)
	}
	if len(tools) > 0 && (choice.Type == "required" || choice.Type == "any") {
		return tools[0].Name, nil
	}
	if choice.Name == "" {
		return "", nil
	}
	for _, t := range tools {
		if t.Name == choice.Name {
			return t.Name, nil
		}
	}
	return "", invalid("tool_choice", "invalid_value", "Tool choice '%s' not found in 'tools' parameter.", choice.Name)
}

// responseAnswer writes one response, whole or as events.
type responseAnswer struct {
	c        *call
	p        *plan
	id, item string
	call     string
	number   int    // of the next event
	thinking string // item of the reasoning
	created  int64
}

func newResponseAnswer(c *call, p *plan) *responseAnswer {
	name := strings.ReplaceAll(uuid.NewString(), "-", "")
	return &responseAnswer{c: c, p: p, id: "resp_" + name, item: "msg_" + name, thinking: "rs_" + name, call: callID(), created: unixNow()}
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

// main is the item of the text, or of the function's call; as it begins with an empty text.
func (r *responseAnswer) main(text, status string) string {
	if r.p.tool != "" {
		return fmt.Sprintf(`{"id":"fc_%s","type":"function_call","status":"%s","call_id":"%s","name":%s,"arguments":%s}`, r.item, status, r.call,
			quoted(r.p.tool), quoted(text))
	}
	content := r.part(text)
	if status == "in_progress" {
		content = ""
	}
	return fmt.Sprintf(`{"id":"%s","type":"message","status":"%s","role":"assistant","content":[%s]}`, r.item, status, content)
}

func (r *responseAnswer) items() string {
	items := r.main(r.p.text, r.status())
	if r.p.thoughts > 0 {
		items = r.reasoning() + "," + items
	}
	return items
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

// body writes the events of the main item.
func (r *responseAnswer) body(index int) bool {
	at := fmt.Sprintf(`"output_index":%d`, index)
	kind, where, done := "response.output_text", fmt.Sprintf(`"item_id":"%s",%s,"content_index":0`, r.item, at), `"logprobs":[],"text":`
	if r.p.tool != "" {
		kind, where, done = "response.function_call_arguments", fmt.Sprintf(`"item_id":"fc_%s",%s`, r.item, at), `"arguments":`
	}
	if !r.event("response.output_item.added", at+`,"item":`+r.main("", "in_progress"), 0) {
		return false
	}
	text := r.p.tool == ""
	if text && !r.event("response.content_part.added", where+`,"part":`+r.part(""), 0) {
		return false
	}
	size := r.c.faults.TokensPerChunk * bytesPerToken
	for from := 0; from < len(r.p.text); from += size {
		if from > 0 && !r.c.pause() {
			return false
		}
		piece := r.p.text[from:min(from+size, len(r.p.text))]
		if !r.event(kind+".delta", where+`,"delta":`+quoted(piece), countTokens(piece)) || !r.c.passed() {
			return false
		}
	}
	if !r.event(kind+".done", where+`,`+done+quoted(r.p.text), 0) {
		return false
	}
	if text && !r.event("response.content_part.done", where+`,"part":`+r.part(r.p.text), 0) {
		return false
	}
	return r.event("response.output_item.done", at+`,"item":`+r.main(r.p.text, r.status()), 0)
}
