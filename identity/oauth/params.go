package oauth

import (
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds of what a request may carry. The longest honest value is the sealed form,
// which holds a whole authorization request.
const (
	maxForm   = 60 << 10 // bytes of a body or a query: what fits into the headers of a request
	maxParams = 40
	maxValue  = 32 << 10 // bytes of one decoded value
)

// params are the parameters of one request, each at most once but for paramResource, whose values stand
// with spaces between.
type params map[string]string

// paramResource may come several times (RFC 8707 section 2), each a URI and so without a space.
const paramResource = "resource"

// parseParams reads x-www-form-urlencoded text. A parameter that is given twice is
// refused (RFC 6749 sections 3.1 and 3.2: two readers may pick different ones), one
// without a value counts as absent. Control characters other than tab and line feeds
// are in no parameter of these protocols, and Postgres takes no NUL.
//
// With an error the parameters that were sound are given too, as an authorization
// request tells its client of the others, if client and redirect URI are sound.
func parseParams(text string) (params, error) {
	if len(text) > maxForm {
		return nil, refuse(codeInvalidRequest, "the parameters are longer than %d bytes", maxForm)
	}
	found, seen := params{}, map[string]bool{}
	var first error
	fail := func(format string, args ...any) {
		if first == nil {
			first = refuse(codeInvalidRequest, format, args...)
		}
	}
	for pair := range strings.SplitSeq(text, "&") {
		if pair == "" {
			continue
		}
		if len(seen) == maxParams {
			return nil, refuse(codeInvalidRequest, "more than %d parameters", maxParams)
		}
		rawName, rawValue, _ := strings.Cut(pair, "=")
		name, nameErr := url.QueryUnescape(rawName)
		value, valueErr := url.QueryUnescape(rawValue)
		if nameErr != nil || !plain(name) || len(name) > 100 {
			fail("a parameter's name is malformed")
			continue
		}
		switch {
		case name == paramResource:
			if why := found.addResource(value, valueErr); why != nil && first == nil {
				first = why
			}
		case seen[name]:
			delete(found, name)
			fail("a parameter is given more than once")
		case valueErr != nil || !plain(value):
			fail("a parameter is malformed")
		case len(value) > maxValue:
			fail("a parameter is longer than %d bytes", maxValue)
		case value != "":
			found[name] = value
		}
		seen[name] = true
	}
	return found, first
}

// plain says that a text is UTF-8 without control characters.
func plain(s string) bool { return utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl) }

// visible says that a text is printable ASCII (VSCHAR of RFC 6749 appendix A).
func visible(s string) bool {
	return !strings.ContainsFunc(s, func(c rune) bool { return c < 0x20 || c > 0x7e })
}

// readForm reads the parameters of a POST. They stand in the body alone: what is in
// the URI lands in logs (RFC 6749 section 2.3.1).
func readForm(w http.ResponseWriter, r *http.Request) (params, error) {
	if r.URL.RawQuery != "" {
		return nil, refuse(codeInvalidRequest, "parameters belong in the body")
	}
	return readBody(w, r)
}

func readBody(w http.ResponseWriter, r *http.Request) (params, error) {
	if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != "application/x-www-form-urlencoded" {
		return nil, refuse(codeInvalidRequest, "content type must be application/x-www-form-urlencoded")
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxForm))
	if err != nil {
		if _, large := errors.AsType[*http.MaxBytesError](err); large {
			return nil, &protocolError{status: http.StatusRequestEntityTooLarge, code: codeInvalidRequest, description: "the body is too large"}
		}
		return nil, refuse(codeInvalidRequest, "the body could not be read")
	}
	return parseParams(string(body))
}
