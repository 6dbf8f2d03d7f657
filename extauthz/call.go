package extauthz

import (
	"errors"
	"fmt"

	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/leaky-tokens/leaky-tokens/internal/facts"
)

// call is the little of a CheckRequest that decides.
type call struct {
	path          string // with the query
	requestID     string
	authorization string
	apiKey        string
	googleKey     string
	rule          string // facts.ContextRule
	audience      string // facts.ContextAudience
	family        string // facts.ContextFamily
}

const headerRequestID = "x-request-id"

// callOf picks a call out of the message.
func callOf(req *auth.CheckRequest) call {
	http, extensions := req.GetAttributes().GetRequest().GetHttp(), req.GetAttributes().GetContextExtensions()
	headers := http.GetHeaders()
	return call{path: http.GetPath(), requestID: headers[headerRequestID],
		authorization: headers[headerAuthorization], apiKey: headers[headerAPIKey], googleKey: headers[headerGoogleKey],
		rule: extensions[facts.ContextRule], audience: extensions[facts.ContextAudience], family: extensions[facts.ContextFamily]}
}

// Field numbers of CheckRequest, AttributeContext, its Request and HttpRequest
// (envoy/service/auth/v3), and of a map entry.
const (
	fieldAttributes = 1
	fieldRequest    = 4
	fieldExtensions = 10
	fieldHTTP       = 2
	fieldHeaders    = 3
	fieldPath       = 4
	fieldMapKey     = 1
	fieldMapValue   = 2
)

// field of call names where a text belongs; nil: nowhere.
func (c *call) header(name []byte) *string {
	switch string(name) {
	case headerAuthorization:
		return &c.authorization
	case headerAPIKey:
		return &c.apiKey
	case headerGoogleKey:
		return &c.googleKey
	case headerRequestID:
		return &c.requestID
	}
	return nil
}

func (c *call) extension(name []byte) *string {
	switch string(name) {
	case facts.ContextRule:
		return &c.rule
	case facts.ContextAudience:
		return &c.audience
	case facts.ContextFamily:
		return &c.family
	}
	return nil
}

var errBadWire = errors.New("malformed CheckRequest")

// decode reads a CheckRequest as it is on the wire. A message with all headers takes
// a hundred allocations to unmarshal, and four of its fields are wanted.
func (c *call) decode(wire []byte) error {
	return eachField(wire, func(n protowire.Number, attributes []byte) error {
		if n != fieldAttributes {
			return nil
		}
		return eachField(attributes, func(n protowire.Number, part []byte) error {
			switch n {
			case fieldRequest:
				return c.decodeRequest(part)
			case fieldExtensions:
				return decodeEntry(part, c.extension)
			}
			return nil
		})
	})
}

func (c *call) decodeRequest(wire []byte) error {
	return eachField(wire, func(n protowire.Number, http []byte) error {
		if n != fieldHTTP {
			return nil
		}
		return eachField(http, func(n protowire.Number, part []byte) error {
			switch n {
			case fieldHeaders:
				return decodeEntry(part, c.header)
			case fieldPath:
				c.path = string(part)
			}
			return nil
		})
	})
}

// decodeEntry reads a map entry into where its key belongs. As in any map the last of
// two entries counts, and an absent value is empty.
func decodeEntry(wire []byte, where func(name []byte) *string) error {
	var name, value []byte
	err := eachField(wire, func(n protowire.Number, part []byte) error {
		switch n {
		case fieldMapKey:
			name = part
		case fieldMapValue:
			value = part
		}
		return nil
	})
	if into := where(name); err == nil && into != nil {
		*into = string(value)
	}
	return err
}

// eachField gives the length-delimited fields of a message and skips all others.
func eachField(wire []byte, f func(protowire.Number, []byte) error) error {
	for len(wire) > 0 {
		number, kind, n := protowire.ConsumeTag(wire)
		if n < 0 {
			return fmt.Errorf("%w: %w", errBadWire, protowire.ParseError(n))
		}
		wire = wire[n:]
		if kind != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(number, kind, wire); n < 0 {
				return fmt.Errorf("%w: %w", errBadWire, protowire.ParseError(n))
			}
			wire = wire[n:]
			continue
		}
		part, n := protowire.ConsumeBytes(wire)
		if n < 0 {
			return fmt.Errorf("%w: %w", errBadWire, protowire.ParseError(n))
		}
		if err := f(number, part); err != nil {
			return err
		}
		wire = wire[n:]
	}
	return nil
}
