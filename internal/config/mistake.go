package config

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"

	"github.com/leaky-tokens/leaky-tokens/internal/wording"
)

// Mistake is one thing wrong with a leaky.yaml.
type Mistake struct {
	Key     string // path of the key, e.g. "gateway.trusted_hops"
	Message string // what is wrong and what would be right
	file    string
	line    int // 1-based; 0: the value does not stand in the file
	column  int
}

func (m Mistake) String() string {
	where := m.file
	if m.line > 0 {
		where = fmt.Sprintf("%s:%d:%d", m.file, m.line, m.column)
	}
	if m.Key == "" {
		return where + ": " + m.Message
	}
	return where + ": " + m.Key + ": " + m.Message
}

// Error is every mistake found in one file.
type Error struct {
	Mistakes []Mistake
}

func (e *Error) Error() string {
	lines := make([]string, len(e.Mistakes))
	for i, m := range e.Mistakes {
		lines[i] = m.String()
	}
	return strings.Join(lines, "\n")
}

// locate finds the line and column of the mistake's key in the file.
func (m *Mistake) locate(name string, file *ast.File) {
	m.file = name
	path, err := yaml.PathString("$." + m.Key)
	if err != nil {
		return
	}
	node, err := path.FilterFile(file)
	if err != nil || node == nil {
		return
	}
	m.at(node.GetToken())
}

func (m *Mistake) at(t *token.Token) {
	if t != nil && t.Position != nil {
		m.line, m.column = t.Position.Line, t.Position.Column
	}
}

// syntaxMistake turns the YAML library's error into ours, with a suggestion for an
// unknown key.
func syntaxMistake(name string, err error) Mistake {
	m := Mistake{file: name, Message: err.Error()}
	known, ok := errors.AsType[yaml.Error](err)
	if !ok {
		return m
	}
	m.Message = known.GetMessage()
	m.at(known.GetToken())
	if _, unknown := errors.AsType[*yaml.UnknownFieldError](err); unknown && known.GetToken() != nil {
		m.Key = known.GetToken().Value
		m.Message = "unknown key" + wording.DidYouMean(m.Key, keysOf(reflect.TypeFor[Config]()))
	}
	if wrong, ok := errors.AsType[*yaml.TypeError](err); ok && wrong.DstType != nil {
		m.Message = fmt.Sprintf("%s is expected here", wording.Type(wrong.DstType))
		if wrong.Token != nil {
			m.Message += fmt.Sprintf(", not %.60q", wrong.Token.Value)
		}
	}
	return m
}

// durationMistakes finds durations that do not parse; the YAML library reports them
// without a position.
func durationMistakes(name string, file *ast.File) []Mistake {
	w := &durationWalk{name: name, keys: durationKeys(reflect.TypeFor[Config]())}
	for _, doc := range file.Docs {
		if doc.Body != nil {
			ast.Walk(w, doc.Body)
		}
	}
	return w.mistakes
}

type durationWalk struct {
	name     string
	keys     map[string]bool
	mistakes []Mistake
}

// Visit looks at one node (ast.Visitor).
func (w *durationWalk) Visit(n ast.Node) ast.Visitor {
	pair, ok := n.(*ast.MappingValueNode)
	if !ok || !w.keys[pair.Key.String()] || pair.Value == nil {
		return w
	}
	text := pair.Value.GetToken()
	if _, err := time.ParseDuration(text.Value); err != nil {
		m := Mistake{file: w.name, Key: pair.Key.String(), Message: fmt.Sprintf("%q is not a duration; write a number with its unit, such as 500ms, 30s, 10m or 1h", text.Value)}
		m.at(text)
		w.mistakes = append(w.mistakes, m)
	}
	return w
}

// durationKeys lists the keys whose value is a duration.
func durationKeys(t reflect.Type) map[string]bool {
	keys := map[string]bool{}
	switch t.Kind() {
	case reflect.Map, reflect.Slice:
		return durationKeys(t.Elem())
	case reflect.Struct:
		for f := range t.Fields() {
			if f.Type == reflect.TypeFor[time.Duration]() {
				keys[f.Tag.Get("yaml")] = true
				continue
			}
			maps.Copy(keys, durationKeys(f.Type))
		}
	}
	return keys
}

// keysOf lists every key that may stand in a leaky.yaml, at any depth.
func keysOf(t reflect.Type) []string {
	switch t.Kind() {
	case reflect.Map, reflect.Slice:
		return keysOf(t.Elem())
	case reflect.Struct:
		var keys []string
		for f := range t.Fields() {
			if tag := f.Tag.Get("yaml"); tag != "" {
				keys = append(keys, tag)
				keys = append(keys, keysOf(f.Type)...)
			}
		}
		return keys
	}
	return nil
}
