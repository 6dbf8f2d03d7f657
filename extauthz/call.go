package extauthz

import (
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/dpop"
	"github.com/leaky-tokens/leaky-tokens/internal/grpcbatch"
)

// call is the little of a CheckRequest that decides.
type call struct {
	method        string // of HTTP, as it is written
	path          string // with the query
	requestID     string
	client        string // attributes.HeaderNetwork: the network whose guesses are counted together
	authorization string
	apiKey        string
	googleKey     string
	azureKey      string
	proof         string // of the key that the token is bound to (RFC 9449)
	rule          string // attributes.ContextRule
	scope         string // attributes.ContextScope
	org           string // attributes.ContextOrg
	keys          string // attributes.ContextKeys
	audience      string // attributes.ContextAudience
	family        string // attributes.ContextFamily
}

const (
	headerRequestID = "x-request-id"
	headerClient    = attributes.HeaderNetwork
)

// callOf picks a call out of the message.
func callOf(req *auth.CheckRequest) call {
	http, extensions := req.GetAttributes().GetRequest().GetHttp(), req.GetAttributes().GetContextExtensions()
	headers := http.GetHeaders()
	return call{method: http.GetMethod(), path: http.GetPath(), requestID: headers[headerRequestID], client: headers[headerClient],
		authorization: headers[headerAuthorization], apiKey: headers[headerAPIKey], googleKey: headers[headerGoogleKey],
		azureKey: headers[headerAzureKey], proof: headers[dpop.Header],
		rule: extensions[attributes.ContextRule], scope: extensions[attributes.ContextScope],
		org: extensions[attributes.ContextOrg], keys: extensions[attributes.ContextKeys],
		audience: extensions[attributes.ContextAudience], family: extensions[attributes.ContextFamily]}
}

// Field numbers of CheckRequest, AttributeContext, its Request and HttpRequest
// (envoy/service/auth/v3), and of a map entry.
const (
	fieldAttributes = 1
	fieldRequest    = 4
	fieldExtensions = 10
	fieldHTTP       = 2
	fieldMethod     = 2
	fieldHeaders    = 3
	fieldPath       = 4
	fieldMapKey     = 1
	fieldMapValue   = 2
	tagMapKey       = fieldMapKey<<3 | byte(protowire.BytesType)
	tagMapValue     = fieldMapValue<<3 | byte(protowire.BytesType)
)

// header names where a header's value belongs; nil: nowhere.
func (c *call) header(name string) *string {
	switch name {
	case headerAuthorization:
		return &c.authorization
	case headerAPIKey:
		return &c.apiKey
	case headerGoogleKey:
		return &c.googleKey
	case headerAzureKey:
		return &c.azureKey
	case dpop.Header:
		return &c.proof
	case headerRequestID:
		return &c.requestID
	case headerClient:
		return &c.client
	}
	return nil
}

func (c *call) extension(name string) *string {
	switch name {
	case attributes.ContextRule:
		return &c.rule
	case attributes.ContextScope:
		return &c.scope
	case attributes.ContextOrg:
		return &c.org
	case attributes.ContextKeys:
		return &c.keys
	case attributes.ContextAudience:
		return &c.audience
	case attributes.ContextFamily:
		return &c.family
	}
	return nil
}

// decode reads a CheckRequest as it is on the wire; the call's texts are parts of it. A
// message with all headers takes a hundred allocations to unmarshal, and five of its
// fields are wanted.
func (c *call) decode(wire string) error {
	all := grpcbatch.FieldsOf(wire)
	for all.Next() {
		if !all.Is(fieldAttributes, protowire.BytesType) {
			continue
		}
		attributes := grpcbatch.FieldsOf(all.Value)
		for attributes.Next() {
			var err error
			switch {
			case attributes.Is(fieldRequest, protowire.BytesType):
				err = c.decodeRequest(attributes.Value)
			case attributes.Is(fieldExtensions, protowire.BytesType):
				var name, value string
				if name, value, err = entry(attributes.Value); err == nil {
					keep(c.extension(name), value)
				}
			}
			if err != nil {
				return err
			}
		}
		if attributes.Err != nil {
			return attributes.Err
		}
	}
	return all.Err
}

func (c *call) decodeRequest(wire string) error {
	request := grpcbatch.FieldsOf(wire)
	for request.Next() {
		if !request.Is(fieldHTTP, protowire.BytesType) {
			continue
		}
		http := grpcbatch.FieldsOf(request.Value)
		for http.Next() {
			switch {
			case http.Is(fieldHeaders, protowire.BytesType):
				name, value, err := entry(http.Value)
				if err != nil {
					return err
				}
				keep(c.header(name), value)
			case http.Is(fieldPath, protowire.BytesType):
				c.path = http.Value
			case http.Is(fieldMethod, protowire.BytesType):
				c.method = http.Value
			}
		}
		if http.Err != nil {
			return http.Err
		}
	}
	return request.Err
}

// keep stores a map's value where its key belongs. As in any map the last of two entries counts.
func keep(where *string, value string) {
	if where != nil {
		*where = value
	}
}

// entry reads a map entry; an absent value is empty.
func entry(wire string) (name, value string, err error) {
	// Key and value in this order, each of less than 128 bytes, as nearly all are.
	if len(wire) >= 4 && wire[0] == tagMapKey && wire[1] < 0x80 && int(wire[1]) <= len(wire)-4 {
		end := 2 + int(wire[1])
		if name, rest := wire[2:end], wire[end:]; rest[0] == tagMapValue && rest[1] < 0x80 && int(rest[1]) == len(rest)-2 {
			return name, rest[2:], nil
		}
	}
	f := grpcbatch.FieldsOf(wire)
	for f.Next() {
		switch {
		case f.Is(fieldMapKey, protowire.BytesType):
			name = f.Value
		case f.Is(fieldMapValue, protowire.BytesType):
			value = f.Value
		}
	}
	return name, value, f.Err
}
