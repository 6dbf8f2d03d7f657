// Package streams writes event streams as providers send them, in the many shapes that the answers of one
// model have: text, thoughts and calls of tools, in large and small pieces, with more or less around them.
// Every piece says how many tokens it has, so that a test knows what passed of a stream that is cut.
package streams

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// Event is a piece of a stream as it goes over the wire.
type Event struct {
	Text   string
	Tokens int // that it carries
}

// Shape is how an answer comes.
type Shape struct {
	Name     string
	Thoughts int  // so many of a hundred tokens are thoughts that are shown
	Called   int  // and so many, after the text, arguments of a call
	Chunk    int  // tokens of an event, default 1
	Halves   bool // a token takes two events
	Choices  int  // that take turns, default 1; Chat and Gemini have them
	Pings    bool // between the pieces
	Wide     bool // the text is not in ASCII
	Escaped  bool // what is not is escaped
	Around   int  // bytes in each event more than usual
}

// Shapes are those of one model.
func Shapes() []Shape {
	return []Shape{
		{Name: "plain"},
		{Name: "calls", Called: 100},
		{Name: "thoughts, then text", Thoughts: 40},
		{Name: "thoughts, text, a call", Thoughts: 10, Called: 60},
		{Name: "large pieces", Chunk: 10},
		{Name: "a call in pieces of three", Called: 100, Chunk: 3},
		{Name: "half a token a piece", Halves: true},
		{Name: "pings", Pings: true},
		{Name: "other letters", Wide: true},
		{Name: "other letters, escaped", Wide: true, Escaped: true, Chunk: 3},
		{Name: "two choices", Choices: 2},
		{Name: "long events", Around: 700},
	}
}

// API is whose events a stream has.
type API string

// The APIs whose streams are written.
const (
	Chat      API = "chat"
	Responses API = "responses"
	Messages  API = "messages"
	Gemini    API = "gemini"
)

const (
	text = iota
	thought
	call
)

// vocabulary is what a text is made of, in the order in which it comes: each is a token.
func (s Shape) vocabulary(kind int) []string {
	switch {
	case kind == call:
		return []string{`{"`, "path", `": `, `"src`, "/", "main", ".go", `",`}
	case s.Wide:
		return []string{"日本", "語の", "文", "は", "長い", "です"}
	}
	return []string{"the ", "nets ", "lay", " low", " and ", "gull", "s sat", ". \n"}
}

// piece is what one event carries.
type piece struct {
	kind, choice int
	text         string
	tokens       int
}

// pieces are those of an answer of so many tokens.
func (s Shape) pieces(tokens int) (all []piece) {
	chunk := max(s.Chunk, 1)
	for at := 0; at < tokens; {
		p := piece{kind: text, choice: len(all) % max(s.Choices, 1)}
		switch {
		case at*100 < s.Thoughts*tokens:
			p.kind = thought
		case at*100 >= (100-s.Called)*tokens:
			p.kind = call
		}
		from := s.vocabulary(p.kind)
		for ; p.tokens < chunk && at < tokens; at++ {
			p.text += from[at%len(from)]
			p.tokens++
		}
		if s.Halves {
			half := len(p.text) / 2
			all = append(all, piece{kind: p.kind, text: p.text[:half]})
			p.text = p.text[half:]
		}
		all = append(all, p)
	}
	return all
}

// quoted is a text in JSON.
func (s Shape) quoted(text string) string {
	if s.Escaped {
		return strconv.QuoteToASCII(text)
	}
	encoded, err := json.Marshal(text)
	if err != nil {
		panic(err) // no string does not encode
	}
	return string(encoded)
}

// Of writes an answer of so many tokens in one of the APIs; the usage comes at its end.
func Of(api API, s Shape, tokens int) []Event {
	w := &writer{shape: s, all: s.pieces(tokens), tokens: tokens, around: strings.Repeat("x", 40+s.Around)}
	switch api {
	case Chat:
		w.chat()
	case Responses:
		w.responses()
	case Messages:
		w.messages()
	case Gemini:
		w.gemini()
	}
	return w.events
}

// Cut gives the events until so many tokens came, and how many came in them.
func Cut(events []Event, tokens int) (before []Event, came int) {
	for i, e := range events {
		if came += e.Tokens; came >= tokens {
			return events[:i+1], came
		}
	}
	return events, came
}

// Texts are the events' texts.
func Texts(events []Event) []string {
	all := make([]string, len(events))
	for i, e := range events {
		all[i] = e.Text
	}
	return all
}

// inputTokens is what each answer tells of its request.
const inputTokens = 20

type writer struct {
	shape  Shape
	all    []piece
	tokens int
	around string
	number int
	events []Event
}

func (w *writer) add(tokens int, format string, args ...any) {
	w.events = append(w.events, Event{Text: fmt.Sprintf(format, args...), Tokens: tokens})
}

// each writes the pieces, with pings between them.
func (w *writer) each(ping string, write func(p piece)) {
	for i, p := range w.all {
		write(p)
		if w.shape.Pings && i%2 == 0 {
			w.add(0, "%s", ping)
		}
	}
}

// blocks writes the runs of pieces of one kind, each between its begin and its end.
func (w *writer) blocks(ping string, begin, end func(index, kind int, whole string), write func(index int, p piece)) {
	index, kind, whole := -1, -1, ""
	w.each(ping, func(p piece) {
		if p.kind != kind {
			if index >= 0 {
				end(index, kind, whole)
			}
			index, kind, whole = index+1, p.kind, ""
			begin(index, kind, whole)
		}
		whole += p.text
		write(index, p)
	})
	end(index, kind, whole)
}

// chat writes chat.completion.chunk objects
// (platform.openai.com/docs/api-reference/chat-streaming), with thoughts as DeepSeek has them.
func (w *writer) chat() {
	chunk := func(tokens, choice int, delta, finish string) {
		w.add(tokens, `data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"m","system_fingerprint":"%s",`+
			`"choices":[{"index":%d,"delta":{%s},"logprobs":null,"finish_reason":%s}],"usage":null}`+"\n\n", w.around, choice, delta, finish)
	}
	choices := max(w.shape.Choices, 1)
	for i := range choices {
		chunk(0, i, `"role":"assistant","content":"","refusal":null`, "null")
	}
	called := false
	w.each(": ping\n\n", func(p piece) {
		switch q := w.shape.quoted(p.text); p.kind {
		case text:
			chunk(p.tokens, p.choice, `"content":`+q, "null")
		case thought:
			chunk(p.tokens, p.choice, `"content":null,"reasoning_content":`+q, "null")
		case call:
			if !called {
				called = true
				chunk(0, p.choice, `"tool_calls":[{"index":0,"id":"call_1","type":"function","function":{"name":"look","arguments":""}}]`, "null")
			}
			chunk(p.tokens, p.choice, `"tool_calls":[{"index":0,"function":{"arguments":`+q+`}}]`, "null")
		}
	})
	for i := range choices {
		chunk(0, i, "", `"stop"`)
	}
	w.add(0, `data: {"id":"chatcmpl-1","choices":[],"usage":{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}}`+"\n\ndata: [DONE]\n\n",
		inputTokens, w.tokens, inputTokens+w.tokens)
}

// messages writes the events of docs.anthropic.com/en/docs/build-with-claude/streaming.
func (w *writer) messages() {
	event := func(tokens int, kind, format string, args ...any) {
		w.add(tokens, "event: %s\ndata: {\"type\":\"%s\"%s}\n\n", kind, kind, fmt.Sprintf(format, args...))
	}
	event(0, "message_start", `,"message":{"id":"%s","type":"message","role":"assistant","model":"m","content":[],"usage":{"input_tokens":%d,"output_tokens":1}}`,
		w.around, inputTokens)
	opens := []string{`{"type":"text","text":""}`, `{"type":"thinking","thinking":"","signature":""}`, `{"type":"tool_use","id":"t","name":"look","input":{}}`}
	deltas := []string{`"type":"text_delta","text"`, `"type":"thinking_delta","thinking"`, `"type":"input_json_delta","partial_json"`}
	around := ""
	if w.shape.Around > 0 {
		around = `,"around":"` + w.around + `"`
	}
	w.blocks("event: ping\ndata: {\"type\": \"ping\"}\n\n", func(index, kind int, _ string) {
		event(0, "content_block_start", `,"index":%d,"content_block":%s`, index, opens[kind])
	}, func(index, kind int, _ string) {
		if kind == thought {
			event(0, "content_block_delta", `,"index":%d,"delta":{"type":"signature_delta","signature":"%s"}`, index, strings.Repeat("c2ln", 100))
		}
		event(0, "content_block_stop", `,"index":%d`, index)
	}, func(index int, p piece) {
		event(p.tokens, "content_block_delta", `%s,"index":%d,"delta":{%s:%s}`, around, index, deltas[p.kind], w.shape.quoted(p.text))
	})
	event(0, "message_delta", `,"delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":%d}`, w.tokens)
	event(0, "message_stop", "")
}

// responses writes the events of platform.openai.com/docs/api-reference/responses-streaming, whose deltas are
// padded so that their length tells nothing of the text.
func (w *writer) responses() {
	event := func(tokens int, kind, format string, args ...any) {
		w.number++
		w.add(tokens, "event: %s\ndata: {\"type\":\"%s\",\"sequence_number\":%d,%s}\n\n", kind, kind, w.number, fmt.Sprintf(format, args...))
	}
	const object = `"response":{"id":"r","object":"response","model":"m","text":{"format":{"type":"text"}},"metadata":{"around":"%s"},"usage":%s}`
	event(0, "response.created", object, w.around, "null")
	kinds := []string{"output_text", "reasoning_summary_text", "function_call_arguments"}
	w.blocks(": ping\n\n", func(index, _ int, _ string) {
		event(0, "response.output_item.added", `"output_index":%d,"item":{"id":"i","content":[]}`, index)
	}, func(index, kind int, whole string) {
		event(0, "response."+kinds[kind]+".done", `"item_id":"i","output_index":%d,"text":%s`, index, w.shape.quoted(whole))
		event(0, "response.output_item.done", `"output_index":%d,"item":{"id":"i","content":[{"type":"output_text","text":%s}]}`, index,
			w.shape.quoted(whole))
	}, func(index int, p piece) {
		event(p.tokens, "response."+kinds[p.kind]+".delta", `"item_id":"%s","output_index":%d,"content_index":0,"delta":%s,"obfuscation":"%s"`,
			w.around, index, w.shape.quoted(p.text), strings.Repeat("p", 16-len(p.text)%16))
	})
	event(0, "response.completed", object, w.around, fmt.Sprintf(`{"input_tokens":%d,"output_tokens":%d,"total_tokens":%d}`, inputTokens, w.tokens,
		inputTokens+w.tokens))
}

// gemini writes GenerateContentResponse objects (ai.google.dev/api/generate-content), whose calls come whole:
// here they have ten tokens or a few more.
func (w *writer) gemini() {
	var all []piece
	for _, p := range w.all {
		if last := len(all) - 1; p.kind == call && last >= 0 && all[last].kind == call && all[last].tokens < 10 {
			all[last].text += p.text
			all[last].tokens += p.tokens
			continue
		}
		all = append(all, p)
	}
	w.all = all
	message := func(tokens, choice int, part, more string) {
		w.add(tokens, `data: {"candidates":[{"content":{"parts":[%s],"role":"model"},"index":%d}]%s,"modelVersion":"m","responseId":"%s"}`+"\r\n\r\n",
			part, choice, more, w.around)
	}
	w.each(": ping\r\n\r\n", func(p piece) {
		part := `{"text":` + w.shape.quoted(p.text) + `}`
		switch p.kind {
		case thought:
			part = `{"thought":true,` + part[1:]
		case call:
			part = `{"functionCall":{"name":"look","args":{"q":` + w.shape.quoted(p.text) + `}}}`
		}
		message(p.tokens, p.choice, part, "")
	})
	message(0, 0, `{"text":""}`, fmt.Sprintf(`,"usageMetadata":{"promptTokenCount":%d,"candidatesTokenCount":%d,"totalTokenCount":%d}`, inputTokens,
		w.tokens, inputTokens+w.tokens))
}
