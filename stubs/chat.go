package stubs

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/google/uuid"
)

// maxLimit is the largest max_tokens a stub takes.
const maxLimit = 1<<31 - 1

// chat answers POST /v1/chat/completions.
func (s *Server) chat(c *call) error {
	m, bad := object(c.body)
	if bad != nil {
		return bad
	}
	p, stream, bad := s.planChat(c, m)
	if bad != nil {
		return bad
	}
	c.serves(p, stream)
	c.got.NoUsage = c.faults.OmitUsage || stream && !p.usage
	if c.gone() {
		return errGone
	}
	if stream {
		return s.streamChat(c, p)
	}
	return c.whole(chatBody(p, c.faults.OmitUsage))
}

func (s *Server) planChat(c *call, m members) (*plan, bool, *apiError) {
	p := &plan{n: 1}
	var w wish
	var err *apiError
	if p.model, err = s.model(m); err != nil {
		return nil, false, err
	}
	stream, err := m.flag("stream")
	if err != nil {
		return nil, false, err
	}
	if err = p.readMessages(m, &w); err != nil {
		return nil, false, err
	}
	if n, stated, bad := m.integer("n", 1, 128); bad != nil {
		return nil, false, bad
	} else if stated {
		p.n = n
	}
	for _, name := range []string{"max_tokens", "max_completion_tokens"} {
		limit, stated, bad := m.integer(name, 1, maxLimit)
		if bad != nil {
			return nil, false, bad
		}
		if stated && (w.limit == 0 || limit < w.limit) {
			w.limit = limit
		}
	}
	if err = p.readOptions(m, stream, &w); err != nil {
		return nil, false, err
	}
	if m.has("prompt_cache_key") && p.input >= 1024 {
		p.cached = p.input / 128 * 128
	}
	p.fill(w, &c.faults)
	return p, stream, nil
}

func (s *Server) model(m members) (string, *apiError) {
	name, err := m.text("model")
	switch {
	case err != nil:
		return "", err
	case name == "":
		return "", invalid("", "", "you must provide a model parameter")
	case !s.knows(name):
		return "", &apiError{status: http.StatusNotFound, kind: "invalid_request_error", code: "model_not_found",
			message: fmt.Sprintf("The model `%s` does not exist or you do not have access to it.", name)}
	}
	return name, nil
}

// readMessages counts the input and looks for directives.
func (p *plan) readMessages(m members, w *wish) *apiError {
	if !m.has("messages") {
		return invalid("messages", "missing_required_parameter", "Missing required parameter: 'messages'.")
	}
	var messages []struct {
		Role    string          `json:"role"`
		Content json.RawMessage `json:"content"`
	}
	if json.Unmarshal(m["messages"], &messages) != nil {
		return invalid("messages", "invalid_type", "Invalid type for 'messages': expected an array of objects")
	}
	if len(messages) == 0 {
		return invalid("messages", "empty_array", "Invalid 'messages': empty array. Expected an array with minimum length 1")
	}
	w.print = newFingerprint()
	for i := range messages {
		if messages[i].Role == "" {
			return invalid(fmt.Sprintf("messages[%d].role", i), "missing_required_parameter", "Missing required parameter: 'messages[%d].role'.", i)
		}
		texts, ok := contentTexts(messages[i].Content)
		if !ok {
			return invalid(fmt.Sprintf("messages[%d].content", i), "invalid_type",
				"Invalid type for 'messages[%d].content': expected a string or an array of parts", i)
		}
		p.input += pictureTokens(messages[i].Content)
		for _, text := range texts {
			p.input += countTokens(text)
			w.read(text)
		}
	}
	return nil
}

// read mixes a text into the fingerprint and looks for directives in it.
func (w *wish) read(text string) {
	w.print = w.print.add(text)
	if n, ok := directive(text, "tokens"); ok {
		w.tokens, w.stated = n, true
	}
	if n, ok := directive(text, "thoughts"); ok {
		w.thoughts = n
	}
}

// What a picture takes, whatever it shows: OpenAI's 1024 x 1024, in high and in low detail.
const (
	highPicture = 85 + 4*170
	lowPicture  = 85
)

// pictureTokens is what the pictures among the parts of a message take.
func pictureTokens(raw json.RawMessage) int {
	var parts []struct {
		Type  string `json:"type"`
		Image struct {
			Detail string `json:"detail"`
		} `json:"image_url"`
	}
	if json.Unmarshal(raw, &parts) != nil {
		return 0 // a string
	}
	tokens := 0
	for _, part := range parts {
		switch {
		case part.Type != "image_url":
		case part.Image.Detail == "low":
			tokens += lowPicture
		default:
			tokens += highPicture
		}
	}
	return tokens
}

// contentTexts gives the texts of a message: a string, null, or an array of parts.
func contentTexts(raw json.RawMessage) ([]string, bool) {
	if len(raw) == 0 || string(raw) == "null" {
		return nil, true
	}
	if raw[0] == '"' {
		var one string
		err := json.Unmarshal(raw, &one)
		return []string{one}, err == nil
	}
	var parts []struct {
		Text string `json:"text"`
	}
	if json.Unmarshal(raw, &parts) != nil {
		return nil, false
	}
	texts := make([]string, len(parts))
	for i, part := range parts {
		texts[i] = part.Text
	}
	return texts, true
}

// readOptions reads what shapes the answer: usage, tools, reasoning, metadata.
func (p *plan) readOptions(m members, stream bool, w *wish) *apiError {
	options, err := m.object("stream_options")
	if err != nil {
		return err
	}
	if options != nil && !stream {
		return invalid("stream_options", "", "The 'stream_options' parameter is only allowed when 'stream' is enabled.")
	}
	if p.usage, err = options.flag("include_usage"); err != nil {
		return invalid("stream_options.include_usage", err.code, "%s", err.message)
	}
	if p.tools, err = chatTools(m); err != nil {
		return err
	}
	if err = w.readForm(m); err != nil {
		return err
	}
	effort, err := m.text("reasoning_effort")
	if err != nil {
		return err
	}
	w.thinking = effort != "" && effort != "none" && effort != "minimal"
	metadata, err := m.object("metadata")
	if err != nil {
		return err
	}
	if text, bad := metadata.text("stub_tokens"); bad == nil && text != "" {
		if n, convErr := strconv.Atoi(text); convErr == nil && n >= 0 && n <= maxPlanned {
			w.tokens, w.stated = n, true
		}
	}
	return nil
}

// readForm reads the form of the answer that response_format asks for.
func (w *wish) readForm(m members) *apiError {
	format, err := m.object("response_format")
	if err != nil {
		return err
	}
	kind, err := format.text("type")
	if err != nil || kind == "" || kind == "text" {
		return err
	}
	inner, err := format.object("json_schema")
	if err != nil {
		return err
	}
	w.json, err = structured(inner["schema"], w.print, "response_format")
	return err
}

// quoted is a JSON string.
func quoted(s string) string {
	b, _ := json.Marshal(s) // a string always encodes
	return string(b)
}

// escaped is a text as it stands within a JSON string.
func escaped(s string) string {
	q := quoted(s)
	return q[1 : len(q)-1]
}

func (p *plan) finish() string {
	switch {
	case p.cut:
		return "length"
	case p.tools != nil:
		return "tool_calls"
	}
	return "stop"
}

func appendUsage(b []byte, p *plan) []byte {
	return fmt.Appendf(b, `"usage":{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d,"prompt_tokens_details":{"cached_tokens":%d,"audio_tokens":0},`+
		`"completion_tokens_details":{"reasoning_tokens":%d,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}`,
		p.input, p.output(), p.input+p.output(), p.cached, p.n*p.thoughts)
}

func callID() string { return "call_" + strings.ReplaceAll(uuid.NewString(), "-", "")[:24] }

// chatCalls are the members of tool_calls.
func chatCalls(calls []invocation) string {
	all := make([]string, len(calls))
	for i, one := range calls {
		all[i] = `{"id":"` + callID() + `","type":"function","function":{"name":` + quoted(one.name) + `,"arguments":` + quoted(one.arguments) + `}}`
	}
	return strings.Join(all, ",")
}

// chatBody is a chat.completion.
func chatBody(p *plan, omitUsage bool) []byte {
	b := make([]byte, 0, 1024+p.n*(len(p.text)+256))
	b = fmt.Appendf(b, `{"id":"chatcmpl-%s","object":"chat.completion","created":%d,"model":%s,"choices":[`,
		strings.ReplaceAll(uuid.NewString(), "-", ""), unixNow(), quoted(p.model))
	for i := range p.n {
		if i > 0 {
			b = append(b, ',')
		}
		if p.tools != nil {
			b = fmt.Appendf(b, `{"index":%d,"message":{"role":"assistant","content":null,"tool_calls":[%s],"refusal":null,"annotations":[]},"logprobs":null,"finish_reason":"%s"}`,
				i, chatCalls(p.calls), p.finish())
			continue
		}
		b = fmt.Appendf(b, `{"index":%d,"message":{"role":"assistant","content":%s,"refusal":null,"annotations":[]},"logprobs":null,"finish_reason":"%s"}`,
			i, quoted(p.text), p.finish())
	}
	b = append(b, `],`...)
	if !omitUsage {
		b = append(appendUsage(b, p), ',')
	}
	return append(b, `"service_tier":"default","system_fingerprint":"fp_leakystub"}`...)
}
