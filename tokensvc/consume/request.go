package consume

import (
	"net/http"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
)

// maxTokens is the most that one call may consume.
const maxTokens = 10_000

// body is what a caller sends. Pointers tell what is missing from what is blank.
type body struct {
	UserID   *string `json:"userId"`
	OrgID    *string `json:"orgId"`
	Provider *string `json:"provider"`
	Tokens   *int64  `json:"tokens"`
	Prompt   *string `json:"prompt"`
}

// order is a body that passed every check.
type order struct {
	user     string // canonical lower-case UUID
	org      string // the same, or empty
	team     string // within org, or empty
	provider string
	tokens   int64
	prompt   *string
}

// read checks the body in the order of the contract: fields, then ids.
func (b body) read(who principal.Principal, providers []string) (order, error) {
	o := order{user: who.UserID, org: who.OrgID, prompt: b.Prompt}
	user, org := strings.TrimSpace(value(b.UserID, who.UserID)), strings.TrimSpace(value(b.OrgID, ""))
	o.provider = strings.ToLower(strings.TrimSpace(value(b.Provider, "")))
	switch {
	case user == "":
		return o, refuse("userId is required")
	case o.provider == "":
		return o, refuse("provider is required")
	case b.Tokens == nil || *b.Tokens < 1:
		return o, refuse("tokens must be positive")
	case *b.Tokens > maxTokens:
		return o, refuse("tokens must be at most %d", maxTokens)
	}
	o.tokens = *b.Tokens
	var ok bool
	if o.user, ok = canonical(user); !ok {
		return o, refuse("invalid userId")
	}
	if org != "" {
		if o.org, ok = canonical(org); !ok {
			return o, refuse("invalid orgId")
		}
	}
	if !slices.Contains(providers, o.provider) {
		return o, refuse("unknown provider")
	}
	return o, nil
}

func value(p *string, missing string) string {
	if p == nil {
		return missing
	}
	return *p
}

// canonical is the one spelling of a UUID. The other forms that the library reads (URN,
// braces, no dashes) are refused: each would be a bucket of its own for some store.
func canonical(text string) (string, bool) {
	id, err := uuid.Parse(text)
	if err != nil || len(text) != 36 {
		return "", false
	}
	return id.String(), true
}

func refuse(format string, args ...any) *httpapi.Error {
	return httpapi.Fail(http.StatusBadRequest, format, args...)
}
