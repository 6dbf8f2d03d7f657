package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/leaky-tokens/leaky-tokens/internal/wording"
)

const (
	// MaxBody is the most a request body of the control APIs may hold, in bytes.
	MaxBody = 64 << 10
	// MaxDepth is how deep a body may nest.
	MaxDepth = 16
)

// ReadJSON decodes the body into dst, a pointer to a struct. Unknown members are
// ignored, as the predecessor's clients send some; a wrong type names the member; one that
// is there twice is refused, as two readers may pick different ones (RFC 8259 section 4).
// Errors are *Error: 415 for another content type, 413 over MaxBody, 400 otherwise.
func ReadJSON(w http.ResponseWriter, r *http.Request, dst any) error {
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || media != "application/json" && !strings.HasSuffix(media, "+json") {
		return Fail(http.StatusUnsupportedMediaType, "content type must be application/json")
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxBody))
	if err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return Fail(http.StatusRequestEntityTooLarge, "body is larger than %d bytes", MaxBody)
		}
		return Fail(http.StatusBadRequest, "body could not be read")
	}
	switch {
	case !utf8.Valid(body):
		return Fail(http.StatusBadRequest, "malformed JSON: not UTF-8")
	case depth(body) > MaxDepth:
		return Fail(http.StatusBadRequest, "malformed JSON: nested deeper than %d", MaxDepth)
	case !bytes.HasPrefix(bytes.TrimLeft(body, " \t\r\n"), []byte("{")):
		return Fail(http.StatusBadRequest, "malformed JSON: an object is expected")
	}
	if name, ok := repeated(body); ok {
		return Fail(http.StatusBadRequest, "malformed JSON: member %q is there more than once", name)
	}
	if err := json.Unmarshal(body, dst); err != nil {
		if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok && wrong.Field != "" {
			return &Error{Status: http.StatusBadRequest, Message: wrong.Field + " has the wrong type",
				Fields: []FieldError{{Field: wrong.Field, Message: wording.Member(wrong)}}}
		}
		return Fail(http.StatusBadRequest, "malformed JSON")
	}
	return nil
}

// depth is the deepest nesting of a JSON text, strings skipped.
func depth(body []byte) int {
	var deepest, now int
	var inString, escaped bool
	for _, c := range body {
		switch {
		case inString && escaped:
			escaped = false
		case inString && c == '\\':
			escaped = true
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			now++
			deepest = max(deepest, now)
		case c == '}' || c == ']':
			now--
		}
	}
	return deepest
}

// repeated finds a member that an object has more than once, at any depth. Case does not
// count, as it does not for the decoder. A malformed text has none: the decoder tells.
func repeated(body []byte) (name string, found bool) {
	decoder := json.NewDecoder(bytes.NewReader(body))
	type level struct {
		names map[string]bool // nil in an array
		value bool            // the next token of an object is a value
	}
	var levels []level
	for {
		token, err := decoder.Token()
		if err != nil {
			return "", false
		}
		if delim, ok := token.(json.Delim); ok && (delim == '}' || delim == ']') {
			levels = levels[:len(levels)-1]
			continue
		}
		if n := len(levels); n > 0 && levels[n-1].names != nil {
			top := &levels[n-1]
			if text, ok := token.(string); ok && !top.value {
				folded := strings.ToLower(text)
				if top.names[folded] {
					return text[:min(len(text), 64)], true
				}
				top.names[folded], top.value = true, true
				continue
			}
			top.value = false
		}
		switch token {
		case json.Delim('{'):
			levels = append(levels, level{names: map[string]bool{}})
		case json.Delim('['):
			levels = append(levels, level{})
		}
	}
}
