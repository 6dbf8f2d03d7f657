package identity

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
)

// Limits of the contract (§19.7). Characters are code points.
const (
	maxEmail    = 100
	minPassword = 8  // bytes
	maxPassword = 72 // bytes
	maxKeyName  = 100
)

var (
	usernameShape = regexp.MustCompile(`^[A-Za-z0-9._-]{1,50}$`)
	teamShape     = regexp.MustCompile(`^[A-Za-z0-9._-]{1,50}$`)
	roleShape     = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,50}$`)
)

// invalid is a 400 about one field.
func invalid(field, message string) *httpapi.Error {
	return invalidFields([]httpapi.FieldError{{Field: field, Message: message}})
}

// invalidFields is a 400 that names every field at fault.
func invalidFields(fields []httpapi.FieldError) *httpapi.Error {
	messages := make([]string, len(fields))
	for i, f := range fields {
		messages[i] = f.Message
	}
	return &httpapi.Error{Status: http.StatusBadRequest, Message: strings.Join(messages, "; "), Fields: fields}
}

func checkUsername(s string) []httpapi.FieldError {
	if usernameShape.MatchString(s) {
		return nil
	}
	return []httpapi.FieldError{{Field: "username", Message: "username must be 1 to 50 letters, digits, '.', '_' or '-'"}}
}

// reserved are names that people would take for the product or those who run it, as their
// skeletons (name_skeleton in the schema): capital I, l and 1, and 0 and o, are one.
func reserved(name string) bool {
	look := strings.NewReplacer("0", "o", "1", "l", "i", "l", "|", "l").Replace(strings.ToLower(name))
	look = strings.NewReplacer("rn", "m", "vv", "w").Replace(look)
	switch strings.Trim(look, "._-") {
	case "admln", "admlnlstrator", "anonymous", "bllllng", "cllent", "help", "leaky", "leakytokens", "leaky-tokens", "leaky.tokens",
		"leaky_tokens", "moderator", "nobody", "operator", "postmaster", "root", "securlty", "servlce", "support", "system", "":
		return true
	}
	return strings.HasPrefix(look, "cllent.") // service accounts of OAuth2 clients
}

// checkNewName looks at a name that somebody takes for a new account.
func checkNewName(s string) []httpapi.FieldError {
	if bad := checkUsername(s); len(bad) > 0 {
		return bad
	}
	if reserved(s) {
		return []httpapi.FieldError{{Field: "username", Message: "username is reserved, choose another"}}
	}
	return nil
}

func checkEmail(s string) []httpapi.FieldError {
	local, domain, at := strings.Cut(s, "@")
	if at && local != "" && domain != "" && !strings.Contains(domain, "@") && utf8.RuneCountInString(s) <= maxEmail && printable(s) &&
		!strings.ContainsFunc(s, unicode.IsSpace) {
		return nil
	}
	return []httpapi.FieldError{{Field: "email", Message: fmt.Sprintf("email must be an address with '@' of at most %d characters", maxEmail)}}
}

// checkPassword looks at a new password of a user; field is where it stands.
func checkPassword(field, password, username string) []httpapi.FieldError {
	fault := func(message string) []httpapi.FieldError {
		return []httpapi.FieldError{{Field: field, Message: message}}
	}
	switch {
	case len(password) < minPassword || len(password) > maxPassword:
		return fault(fmt.Sprintf("password must be %d to %d bytes", minPassword, maxPassword))
	case !utf8.ValidString(password) || strings.Contains(password, "\x00"):
		return fault("password must not contain NUL")
	case len(username) >= 3 && strings.Contains(strings.ToLower(password), strings.ToLower(username)):
		return fault("password must not contain the username")
	case common(password):
		return fault("password is too easy to guess: it is on every attacker's list, or close to one that is")
	}
	return nil
}

// keyName gives the name of a key, nil for none.
func keyName(given *string) (*string, error) {
	if given == nil {
		return nil, nil
	}
	name := strings.TrimSpace(*given)
	switch {
	case name == "":
		return nil, nil
	case utf8.RuneCountInString(name) > maxKeyName:
		return nil, invalid("name", fmt.Sprintf("name must be at most %d characters", maxKeyName))
	case !printable(name):
		return nil, invalid("name", "name must not contain control characters")
	}
	return &name, nil
}

// expiry reads the end of a key, nil for never.
func expiry(given *string, now time.Time) (*time.Time, error) {
	if given == nil {
		return nil, nil
	}
	at, err := time.Parse(time.RFC3339, *given)
	if err != nil {
		return nil, invalid("expiresAt", "expiresAt must be an RFC 3339 date-time")
	}
	if !at.After(now) {
		return nil, invalid("expiresAt", "expiresAt is in the past")
	}
	at = at.UTC().Truncate(time.Microsecond)
	return &at, nil
}

// printable says that a text has no control or invisible formatting characters, which
// Postgres refuses (NUL) or people cannot see.
func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(c rune) bool { return unicode.IsControl(c) || unicode.Is(unicode.Cf, c) })
}
