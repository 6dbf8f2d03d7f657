package saga

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/ledger"
)

const (
	// maxTokens is the most that one purchase may be of.
	maxTokens = 1_000_000
	// longestKey is in characters.
	longestKey = 100
	// headerKey is draft-ietf-httpapi-idempotency-key-header's. The draft's value is a quoted
	// string; the predecessor's clients send it bare, and both are one key here as they are sent.
	headerKey = "Idempotency-Key"
)

// body is what a caller sends. Pointers tell what is missing from what is blank.
type body struct {
	UserID   *string `json:"userId"`
	OrgID    *string `json:"orgId"`
	Provider *string `json:"provider"`
	Tokens   *int64  `json:"tokens"`
	Refill   *string `json:"refill"` // window or never: of the pool; absent: the default, or what the pool does
}

// order is a request that passed every check but whether the caller may.
type order struct {
	user     uuid.UUID
	org      *uuid.UUID
	provider string
	tokens   int64
	refill   string // empty: not stated
	key      string // empty: none
}

// read checks a request in the order of the contract.
func (b body) read(who principal.Principal, keys, providers []string) (order, error) {
	o := order{provider: strings.ToLower(strings.TrimSpace(value(b.Provider, "")))}
	user, org := strings.TrimSpace(value(b.UserID, who.UserID)), strings.TrimSpace(value(b.OrgID, ""))
	if org == "" {
		org = who.OrgID // a credential that acts for an organisation buys for it
	}
	switch {
	case user == "":
		return o, bad("userId is required")
	case o.provider == "":
		return o, bad("provider is required")
	case b.Tokens == nil || *b.Tokens < 1:
		return o, bad("tokens must be positive")
	case *b.Tokens > maxTokens:
		return o, bad("tokens must be at most %d", maxTokens)
	}
	o.tokens, o.refill = *b.Tokens, strings.TrimSpace(value(b.Refill, ""))
	if o.refill != "" && o.refill != ledger.RefillWindow && o.refill != ledger.RefillNever {
		return o, bad("refill must be window or never")
	}
	var err error
	if o.key, err = readKey(keys); err != nil {
		return o, err
	}
	if o.user, err = canonical(user); err != nil {
		return o, bad("invalid userId or orgId")
	}
	if org != "" {
		id, err := canonical(org)
		if err != nil {
			return o, bad("invalid userId or orgId")
		}
		o.org = &id
	}
	if !slices.Contains(providers, o.provider) {
		return o, bad("unknown provider")
	}
	return o, nil
}

// readKey takes the key from the header's values: trimmed, blank is none.
func readKey(values []string) (string, error) {
	if len(values) > 1 {
		return "", bad("more than one idempotency key")
	}
	key := strings.TrimSpace(strings.Join(values, ""))
	switch {
	case !utf8.ValidString(key) || strings.ContainsFunc(key, unicode.IsControl):
		return "", bad("invalid idempotency key")
	case utf8.RuneCountInString(key) > longestKey:
		return "", bad("idempotency key too long")
	}
	return key, nil
}

// hash tells a repeated order from another one under the same key.
func (o order) hash() []byte {
	org := ""
	if o.org != nil {
		org = o.org.String()
	}
	text := fmt.Appendf(nil, "%s\n%s\n%s\n%d", o.user, org, o.provider, o.tokens)
	if o.refill != "" {
		text = fmt.Appendf(text, "\n%s", o.refill)
	}
	sum := sha256.Sum256(text)
	return sum[:]
}

func value(p *string, missing string) string {
	if p == nil {
		return missing
	}
	return *p
}

// canonical refuses the other spellings of a UUID (URN, braces, no dashes).
func canonical(text string) (uuid.UUID, error) {
	id, err := uuid.Parse(text)
	if err == nil && len(text) != 36 {
		err = fmt.Errorf("%q is not the usual spelling of a UUID", text)
	}
	return id, err
}

func bad(format string, args ...any) *httpapi.Error {
	return httpapi.Fail(http.StatusBadRequest, format, args...)
}
