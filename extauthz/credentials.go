package extauthz

import (
	"errors"
	"net/url"
	"strings"

	"github.com/leaky-tokens/leaky-tokens/internal/apikey"
)

// credentials are what a request brings, unchecked. At most one of each kind.
type credentials struct {
	token    string // JWT
	key      string // API key
	inQuery  bool   // the query has a key parameter, which must not go upstream
	anything bool   // some credential is present, well-formed or not
}

var (
	// errMalformed: a credential is present but cannot be one of ours.
	errMalformed = errors.New("malformed credential")
	// errSeveral: credentials of one kind that differ, or a repeated Authorization.
	errSeveral = errors.New("several credentials")
)

// Names of the credential headers, as Envoy gives them: in lower case.
const (
	headerAuthorization = "authorization"
	headerAPIKey        = "x-api-key"
	headerGoogleKey     = "x-goog-api-key"
	queryKey            = "key"
)

// readCredentials finds the credentials in the headers and the query of a path.
// Envoy joins a repeated header with commas. A blank value counts as absent.
func readCredentials(from call) (c credentials, err error) {
	if value := strings.Trim(from.authorization, " \t"); value != "" {
		c.anything = true
		bearer, err := parseBearer(value)
		if err != nil {
			return c, err
		}
		if apikey.Looks(bearer) {
			c.key = bearer
		} else {
			c.token = bearer
		}
	}
	for _, value := range [...]string{from.apiKey, from.googleKey} {
		if value != "" {
			if err := c.addKeys(value); err != nil {
				return c, err
			}
		}
	}
	if _, query, ok := strings.Cut(from.path, "?"); ok && query != "" {
		err = c.addQuery(query)
	}
	return c, err
}

// parseBearer reads an Authorization header (RFC 6750, 2.1) and gives its token.
func parseBearer(value string) (string, error) {
	if strings.Contains(value, ",") {
		return "", errSeveral
	}
	scheme, token, _ := strings.Cut(value, " ")
	token = strings.Trim(token, " \t")
	if !strings.EqualFold(scheme, "bearer") || token == "" || strings.ContainsAny(token, " \t") {
		return "", errMalformed
	}
	return token, nil
}

// addKeys takes the keys of one header; all keys of a request must be the same.
func (c *credentials) addKeys(value string) error {
	for part := range strings.SplitSeq(value, ",") {
		part = strings.Trim(part, " \t")
		if part == "" {
			continue
		}
		if err := c.addKey(part); err != nil {
			return err
		}
	}
	return nil
}

func (c *credentials) addKey(key string) error {
	c.anything = true
	if c.key != "" && c.key != key {
		return errSeveral
	}
	c.key = key
	return nil
}

// addQuery takes ?key=. Its name in percent-encoding is refused, since what removes
// the parameter looks for it as it is written.
func (c *credentials) addQuery(query string) error {
	query, _, _ = strings.Cut(query, "#")
	for pair := range strings.SplitSeq(query, "&") {
		name, value, _ := strings.Cut(pair, "=")
		if name != queryKey {
			if strings.Contains(name, "%") {
				if plain, err := url.QueryUnescape(name); err == nil && plain == queryKey {
					c.anything = true
					return errMalformed
				}
			}
			continue
		}
		c.inQuery = true
		plain, err := url.QueryUnescape(value)
		if err != nil {
			c.anything = true
			return errMalformed
		}
		if plain = strings.TrimSpace(plain); plain == "" {
			continue
		}
		if err := c.addKey(plain); err != nil {
			return err
		}
	}
	return nil
}
