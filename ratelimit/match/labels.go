package match

import (
	"strings"
	"sync"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
)

// mostLabels bounds the values that detailed_metric and value_to_metric put into labels.
const mostLabels = 1000

// Labels are the metrics' labels given so far; beyond mostLabels new values become "other".
type Labels struct {
	mu    sync.Mutex
	known map[string]string
}

func (l *Labels) of(rule *limits.Rule, d Descriptor) string {
	var room [256]byte
	text := rule.AppendLabel(room[:0], d)
	l.mu.Lock()
	defer l.mu.Unlock()
	if known, ok := l.known[string(text)]; ok {
		return known
	}
	if len(l.known) >= mostLabels || len(text) > cap(room) {
		return rule.Path + " other"
	}
	if l.known == nil {
		l.known = map[string]string{}
	}
	label := printable(string(text))
	l.known[string(text)] = label
	return label
}

// printable keeps what every metrics system takes in a label.
func printable(s string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' || c > '~' {
			return '?'
		}
		return c
	}, s)
}
