package config

import (
	"errors"
	"fmt"
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
	w := &durationWalk{name: name}
	for _, doc := range file.Docs {
		if doc.Body != nil {
			w.look(reflect.TypeFor[Config](), "", doc.Body)
		}
	}
	return w.mistakes
}

type durationWalk struct {
	name     string
	mistakes []Mistake
}

// look compares a node with the type that stands there, since names that people give, such as those of
// providers, may be those of our keys. What does not fit its type is told by the YAML library.
func (w *durationWalk) look(t reflect.Type, key string, n ast.Node) {
	if t == reflect.TypeFor[time.Duration]() {
		w.judge(key, n)
		return
	}
	switch t.Kind() {
	case reflect.Pointer:
		w.look(t.Elem(), key, n)
	case reflect.Slice:
		if list, ok := n.(*ast.SequenceNode); ok {
			for _, value := range list.Values {
				w.look(t.Elem(), key, value)
			}
		}
	case reflect.Map:
		for _, pair := range pairsOf(n) {
			w.look(t.Elem(), pair.Key.String(), pair.Value)
		}
	case reflect.Struct:
		for _, pair := range pairsOf(n) {
			for f := range t.Fields() {
				if f.Tag.Get("yaml") == pair.Key.String() {
					w.look(f.Type, pair.Key.String(), pair.Value)
				}
			}
		}
	}
}

func (w *durationWalk) judge(key string, n ast.Node) {
	if n == nil {
		return
	}
	text := n.GetToken()
	if _, err := time.ParseDuration(text.Value); err != nil {
		m := Mistake{file: w.name, Key: key, Message: fmt.Sprintf("%q is not a duration; write a number with its unit, such as 500ms, 30s, 10m or 1h", text.Value)}
		m.at(text)
		w.mistakes = append(w.mistakes, m)
	}
}

// pairsOf are the keys of a mapping with their values; nil of anything else.
func pairsOf(n ast.Node) []*ast.MappingValueNode {
	switch n := n.(type) {
	case *ast.MappingNode:
		return n.Values
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}
	}
	return nil
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
