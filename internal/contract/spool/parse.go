package spool

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"
)

// MaxLine is the longest line the meter accepts, in bytes; a longer one is damage.
const MaxLine = 64 << 10

// ErrMalformed says a spool line is not one of ours.
var ErrMalformed = errors.New("malformed spool line")

// traceParent is version 00 of W3C Trace Context, the only one that a line carries.
var traceParent = regexp.MustCompile(`^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$`)

// Parse decodes one line, without its newline: a flat JSON object. It is written by hand
// since every request pays for it (encoding/json takes eight times as long), and lenient
// about types: Envoy writes a CEL result as a number or as a string, depending on the
// operator, and "-" or null for what it does not have. Unknown members are skipped.
func Parse(line []byte) (Line, error) {
	if len(line) > MaxLine {
		return Line{}, fmt.Errorf("%w: %d bytes, at most %d", ErrMalformed, len(line), MaxLine)
	}
	var l Line
	s := scanner{text: string(line)}
	if err := s.object(l.set); err != nil {
		return Line{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if l.ID == "" {
		return Line{}, fmt.Errorf("%w: no request id", ErrMalformed)
	}
	l.settle()
	return l, nil
}

// settle makes the fields agree with each other.
func (l *Line) settle() {
	switch {
	case l.HeaderRecv == 0:
		l.Upstream = "-" // no header came from a provider, so the status is Envoy's own
	case l.Answer.Status != 0:
		l.Upstream = strconv.Itoa(l.Answer.Status) // the client may have seen another
	}
	if !traceParent.MatchString(l.Trace) {
		l.Trace = ""
	}
}

// set stores one member.
func (l *Line) set(name string, v value) {
	if field := l.textField(name); field != nil {
		*field = v.name()
		return
	}
	switch name {
	case "held":
		l.Held = v.number()
	case "held_in":
		l.HeldIn = v.number()
	case "answer":
		l.Answer = ParseAnswer(v.name())
	case "status":
		l.Status = int(v.whole())
	case "flags":
		l.Flags = v.text
	case "up":
		l.Upstream = v.text
	case "sent":
		l.BytesSent = v.whole()
	case "wire":
		l.WireSent = v.whole()
	case "recv":
		l.WireRecv = v.whole()
	case "recv_h":
		l.HeaderRecv = v.whole()
	case "attempts":
		l.Attempts = v.whole()
	case "ms":
		l.Millis = v.whole()
	case "ttfb":
		l.FirstByte = v.count(math.MaxInt64)
	}
}

func (l *Line) textField(name string) *string {
	switch name {
	case "id":
		return &l.ID
	case "account":
		return &l.Account
	case "user":
		return &l.User
	case "org":
		return &l.Org
	case "team":
		return &l.Team
	case "key":
		return &l.Key
	case "tier":
		return &l.Tier
	case "route":
		return &l.Route
	case "provider":
		return &l.Provider
	case "model":
		return &l.Model
	case "cluster":
		return &l.Cluster
	case "stream":
		return &l.Stream
	case "bytes":
		return &l.Bytes
	case "details":
		return &l.Details
	case "parts":
		return &l.Parts
	case "end_user":
		return &l.EndUser
	case "session":
		return &l.Session
	case "tags":
		return &l.Tags
	case "start":
		return &l.Start
	case "trace":
		return &l.Trace
	case "corr":
		return &l.Corr
	case "trace_id":
		return &l.TraceID
	case "span_id":
		return &l.SpanID
	case "type":
		return &l.Type
	}
	return nil
}

// value is one scalar of the line, as text; null is empty.
type value struct{ text string }

// name is the text without Envoy's "-" for nothing.
func (v value) name() string {
	if v.text == "-" {
		return ""
	}
	return v.text
}

func (v value) number() *float64 {
	f, err := strconv.ParseFloat(v.text, 64)
	if err != nil || math.IsNaN(f) || math.IsInf(f, 0) || f < 0 {
		return nil
	}
	return &f
}

// count is a whole number from 0 to most, nil for anything else.
func (v value) count(most int64) *int64 {
	n, err := strconv.ParseInt(v.text, 10, 64)
	if err != nil {
		f := v.number()
		if f == nil || *f != math.Trunc(*f) || *f >= math.MaxInt64 {
			return nil
		}
		n = int64(*f)
	}
	if n < 0 || n > most {
		return nil
	}
	return &n
}

func (v value) whole() int64 {
	if n := v.count(math.MaxInt32 * 1024); n != nil {
		return *n
	}
	return 0
}

// scanner reads a flat JSON object.
type scanner struct {
	text string
	at   int
}

func (s *scanner) object(member func(string, value)) error {
	if !s.take('{') {
		return errors.New("not an object")
	}
	for first := true; !s.take('}'); first = false {
		if !first && !s.take(',') {
			return fmt.Errorf("no comma at byte %d", s.at)
		}
		name, err := s.quoted()
		if err != nil {
			return err
		}
		if !s.take(':') {
			return fmt.Errorf("no colon at byte %d", s.at)
		}
		v, err := s.scalar()
		if err != nil {
			return err
		}
		member(name, v)
	}
	if s.space(); s.at != len(s.text) {
		return fmt.Errorf("something follows the object at byte %d", s.at)
	}
	return nil
}

func (s *scanner) space() {
	for s.at < len(s.text) && (s.text[s.at] == ' ' || s.text[s.at] == '\t' || s.text[s.at] == '\r') {
		s.at++
	}
}

func (s *scanner) take(c byte) bool {
	s.space()
	if s.at < len(s.text) && s.text[s.at] == c {
		s.at++
		return true
	}
	return false
}

// quoted reads a string; escapes are rare and left to encoding/json.
func (s *scanner) quoted() (string, error) {
	if !s.take('"') {
		return "", fmt.Errorf("no string at byte %d", s.at)
	}
	start, escaped := s.at, false
	for ; s.at < len(s.text); s.at++ {
		switch c := s.text[s.at]; {
		case c == '\\':
			escaped = true
			s.at++
		case c < ' ':
			return "", fmt.Errorf("control character at byte %d", s.at)
		case c == '"':
			raw := s.text[start:s.at]
			s.at++
			return plain(raw, escaped)
		}
	}
	return "", errors.New("a string does not end")
}

func plain(raw string, escaped bool) (string, error) {
	if escaped {
		var text string
		if err := json.Unmarshal([]byte(`"`+raw+`"`), &text); err != nil {
			return "", err
		}
		return text, nil
	}
	if !utf8.ValidString(raw) {
		return strings.ToValidUTF8(raw, "\uFFFD"), nil
	}
	return raw, nil
}

func (s *scanner) scalar() (value, error) {
	s.space()
	if s.at < len(s.text) && s.text[s.at] == '"' {
		text, err := s.quoted()
		return value{text}, err
	}
	start := s.at
	for s.at < len(s.text) && s.text[s.at] != ',' && s.text[s.at] != '}' && s.text[s.at] > ' ' {
		s.at++
	}
	switch word := s.text[start:s.at]; {
	case word == "null":
		return value{}, nil
	case word == "true", word == "false":
		return value{word}, nil
	case digits(word):
		return value{word}, nil
	case word != "" && word[0] != '[' && word[0] != '{' && json.Valid([]byte(word)):
		return value{word}, nil
	}
	return value{}, fmt.Errorf("no value at byte %d", start)
}

// digits says that word is a plain whole number, as nearly all of Envoy's are.
func digits(word string) bool {
	if word == "" || word[0] == '0' && len(word) > 1 {
		return false
	}
	for i := range len(word) {
		if word[i] < '0' || word[i] > '9' {
			return false
		}
	}
	return true
}
