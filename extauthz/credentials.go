package extauthz

import (
	"errors"
	"net/url"
	"strings"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/apikey"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/dpop"
)

// credentials are what a request brings, unchecked. At most one of each kind.
type credentials struct {
	token    string // JWT
	bound    bool   // the token comes by the scheme DPoP
	key      string // API key
	form     form   // what the answer has to do about them
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
	headerAzureKey      = "api-key" // Azure OpenAI's SDKs
	queryKey            = "key"
)

// readCredentials finds the credentials in the headers and the query of a path.
// Envoy joins a repeated header with commas. A blank value counts as absent. With keys
// off, what only an API key can be counts as absent too, and is removed all the same.
func readCredentials(from *call, keysOff bool) (c credentials, err error) {
	if value := strings.Trim(from.authorization, " \t"); value != "" {
		if err := c.addAuthorization(from, value, keysOff); err != nil {
			return c, err
		}
	}
	if keysOff {
		if _, query, ok := strings.Cut(from.path, "?"); ok && hasKey(query) {
			c.form |= dropQueryKey
		}
		return c, nil
	}
	for _, value := range [...]string{from.apiKey, from.googleKey, from.azureKey} {
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

// addAuthorization takes an Authorization header, unless it is for the endpoint to read.
// On other public paths one that is no Bearer token says nothing to us, and goes no further.
func (c *credentials) addAuthorization(from *call, value string, keysOff bool) error {
	if from.endpointReads() {
		c.form |= keepHeader
		return nil
	}
	bearer, bound, err := parseBearer(value)
	if err != nil {
		if from.rule == attributes.RulePublic && otherScheme(value) {
			return nil
		}
		c.anything = true
		return err
	}
	c.anything = true
	switch {
	case !apikey.Looks(bearer):
		c.token, c.bound = bearer, bound
	case keysOff || bound:
		return errMalformed
	default:
		c.key = bearer
	}
	return nil
}

// otherScheme reports whether a header has credentials of one scheme that is not Bearer.
func otherScheme(value string) bool {
	scheme, _, _ := strings.Cut(value, " ")
	for _, c := range []byte(strings.ToLower(scheme)) { // RFC 9110, 11.1: a token; of it, what registered schemes use
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	ours := strings.HasPrefix(strings.ToLower(scheme), "bearer") || strings.EqualFold(scheme, dpop.Scheme)
	return scheme != "" && !ours && !strings.Contains(value, ",")
}

// hasKey reports whether a query has a key parameter.
func hasKey(query string) bool {
	for pair := range strings.SplitSeq(query, "&") {
		if name, _, _ := strings.Cut(pair, "="); name == queryKey {
			return true
		}
	}
	return false
}

// parseBearer reads an Authorization header (RFC 6750, 2.1) and gives its token, and whether that comes
// with a proof (RFC 9449, 7.1).
func parseBearer(value string) (token string, bound bool, err error) {
	if strings.Contains(value, ",") {
		return "", false, errSeveral
	}
	scheme, rest, _ := strings.Cut(value, " ")
	token, bound = strings.Trim(rest, " \t"), strings.EqualFold(scheme, dpop.Scheme)
	if !bound && !strings.EqualFold(scheme, "bearer") || token == "" || strings.IndexByte(token, ' ') >= 0 ||
		strings.IndexByte(token, '\t') >= 0 {
		return "", false, errMalformed
	}
	return token, bound, nil
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
		c.form |= dropQueryKey
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
