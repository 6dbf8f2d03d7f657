package match

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/errorbody"
	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
)

const (
	// maxTokens is the most output tokens a call may ask for.
	maxTokens = math.MaxInt32
	// maxChoices is the largest number of answers to one call: n of each of its prompts.
	maxChoices = 4096
	// maxBytes is the largest body counted, in bytes.
	maxBytes = 1 << 40
	// MaxID is the longest request id, in bytes.
	MaxID = 128
)

// ErrNoID says that a call's attributes name no request id, or none that ValidID takes.
var ErrNoID = errors.New("the facts name no request id")

var (
	errMaxTokens = fmt.Errorf("max_tokens must be a whole number from 1 to %d", int64(maxTokens))
	errBoth      = errors.New("max_tokens and max_completion_tokens differ; state one")
	errChoices   = fmt.Errorf("n must be a whole number from 1 to %d", maxChoices)
	errUnstated  = errors.New("max_tokens is missing: this route takes no call without it")
	errBytes     = errors.New("the length of the body is not known")
)

// Call is what the first descriptor of an LLM request comes to. Its texts are the
// client's and Envoy's; its numbers are checked.
type Call struct {
	ID       string
	Account  string // whose buckets hold, see Account
	Tier     string
	Route    string
	Provider string
	Model    string // as configured: as asked, without the provider's prefix
	User     string
	Org      string
	Team     string
	Key      string
	Bytes    int64 // of the body
	Choices  int64 // n
	Stream   bool
	Usage    bool   // the client asks for usage itself
	Upstream string // the model as its provider calls it, if the body says something else; else empty

	Maximum   string // member that states the maximum where the limiter does
	Renames   string // member that states it now, and that the model does not take; empty: none
	AsksUsage bool   // the stream's usage is to be asked for
	Moves     bool   // it goes on at this model, and held for another before

	Protocol config.Protocol
	Input    int64 // most tokens of the input
	Output   int64 // most tokens of the output as stated, of all choices
	Fill     int64 // most tokens to grant when none is stated, of all choices; 0: no output

	parts  []parts
	frame  int64 // bytes of the body that are known to be no text
	stated int64 // the client's maximum for one choice, 0 when it stated none
}

// statedNumbers are the numbers of a call as its client wrote them.
type statedNumbers struct{ most, completion, choices, bytes, parts string }

// Blame is the member of the body that an error of ReadCall is about, and the error's code in
// answers; empty where there is none.
func (c *Call) Blame(err error) (param, code string) {
	_, part := errors.AsType[partError](err)
	switch {
	case part:
		return "", errorbody.CodePart
	case errors.Is(err, errUnstated), errors.Is(err, errMaxTokens), errors.Is(err, errBoth):
		return c.Maximum, ""
	case errors.Is(err, errChoices):
		return attributes.N, ""
	}
	return "", ""
}

// ReadCall reads the first descriptor of an LLM request and prices the call. The error is
// for the caller: it says which value cannot be met. A call without an id is ErrNoID; else
// the call is returned with the error, as far as it could be read.
func (p *Policy) ReadCall(d Descriptor) (*Call, error) {
	c := &Call{Choices: 1}
	stated := c.readAttributes(d)
	if !ValidID(c.ID) {
		return c, ErrNoID
	}
	c.Protocol = p.pricing.providers[c.Provider].Protocol
	does := p.pricing.operations[c.Route]
	c.frame = p.pricing.framed(c, stated)
	asked := c.Model
	provider, model := p.pricing.find(c)
	if name := model.Upstream(); (name != asked || c.Moves) && c.Protocol != config.ProtocolGemini {
		c.Upstream = name
	}
	c.AsksUsage = c.Protocol != config.ProtocolGemini && c.Stream && !c.Usage && !c.Moves && does.Asks && p.pricing.asksUsage(provider, model)
	c.nameMaximum(cmp.Or(does.Maximum, model.MaxTokensName), stated)
	err := errors.Join(c.readOutput(stated), c.readInput(stated))
	return c, errors.Join(err, p.pricing.price(c, provider, model))
}

// nameMaximum finds out by which member the model takes its maximum (empty: by either), and
// which stands there instead.
func (c *Call) nameMaximum(name string, stated statedNumbers) {
	switch c.Maximum = name; {
	case c.Protocol == config.ProtocolGemini:
		c.Maximum = attributes.MaxOutputTokens
	case name == "":
		c.Maximum = config.MaxTokensMember
	case name == config.MaxTokensMember && stated.most == "" && stated.completion != "":
		c.Renames = config.MaxCompletionTokensMember
	case name == config.MaxCompletionTokensMember && stated.completion == "" && stated.most != "":
		c.Renames = config.MaxTokensMember
	}
}

// Filled reports whether the client left the maximum open and the limiter states it.
func (c *Call) Filled() bool { return c.Output == 0 && c.Fill > 0 }

// readAttributes takes over the texts of the descriptor.
func (c *Call) readAttributes(d Descriptor) (stated statedNumbers) {
	for _, e := range d {
		if e.Value == attributes.Absent {
			continue
		}
		switch e.Key {
		case attributes.Hold:
			c.ID = e.Value
		case attributes.Moves:
			c.Moves = true
		case attributes.Route:
			c.Route = e.Value
		case attributes.Provider:
			c.Provider = e.Value
		case attributes.Model:
			c.Model = e.Value
		case attributes.MaxTokens:
			stated.most = e.Value
		case attributes.MaxCompletionTokens:
			stated.completion = e.Value
		case attributes.N:
			stated.choices = e.Value
		case attributes.Stream:
			c.Stream = e.Value == "true"
		case attributes.IncludeUsage:
			c.Usage = e.Value == "true"
		case attributes.Bytes:
			stated.bytes = e.Value
		case attributes.Parts:
			stated.parts = e.Value
		case attributes.User:
			c.User = e.Value
		case attributes.Org:
			c.Org = e.Value
		case attributes.Team:
			c.Team = e.Value
		case attributes.Key:
			c.Key = e.Value
		case attributes.Tier:
			c.Tier = e.Value
		}
	}
	return stated
}

// ValidID reports whether a request id is only letters, digits and dashes, so that it
// can stand in keys, headers and messages.
func ValidID(id string) bool {
	return id != "" && len(id) <= MaxID && strings.IndexFunc(id, func(r rune) bool {
		return r != '-' && r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	}) < 0
}

func (c *Call) readOutput(stated statedNumbers) error {
	if stated.choices != "" {
		n, ok := wholeNumber(stated.choices, maxChoices)
		if !ok || n == 0 {
			return errChoices
		}
		c.Choices = n
	}
	if stated.most != "" && stated.completion != "" && stated.most != stated.completion {
		return errBoth
	}
	most := stated.most
	if most == "" {
		most = stated.completion
	}
	if most == "" {
		return nil
	}
	n, ok := wholeNumber(most, maxTokens)
	if !ok || n == 0 {
		return errMaxTokens
	}
	c.stated = n
	return nil
}

func (c *Call) readInput(stated statedNumbers) error {
	n, ok := wholeNumber(stated.bytes, maxBytes)
	if !ok {
		return errBytes
	}
	c.Bytes = n
	var err error
	c.parts, err = readParts(stated.parts)
	return err
}

// wholeNumber reads a decimal number without sign, 0 to most.
func wholeNumber(text string, most int64) (int64, bool) {
	if text == "" || len(text) > 18 || text[0] == '+' || text[0] == '-' {
		return 0, false
	}
	n, err := strconv.ParseInt(text, 10, 64)
	return n, err == nil && n <= most
}

// Facts are what is kept with the hold, for its event should it expire: an encoded
// limitpb.Facts.
func (c *Call) Facts() []byte {
	f := limitpb.Facts{RequestId: c.ID, User: c.User, Org: c.Org, Key: c.Key, Tier: c.Tier, Route: c.Route, Provider: c.Provider,
		Model: c.Model, InputBytes: c.Bytes, Stream: c.Stream, Team: c.Team}
	b, err := proto.MarshalOptions{}.MarshalAppend(make([]byte, 0, 256), &f)
	if err != nil { // text that is not UTF-8
		b, _ = proto.Marshal(&limitpb.Facts{RequestId: c.ID, Provider: "unknown"})
	}
	return b
}
