package ratelimit

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
)

const (
	// maxTokens is the most output tokens a call may ask for.
	maxTokens = math.MaxInt32
	// maxChoices is the largest n.
	maxChoices = 128
	// maxBytes is the largest body counted, in bytes.
	maxBytes = 1 << 40
	// maxID is the longest request id, in bytes.
	maxID = 128
)

var (
	errNoID      = errors.New("the facts name no request id")
	errMaxTokens = fmt.Errorf("max_tokens must be a whole number from 1 to %d", int64(maxTokens))
	errBoth      = errors.New("max_tokens and max_completion_tokens differ; state one")
	errChoices   = fmt.Errorf("n must be a whole number from 1 to %d", maxChoices)
	errUnstated  = errors.New("max_tokens is missing: this route takes no call without it")
	errBytes     = errors.New("the length of the body is not known")
)

// call is what the facts of an LLM request come to.
type call struct {
	id       string
	account  string
	tier     string
	route    string
	provider string
	model    string // as asked, without the provider's prefix
	user     string
	org      string
	team     string
	key      string
	bytes    int64
	frame    int64 // bytes of the body that are known to be no text
	choices  int64 // n
	stated   int64 // the client's maximum for one choice, 0 when it stated none
	stream   bool
	usage    bool // the client asks for usage itself
	prefixed bool // the model was asked as provider/model

	protocol config.Protocol
	input    int64 // most tokens of the input
	output   int64 // most tokens of the output as stated, of all choices
	fill     int64 // most tokens to grant when none is stated, of all choices; 0: no output
}

// readCall reads the first descriptor of an LLM request. The error is for the caller:
// it says which value cannot be met.
func (p *policy) readCall(d descriptor) (*call, error) {
	c := &call{choices: 1}
	var most, completion, bytes, choices string
	for _, e := range d {
		if e.Value == attributes.Absent {
			continue
		}
		switch e.Key {
		case attributes.Hold:
			c.id = e.Value
		case attributes.Route:
			c.route = e.Value
		case attributes.Provider:
			c.provider = e.Value
		case attributes.Model:
			c.model = e.Value
		case attributes.MaxTokens:
			most = e.Value
		case attributes.MaxCompletionTokens:
			completion = e.Value
		case attributes.N:
			choices = e.Value
		case attributes.Stream:
			c.stream = e.Value == "true"
		case attributes.IncludeUsage:
			c.usage = e.Value == "true"
		case attributes.Bytes:
			bytes = e.Value
		case attributes.User:
			c.user = e.Value
		case attributes.Org:
			c.org = e.Value
		case attributes.Team:
			c.team = e.Value
		case attributes.Key:
			c.key = e.Value
		case attributes.Tier:
			c.tier = e.Value
		}
	}
	if c.id == "" || len(c.id) > maxID || !plain(c.id) {
		return c, errNoID
	}
	c.protocol = p.providers[c.provider].Protocol
	c.frame = c.framed(most, completion, choices)
	c.model, c.prefixed = strings.CutPrefix(c.model, c.provider+"/")
	err := errors.Join(c.readOutput(most, completion, choices), c.readInput(bytes))
	return c, errors.Join(err, p.price(c))
}

// The least JSON that a request of each kind has around its first text.
const (
	chatFrame   = `{"model":"","messages":[{"role":"user","content":""}]}`
	embedFrame  = `{"model":"","input":}`
	geminiFrame = `{"contents":[{"parts":[{"text":""}]}]}`
)

// framed counts bytes of the body that the facts prove to be JSON and no text: a ratio
// that is stated for a provider is one of its tokenizer, which gets the text alone. Every
// further message has more JSON around it than its tokens can round up. At the ceiling of
// a token for each byte nothing is taken off, since templates add tokens of their own.
func (c *call) framed(most, completion, choices string) int64 {
	member := func(name, value string) int {
		if value == "" {
			return 0
		}
		return len(`"":,`) + len(name) + len(value)
	}
	if c.protocol == config.ProtocolGemini {
		n := len(geminiFrame)
		if most != "" {
			n += len(`"generationConfig":{"maxOutputTokens":},`) + len(most)
		}
		return int64(n)
	}
	n := len(chatFrame) + len(c.model) + member("max_tokens", most) + member("max_completion_tokens", completion) + member("n", choices)
	if c.stream {
		n += member("stream", "true")
	}
	if c.usage {
		n += member("stream_options", `{"include_usage":true}`)
	}
	return int64(n)
}

// plain reports whether a request id is only letters, digits and dashes, so that it
// can stand in keys, headers and messages.
func plain(id string) bool {
	return strings.IndexFunc(id, func(r rune) bool {
		return r != '-' && r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	}) < 0
}

func (c *call) readOutput(most, completion, choices string) error {
	if choices != "" {
		n, ok := whole(choices, maxChoices)
		if !ok || n == 0 {
			return errChoices
		}
		c.choices = n
	}
	if most != "" && completion != "" && most != completion {
		return errBoth
	}
	if most == "" {
		most = completion
	}
	if most == "" {
		return nil
	}
	n, ok := whole(most, maxTokens)
	if !ok || n == 0 {
		return errMaxTokens
	}
	c.stated = n
	return nil
}

func (c *call) readInput(bytes string) error {
	n, ok := whole(bytes, maxBytes)
	if !ok {
		return errBytes
	}
	c.bytes = n
	return nil
}

// whole reads a decimal number without sign, 0 to most.
func whole(text string, most int64) (int64, bool) {
	if text == "" || len(text) > 18 || text[0] == '+' || text[0] == '-' {
		return 0, false
	}
	n, err := strconv.ParseInt(text, 10, 64)
	return n, err == nil && n <= most
}

// price bounds what the call may use, by its provider and model. The error says that it
// had to state its maximum.
func (p *policy) price(c *call) error {
	provider := p.providers[c.provider]
	perByte, fill := provider.TokensPerByte, provider.OutputFill
	if perByte <= 0 {
		perByte = 1
	}
	if fill <= 0 {
		fill = 1024
	}
	model := p.models[c.model]
	if model.Kind == "embedding" {
		c.frame = min(c.frame, int64(len(embedFrame)+len(c.model)))
	}
	text := c.bytes
	if perByte < 1 {
		text = max(0, text-c.frame)
	}
	c.input = int64(math.Ceil(float64(text) * perByte))
	if provider.LearnInput {
		c.input = min(c.input, p.learned.bound(c.provider, c.model, c.bytes, perByte))
	}
	if model.Kind == "embedding" {
		c.stated = 0
		return nil
	}
	if c.stated > 0 {
		c.output = c.stated * c.choices
		return nil
	}
	switch mode := p.maxTokens.For(c.route); {
	case mode == config.MaxTokensReject:
		return errUnstated
	case mode == config.MaxTokensModel && model.MaxOutput > 0:
		c.output = model.MaxOutput * c.choices
		return nil
	}
	if model.MaxOutput > 0 {
		fill = min(fill, model.MaxOutput)
	}
	c.fill = fill * c.choices
	return nil
}

// accountOf names whose buckets hold: the organisation, else the user, else the address.
func accountOf(org, user string, descriptors []descriptor) string {
	switch {
	case org != "":
		return "org:" + tag(canonical(org))
	case user != "":
		return "user:" + tag(canonical(user))
	}
	for _, d := range descriptors {
		for _, e := range d {
			if e.Key == "remote_address" && e.Value != "" && e.Value != attributes.Absent {
				return "ip:" + tag(e.Value)
			}
		}
	}
	return "ip:unknown"
}

// tag makes a value fit to stand between the braces of a key's hash tag.
func tag(value string) string {
	if len(value) <= 128 && strings.IndexFunc(value, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '{' || r == '}' }) < 0 {
		return value
	}
	return string((&limits.Rule{}).AppendKey(nil, []limits.Entry{{Value: value}}))
}

// callers finds organisation and user among the descriptors of a request without facts.
func callers(descriptors []descriptor) (org, user, tier string) {
	for _, d := range descriptors {
		for _, e := range d {
			switch {
			case e.Value == attributes.Absent:
			case e.Key == attributes.Org:
				org = e.Value
			case e.Key == attributes.User:
				user = e.Value
			case e.Key == attributes.Tier:
				tier = e.Value
			}
		}
	}
	return org, user, tier
}

// facts are what is kept with the hold, for its event should it expire.
func (c *call) facts() []byte {
	f := limitpb.Facts{RequestId: c.id, User: c.user, Org: c.org, Key: c.key, Tier: c.tier, Route: c.route, Provider: c.provider,
		Model:      c.model,
		InputBytes: c.bytes, Stream: c.stream, Team: c.team}
	b, err := proto.MarshalOptions{}.MarshalAppend(make([]byte, 0, 256), &f)
	if err != nil { // text that is not UTF-8
		b, _ = proto.Marshal(&limitpb.Facts{RequestId: c.id, Provider: "unknown"})
	}
	return b
}

// splice is what Envoy appends to the body: the maximum that was granted, the usage
// that a stream must tell, and the model's name without the provider's prefix.
func (c *call) splice(granted int64) (members, generation string) {
	var b []byte
	member := func(name string) {
		if len(b) > 0 {
			b = append(b, ',')
		}
		b = append(b, name...)
	}
	filled := c.output == 0 && c.fill > 0
	if c.protocol == config.ProtocolGemini {
		if filled {
			generation = `"maxOutputTokens":` + strconv.FormatInt(granted/c.choices, 10)
		}
		return "", generation
	}
	if c.prefixed {
		member(`"model":`)
		b = appendJSON(b, c.model)
	}
	if filled {
		member(`"max_tokens":`)
		b = strconv.AppendInt(b, granted/c.choices, 10)
	}
	if c.stream && !c.usage {
		member(`"stream_options":{"include_usage":true}`)
	}
	return string(b), ""
}
