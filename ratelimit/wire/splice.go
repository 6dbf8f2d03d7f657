package wire

import (
	"encoding/json"
	"strconv"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/match"
)

// splice tells Envoy what to append to the body, with the output granted.
func (r *Response) splice(c *match.Call, output int64) {
	members, generation := spliced(c, output)
	if members != "" {
		r.addText(attributes.Splice, members)
	}
	if generation != "" {
		r.addText(attributes.SpliceGeneration, generation)
	}
}

// spliced is what Envoy appends to the body: the maximum that was granted, the usage
// that a stream must tell, and the model's name without the provider's prefix.
func spliced(c *match.Call, granted int64) (members, generation string) {
	var b []byte
	member := func(name string) {
		if len(b) > 0 {
			b = append(b, ',')
		}
		b = append(b, name...)
	}
	filled := c.Output == 0 && c.Fill > 0
	if c.Protocol == config.ProtocolGemini {
		if filled {
			generation = `"maxOutputTokens":` + strconv.FormatInt(granted/c.Choices, 10)
		}
		return "", generation
	}
	if c.Prefixed {
		member(`"model":`)
		b = appendJSON(b, c.Model)
	}
	if filled {
		member(`"max_tokens":`)
		b = strconv.AppendInt(b, granted/c.Choices, 10)
	}
	if c.Stream && !c.Usage {
		member(`"stream_options":{"include_usage":true}`)
	}
	return string(b), ""
}

// appendJSON appends s as a JSON string.
func appendJSON(b []byte, s string) []byte {
	quoted, err := json.Marshal(s)
	if err != nil { // a string always marshals
		return append(b, `""`...)
	}
	return append(b, quoted...)
}
