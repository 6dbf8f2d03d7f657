package match

import (
	"strings"
	"sync"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
)

// mostLabels bounds the values that detailed_metric and value_to_metric put into labels.
const mostLabels = 1000

// mostLabel bounds one label, in bytes.
const mostLabel = 256

// Labels are the metrics' labels given so far; beyond mostLabels new values become "other".
type Labels struct {
	mu    sync.Mutex
	known map[string]string
}

func (l *Labels) of(rule *limits.Rule, d Descriptor) string {
	var room [256]byte
	return l.ofText(string(rule.AppendLabel(room[:0], d)), rule.Path)
}

// ofText gives the label for a text; beyond the bounds it is the other, and "other".
func (l *Labels) ofText(text, other string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if known, ok := l.known[text]; ok {
		return known
	}
	if len(l.known) >= mostLabels || len(text) > mostLabel {
		return other + " other"
	}
	if l.known == nil {
		l.known = map[string]string{}
	}
	label := strings.ToValidUTF8(text, "\uFFFD")
	l.known[text] = label
	return label
}

// Domain is the label for a domain that an Envoy asked in and that no file has.
func (l *Labels) Domain(name string) string { return l.ofText(name, "domain") }
