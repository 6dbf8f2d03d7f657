package stubs

import (
	"strconv"
	"strings"
)

// bytesPerToken is the size of every generated token in bytes.
const bytesPerToken = 4

// words are the stub's vocabulary: each entry is one token of four bytes of ASCII
// that needs no escape in JSON.
const words = "the sea was low and the old man let his net go out far off the bar for cod and eel but all day one fat gull sat mid way " +
	"out and ate the lot so he put the net by and lit his ash log and sang how ice and fog and sun and wet may end but oak can not bow "

// vocabulary is words cut into tokens: three letters and a space, as fits.
var vocabulary = func() string {
	var b strings.Builder
	for _, w := range strings.Fields(words) {
		b.WriteString((w + "   ")[:3] + " ")
	}
	return strings.Repeat(b.String(), 64)
}()

// countTokens is the stub's tokenizer: ceil(bytes/4).
func countTokens(text string) int { return (len(text) + bytesPerToken - 1) / bytesPerToken }

// generate gives tokens*4 bytes of text; the same offset gives the same text.
func generateText(offset uint64, tokens int) string {
	start := int(offset%64) * bytesPerToken
	need := tokens * bytesPerToken
	if start+need <= len(vocabulary) {
		return vocabulary[start : start+need]
	}
	var b strings.Builder
	b.Grow(need)
	for b.Len() < need {
		piece := vocabulary[start:]
		b.WriteString(piece[:min(len(piece), need-b.Len())])
		start = 0
	}
	return b.String()
}

// fingerprint is FNV-1a over the head, the tail and the length of a text, so that a
// long prompt costs no more than a short one.
type fingerprint uint64

func newFingerprint() fingerprint { return 14695981039346656037 }

func (f fingerprint) add(text string) fingerprint {
	const window = 128
	h := uint64(f)
	mix := func(s string) {
		for i := range len(s) {
			h = (h ^ uint64(s[i])) * 1099511628211
		}
	}
	if len(text) <= 2*window {
		mix(text)
	} else {
		mix(text[:window])
		mix(text[len(text)-window:])
	}
	h = (h ^ uint64(len(text))) * 1099511628211
	return fingerprint(h)
}

const (
	shortest   = 20
	longest    = 120
	maxPlanned = 1 << 17 // most tokens of one answer, all choices together
)

// length is how many tokens the answer has when nobody says: 20 to 120.
func (f fingerprint) length() int {
	h := uint64(f)
	h ^= h >> 32
	return shortest + int(h%(longest-shortest+1))
}

// directive finds [[name=N]] in a prompt; N is 0 to maxPlanned.
func directive(text, name string) (int, bool) {
	_, rest, ok := strings.Cut(text, "[["+name+"=")
	if !ok {
		return 0, false
	}
	digits, _, ok := strings.Cut(rest[:min(len(rest), 16)], "]]")
	if !ok {
		return 0, false
	}
	n, err := strconv.Atoi(digits)
	return n, err == nil && n >= 0 && n <= maxPlanned
}
