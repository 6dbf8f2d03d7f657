package stubs

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/google/uuid"
)

// chatStream writes the chunks of one streamed chat completion.
type chatStream struct {
	c      *call
	p      *plan
	prefix []byte // of every chunk, up to the choices
	tail   []byte // of every chunk, after the choices
	buf    []byte
}

// streamChat answers with chat.completion.chunk events: the role first, then the text in
// pieces, the finish reason, the usage when it was asked for, and [DONE].
func (s *Server) streamChat(c *call, p *plan) error {
	t := &chatStream{c: c, p: p, tail: []byte("]}\n\n")}
	if p.usage && !c.faults.OmitUsage {
		t.tail = []byte("],\"usage\":null}\n\n")
	}
	t.prefix = fmt.Appendf(nil, `data: {"id":"chatcmpl-%s","object":"chat.completion.chunk","created":%d,"model":%s,"service_tier":"default","system_fingerprint":"fp_leakystub","choices":[`,
		strings.ReplaceAll(uuid.NewString(), "-", ""), unixNow(), quoted(p.model))
	if !c.start("text/event-stream; charset=utf-8") || !t.roles() || !t.pieces() || !t.ends() {
		return errGone
	}
	if p.usage && !c.faults.OmitUsage {
		t.buf = append(t.buf[:0], t.prefix...)
		t.buf = append(appendUsage(append(t.buf, "],"...), p), "}\n\n"...)
		if !c.chunk(t.buf, 0) {
			return errGone
		}
	}
	if !c.chunk([]byte("data: [DONE]\n\n"), 0) {
		return errGone
	}
	return nil
}

// choice writes one chunk for one choice; delta is the JSON of its delta's members.
func (t *chatStream) choice(index int, finish string, tokens int, delta ...string) bool {
	b := append(t.buf[:0], t.prefix...)
	b = append(b, `{"index":`...)
	b = strconv.AppendInt(b, int64(index), 10)
	b = append(b, `,"delta":{`...)
	for _, part := range delta {
		b = append(b, part...)
	}
	b = append(b, `},"logprobs":null,"finish_reason":`...)
	b = append(b, finish...)
	b = append(b, '}')
	t.buf = append(b, t.tail...)
	return t.c.chunk(t.buf, tokens)
}

func (t *chatStream) roles() bool {
	for i := range t.p.n {
		delta := `"role":"assistant","content":"","refusal":null`
		if t.p.tools != nil {
			delta = `"role":"assistant","content":null,"refusal":null`
		}
		if !t.choice(i, "null", t.p.thoughts, delta) {
			return false
		}
	}
	return true
}

// pieces writes the text, or each function's name and arguments, the choices taking turns.
func (t *chatStream) pieces() bool {
	if !t.c.pause() {
		return false
	}
	for at, one := range t.p.calls {
		for i := range t.p.n {
			if !t.choice(i, "null", 0, fmt.Sprintf(`"tool_calls":[{"index":%d,"id":"%s","type":"function","function":{"name":%s,"arguments":""}}]`,
				at, callID(), quoted(one.name))) {
				return false
			}
		}
		if !t.inPieces(one.arguments, fmt.Sprintf(`"tool_calls":[{"index":%d,"function":{"arguments":"`, at), `"}}]`) {
			return false
		}
	}
	return t.p.calls != nil || t.inPieces(t.p.text, `"content":"`, `"`)
}

// inPieces writes a text, each piece between two halves of a delta.
func (t *chatStream) inPieces(text, before, after string) bool {
	return t.c.pieceByPiece(text, func(piece string) bool {
		tokens := countTokens(piece)
		piece = escaped(piece)
		for i := range t.p.n {
			if !t.choice(i, "null", tokens, before, piece, after) || !t.c.passed() {
				return false
			}
			if t.c.faults.BrokenJSON && t.c.pieces == 1 {
				t.c.chunk([]byte("data: {\"id\":\n\n"), 0)
			}
		}
		return true
	})
}

func (t *chatStream) ends() bool {
	for i := range t.p.n {
		if !t.choice(i, `"`+t.p.finish()+`"`, 0) {
			return false
		}
	}
	return true
}
