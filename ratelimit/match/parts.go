package match

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
)

// parts are the parts of one kind in a call's content.
type parts struct {
	kind       string
	count      int64
	references int64 // of those, that are not in the body
	bytes      int64 // of base64 in the body
}

var errParts = errors.New("the facts about the content's parts make no sense")

// readParts reads attributes.Parts: kind:parts:references:bytes of each kind.
func readParts(text string) ([]parts, error) {
	if text == "" {
		return nil, nil
	}
	var all []parts
	for one := range strings.SplitSeq(text, ",") {
		f := strings.Split(one, ":")
		if len(f) != 4 || !slices.Contains(config.PartKinds(), f[0]) {
			return nil, errParts
		}
		p := parts{kind: f[0]}
		for i, n := range []*int64{&p.count, &p.references, &p.bytes} {
			var ok bool
			if *n, ok = wholeNumber(f[i+1], maxBytes); !ok {
				return nil, errParts
			}
		}
		all = append(all, p)
	}
	return all, nil
}

// partError says that a kind of part is not taken, as its tokens have no bound.
type partError struct{ kind, model string }

func (e partError) Error() string {
	return fmt.Sprintf("the request holds a part of kind %q, whose tokens have no bound for the model %q, so that it is not taken here; "+
		"the operator may set parts.%s of the model or its provider", e.kind, e.model, e.kind)
}

// priceParts is the most tokens that the parts take, and how many bytes of the body are theirs
// and no text.
func priceParts(all []parts, prices map[string]config.Part, model string) (tokens, bytes int64, err error) {
	for _, p := range all {
		price, ok := prices[p.kind]
		if !ok || price.Refuse || price.PerByte > 0 && p.references > 0 {
			return 0, 0, partError{p.kind, model}
		}
		tokens += min(p.count*price.Tokens, maxTokens) + int64(math.Ceil(float64(p.bytes)*price.PerByte))
		bytes += p.bytes
	}
	return tokens, bytes, nil
}
