package stubs

import (
	"bytes"
	"fmt"
	"strings"
)

// pixel is a PNG in base64.
const pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="

// imageTokens are what a picture of 1024 x 1024 takes, by its quality
// (platform.openai.com/docs/guides/image-generation).
func imageTokens(quality string) int {
	switch quality {
	case "low":
		return 272
	case "medium":
		return 1056
	}
	return 4160
}

// images answers POST /v1/images/generations. Only models of the gpt-image kind tell their usage, and
// they alone stream.
func (s *Server) images(c *call) error {
	m, bad := object(c.body)
	if bad != nil {
		return bad
	}
	p := &plan{n: 1}
	if p.model, bad = s.model(m); bad != nil {
		return bad
	}
	prompt, bad := m.text("prompt")
	if bad != nil {
		return bad
	}
	if prompt == "" {
		return invalid("prompt", "missing_required_parameter", "Missing required parameter: 'prompt'.")
	}
	if n, stated, bad := m.integer("n", 1, 10); bad != nil {
		return bad
	} else if stated {
		p.n = n
	}
	quality, bad := m.text("quality")
	if bad != nil {
		return bad
	}
	stream, bad := m.flag("stream")
	if bad != nil {
		return bad
	}
	p.input = countTokens(prompt)
	if !strings.HasPrefix(p.model, "gpt-image") {
		c.serves(p, false)
		c.got.NoUsage = true
		return c.whole(pictures(p, `{"url":"https://example.com/picture.png","revised_prompt":`+quoted(prompt)+`}`, ""))
	}
	p.length = imageTokens(quality)
	c.serves(p, stream)
	usage := ""
	if !c.faults.OmitUsage {
		usage = fmt.Sprintf(`,"usage":{"total_tokens":%d,"input_tokens":%d,"output_tokens":%d,"input_tokens_details":{"text_tokens":%d,"image_tokens":0}}`,
			p.input+p.output(), p.input, p.output(), p.input)
	}
	if !stream {
		return c.whole(pictures(p, `{"b64_json":"`+pixel+`"}`, usage))
	}
	if !c.start("text/event-stream; charset=utf-8") ||
		!c.chunk([]byte(`event: image_generation.partial_image`+"\n"+`data: {"type":"image_generation.partial_image","partial_image_index":0,"b64_json":"`+pixel+"\"}\n\n"), 0) ||
		!c.chunk([]byte(`event: image_generation.completed`+"\n"+`data: {"type":"image_generation.completed","b64_json":"`+pixel+`"`+usage+"}\n\n"), p.output()) {
		return errGone
	}
	return nil
}

// pictures is an answer with n times the same picture.
func pictures(p *plan, picture, usage string) []byte {
	return fmt.Appendf(nil, `{"created":%d,"data":[%s]%s}`, unixNow(), strings.TrimSuffix(strings.Repeat(picture+",", p.n), ","), usage)
}

// speech answers POST /v1/audio/speech with sound, which tells no usage.
func (s *Server) speech(c *call) error {
	m, bad := object(c.body)
	if bad != nil {
		return bad
	}
	p := &plan{n: 1}
	if p.model, bad = s.model(m); bad != nil {
		return bad
	}
	for _, name := range []string{"input", "voice"} {
		text, bad := m.text(name)
		if bad != nil {
			return bad
		}
		if text == "" {
			return invalid(name, "missing_required_parameter", "Missing required parameter: '%s'.", name)
		}
		if name == "input" {
			p.input = countTokens(text)
		}
	}
	c.serves(p, false)
	c.got.NoUsage = true
	return c.typed("audio/mpeg", bytes.Repeat([]byte("ID3\x04\xff\xfb\x90\n"), 64*p.input))
}
