package extauthz

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
)

// tokenHeader are the members of a JOSE header that matter.
type tokenHeader struct{ alg, kid, typ string }

// splitToken looks at a token's header before any of its text is trusted: only access
// tokens that name their key, signed by a method we know, and none that brings a key.
// The type has to be at+jwt (RFC 9068, 4) also for our own logins, so that no other JWT
// of the same issuer, such as an ID token, passes for one.
func splitToken(token string) (h tokenHeader, signed string, signature []byte, err error) {
	last := strings.LastIndexByte(token, '.')
	head, payload, ok := strings.Cut(token[:max(last, 0)], ".")
	if !ok || strings.IndexByte(payload, '.') >= 0 {
		return h, "", nil, fmt.Errorf("%w: not a signed JWT", errInvalid)
	}
	text, err := base64.RawURLEncoding.Strict().DecodeString(head)
	if err != nil {
		return h, "", nil, fmt.Errorf("%w: header is not base64url", errInvalid)
	}
	if h, err = parseHeader(text); err != nil {
		return h, "", nil, err
	}
	switch {
	case h.alg != jwt.SigningMethodRS256.Alg() && h.alg != jwt.SigningMethodEdDSA.Alg():
		return h, "", nil, fmt.Errorf("%w: alg is neither RS256 nor EdDSA", errInvalid)
	case h.kid == "":
		return h, "", nil, fmt.Errorf("%w: no kid", errInvalid)
	case strings.TrimPrefix(strings.ToLower(h.typ), "application/") != "at+jwt":
		return h, "", nil, fmt.Errorf("%w: typ is not at+jwt", errInvalid)
	}
	if signature, err = base64.RawURLEncoding.Strict().DecodeString(token[last+1:]); err != nil || len(signature) == 0 {
		return h, "", nil, fmt.Errorf("%w: signature is not base64url", errInvalid)
	}
	return h, token[:last], signature, nil
}

// eachMember gives the members of a JSON object and nothing behind it. A name that
// comes twice is refused: which of the two counts depends on who reads it.
func eachMember(text []byte, most int, f func(name string, value json.RawMessage) error) error {
	malformed := fmt.Errorf("%w: not one JSON object of distinct members", errInvalid)
	dec := json.NewDecoder(bytes.NewReader(text))
	if open, err := dec.Token(); err != nil || open != json.Delim('{') {
		return malformed
	}
	for seen := make([]string, 0, 16); dec.More(); {
		token, err := dec.Token()
		if err != nil {
			return malformed
		}
		name, ok := token.(string)
		if !ok || slices.Contains(seen, name) || len(seen) == most {
			return malformed
		}
		seen = append(seen, name)
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return malformed
		}
		if err := f(name, value); err != nil {
			return err
		}
	}
	if end, err := dec.Token(); err != nil || end != json.Delim('}') {
		return malformed
	}
	if len(bytes.TrimSpace(text[dec.InputOffset():])) > 0 {
		return malformed
	}
	return nil
}

// parseHeader refuses members that name or bring a key, change the encoding or must be
// understood (jku, x5u, jwk, b64, crit and whatever else; RFC 8725, 3.10).
func parseHeader(text []byte) (h tokenHeader, err error) {
	err = eachMember(text, 8, func(name string, value json.RawMessage) error {
		var into *string
		switch name {
		case "alg":
			into = &h.alg
		case "kid":
			into = &h.kid
		case "typ":
			into = &h.typ
		default:
			return fmt.Errorf("%w: header member is not allowed", errInvalid)
		}
		if value[0] != '"' || json.Unmarshal(value, into) != nil {
			return fmt.Errorf("%w: header member is no text", errInvalid)
		}
		return nil
	})
	if err != nil {
		return tokenHeader{}, err
	}
	return h, nil
}

// accessClaims are those of an access token that matter.
type accessClaims struct {
	jwt.RegisteredClaims
	Roles   []string
	Version int64  // ver: the user's generation
	Session string // sid: the login or grant it came from
	Client  string // client_id
	Scope   string
	Org     string
	Team    string
	Bound   confirmation // cnf
	scoped  bool         // scope is there, be it empty
}

// confirmation names the key without which a token is no good (RFC 7800).
type confirmation struct {
	JKT string `json:"jkt"`
}

// firstParty is the client_id of our own logins, which no scope bounds unless they state one.
const firstParty = "leaky"

// maxClaims is the most members a token's claims have.
const maxClaims = 64

// parseClaims takes the claims by their exact names, since encoding/json would take
// "SUB" for "sub".
func parseClaims(text []byte) (*accessClaims, error) {
	c := &accessClaims{}
	err := eachMember(text, maxClaims, func(name string, value json.RawMessage) error {
		into := c.member(name)
		if into == nil {
			return nil
		}
		if name == "scope" {
			c.scoped = true
		}
		if bytes.Equal(value, []byte("null")) || json.Unmarshal(value, into) != nil {
			return fmt.Errorf("%w: claim %s has another type", errInvalid, name)
		}
		if name == "cnf" && c.Bound.JKT == "" {
			return fmt.Errorf("%w: bound in a way that cannot be checked", errInvalid)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

func (c *accessClaims) member(name string) any {
	switch name {
	case "iss":
		return &c.Issuer
	case "sub":
		return &c.Subject
	case "aud":
		return &c.Audience
	case "exp":
		return &c.ExpiresAt
	case "nbf":
		return &c.NotBefore
	case "iat":
		return &c.IssuedAt
	case "jti":
		return &c.ID
	case "roles":
		return &c.Roles
	case "ver":
		return &c.Version
	case "sid":
		return &c.Session
	case "client_id":
		return &c.Client
	case "scope":
		return &c.Scope
	case "org":
		return &c.Org
	case "team":
		return &c.Team
	case "cnf":
		return &c.Bound
	}
	return nil
}

// check looks at what the library does not.
func (c *accessClaims) check() error {
	if id, err := uuid.Parse(c.Subject); err != nil || id.String() != c.Subject {
		return fmt.Errorf("%w: sub is not a user id", errInvalid)
	}
	if c.Version < 0 {
		return fmt.Errorf("%w: ver is negative", errInvalid)
	}
	if !plausible(c.Org, c.Team) {
		return fmt.Errorf("%w: org or team is none", errInvalid)
	}
	return nil
}
