package wire

import (
	"encoding/json"
	"strconv"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/match"
)

// splice tells Envoy what to put into the body: the maximum that was granted, the usage that
// a stream must tell, and the model's name as its provider has it. The client is told
// of the maximum.
func (r *Response) splice(c *match.Call, granted int64) {
	if c.Filled() {
		each := granted / c.Choices
		r.addHeader("x-leaky-filled", strconv.FormatInt(each, 10))
		r.addNumber(attributes.MaxTokens, float64(each))
		r.addText(attributes.MaxTokensName, c.Maximum)
	} else if c.Renames != "" {
		r.addText(attributes.MaxTokensRename, c.Renames)
		r.addText(attributes.MaxTokensName, c.Maximum)
	}
	if c.Upstream != "" {
		r.addText(attributes.SetModel, quoteJSON(c.Upstream))
	}
	if c.AsksUsage {
		r.addText(attributes.AskUsage, "true")
	}
}

// quoteJSON is s as a JSON string.
func quoteJSON(s string) string {
	quoted, err := json.Marshal(s)
	if err != nil { // a string always marshals
		return `""`
	}
	return string(quoted)
}
