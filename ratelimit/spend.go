package ratelimit

import (
	"fmt"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/errorbody"
)

// patience is the longest wait after which an SDK tries again by itself (openai-python and
// openai-node give up above 120 s).
const patience = 120 * second

// spent is what a call is told whose organisation or team has used up its budget; false
// for every other refusal, also when there will be room in so short a time that waiting is
// the better advice.
func (c *call) spent(no refused) (errorbody.Refusal, bool) {
	codes := map[string]string{"org": errorbody.CodeOrganizationCap, "team": errorbody.CodeProjectCap}
	whose := no.limit.rule.Budget()
	if whose == "" || no.wait <= patience {
		return errorbody.Refusal{}, false
	}
	message := fmt.Sprintf("The spend limit %q of the %s is reached: %s tokens. There is room for this request in %s.", no.limit.rule.Name,
		map[string]string{"org": "organisation", "team": "team"}[whose], no.limit.capacity, duration(no.wait))
	return errorbody.Refusal{Status: 429, Message: message, Type: errorbody.TypeQuota, Code: codes[whose], RequestID: c.id}, true
}
