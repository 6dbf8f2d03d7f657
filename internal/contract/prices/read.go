package prices

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"github.com/leaky-tokens/leaky-tokens/deploy"
	"github.com/leaky-tokens/leaky-tokens/internal/wording"
	"github.com/leaky-tokens/leaky-tokens/internal/yamlbound"
)

// list is prices.yaml.
type list struct {
	Version  string  `yaml:"version"`
	Currency string  `yaml:"currency"`
	Prices   []entry `yaml:"prices"`
}

type entry struct {
	Provider   string             `yaml:"provider"`
	Model      string             `yaml:"model"`
	From       string             `yaml:"from"`
	To         string             `yaml:"to"`
	PerMillion map[string]literal `yaml:"per_million"`
	Source     string             `yaml:"source"`
}

// literal is a value as it is written: a number read as float64 would not be what was meant.
type literal string

// UnmarshalYAML implements yaml.BytesUnmarshaler.
func (l *literal) UnmarshalYAML(text []byte) error {
	*l = literal(strings.Trim(strings.TrimSpace(string(text)), `"'`))
	return nil
}

var (
	versionName  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
	currencyCode = regexp.MustCompile(`^[A-Z]{3}$`)
	providerName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)
)

// Load reads a list from a file; an empty path is the built-in one. An error has a line for each
// mistake: file:line: key: what is wrong and what would be right.
func Load(file string) (*Table, error) {
	if file == "" {
		return Parse("built-in prices.yaml", deploy.DefaultPrices)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read prices: %w", err)
	}
	return Parse(file, text)
}

// Parse reads the text of a list; name is what mistakes call it.
func Parse(name string, text []byte) (*Table, error) {
	text = bytes.TrimPrefix(text, []byte("\ufeff")) // of editors that begin a file with a byte order mark
	if message, line := yamlbound.Unparseable(text); message != "" {
		return nil, fmt.Errorf("%s:%d: %s", name, line, message)
	}
	file, err := parser.ParseBytes(text, 0)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, plainly(err))
	}
	var l list
	if err := yaml.UnmarshalWithOptions(text, &l, yaml.Strict()); err != nil {
		return nil, fmt.Errorf("%s: %w", name, plainly(err))
	}
	c := checker{name: name, file: file}
	table := c.table(l)
	if len(c.mistakes) > 0 {
		return nil, errors.Join(c.mistakes...)
	}
	digest := sha256.Sum256(text)
	table.Version = l.Version + "." + hex.EncodeToString(digest[:4])
	return table, nil
}

// plainly is a YAML mistake on one line.
func plainly(err error) error {
	text, _, _ := strings.Cut(yaml.FormatError(err, false, false), "\n")
	return errors.New(text)
}

// checker turns the list into a table and collects mistakes.
type checker struct {
	name     string
	file     *ast.File
	mistakes []error
}

// fail notes a mistake at a key, such as prices[3].from.
func (c *checker) fail(key, format string, args ...any) {
	where := c.name
	if at, err := yaml.PathString("$." + key); err == nil {
		if node, err := at.FilterFile(c.file); err == nil {
			where = fmt.Sprintf("%s:%d", c.name, node.GetToken().Position.Line)
		}
	}
	c.mistakes = append(c.mistakes, fmt.Errorf("%s: %s: %s", where, key, fmt.Sprintf(format, args...)))
}

func (c *checker) table(l list) *Table {
	t := &Table{Currency: l.Currency}
	if !versionName.MatchString(l.Version) {
		c.fail("version", "%.40q: name the list with letters, digits and . _ -, at most 64, such as its date", l.Version)
	}
	if !currencyCode.MatchString(l.Currency) {
		c.fail("currency", "%.40q: write a code of ISO 4217, such as USD", l.Currency)
	}
	if len(l.Prices) == 0 {
		c.fail("prices", "there is no price; every call would be unpriced")
	}
	for i, e := range l.Prices {
		t.Entries = append(t.Entries, c.entry(fmt.Sprintf("prices[%d]", i), e))
	}
	c.overlaps(t.Entries)
	return t
}

func (c *checker) entry(key string, e entry) Entry {
	out := Entry{Provider: e.Provider, Model: e.Model, Source: e.Source, Rates: map[Kind]Rate{}}
	if !providerName.MatchString(e.Provider) {
		c.fail(key+".provider", "%.40q: a provider's name is lower-case letters, digits and hyphens", e.Provider)
	}
	if _, err := path.Match(e.Model, ""); err != nil || e.Model == "" || len(e.Model) > 256 {
		c.fail(key+".model", "%.40q: write a model's name, or a pattern such as gpt-4o-*", e.Model)
	}
	out.From = c.moment(key+".from", e.From)
	if e.To != "" {
		if out.To = c.moment(key+".to", e.To); !out.To.After(out.From) {
			c.fail(key+".to", "%s is not after from (%s)", e.To, e.From)
		}
	}
	for kind, text := range e.PerMillion {
		at := key + ".per_million." + kind
		if !slices.Contains(Kinds(), Kind(kind)) {
			c.fail(at, "no kind of tokens is called %.40q;%s the kinds are %s", kind, meant(kind), kinds())
			continue
		}
		rate, err := parseRate(string(text))
		if err != nil {
			c.fail(at, "%v", err)
		}
		out.Rates[Kind(kind)] = rate
	}
	for _, kind := range []Kind{Input, Output} {
		if _, stated := e.PerMillion[string(kind)]; !stated {
			c.fail(key, "per_million.%s is missing; write 0 where it costs nothing", kind)
		}
	}
	return out
}

func kinds() string {
	var all []string
	for _, k := range Kinds() {
		all = append(all, string(k))
	}
	return strings.Join(all, ", ")
}

func meant(kind string) string {
	if near := wording.Nearest(kind, strings.Split(kinds(), ", ")); near != "" {
		return " did you mean " + near + "?"
	}
	return ""
}

// moment is a day in UTC, or a time of RFC 3339.
func (c *checker) moment(key, text string) time.Time {
	for _, form := range []string{time.DateOnly, time.RFC3339} {
		if at, err := time.Parse(form, text); err == nil {
			return at.UTC()
		}
	}
	c.fail(key, "%.40q is no date; write 2026-11-15, or a time of RFC 3339", text)
	return time.Time{}
}

// overlaps refuses two prices of one name at one moment.
func (c *checker) overlaps(entries []Entry) {
	for i, e := range entries {
		for j, other := range entries[:i] {
			if e.Provider == other.Provider && e.Model == other.Model && before(e.From, other.To) && before(other.From, e.To) {
				c.fail(fmt.Sprintf("prices[%d]", i), "%s of %s has a price at that time already (prices[%d]); end one with to", e.Model, e.Provider, j)
			}
		}
	}
}

// before compares a beginning with an end, which may be open.
func before(from, to time.Time) bool { return to.IsZero() || from.Before(to) }

// Gap is a time in which a name that had a price before and has one after has none.
type Gap struct {
	Provider, Model string
	From, To        time.Time
}

// Gaps are the table's: legal, and likely not meant.
func (t *Table) Gaps() []Gap {
	byName := map[[2]string][]Entry{}
	for _, e := range t.Entries {
		name := [2]string{e.Provider, e.Model}
		byName[name] = append(byName[name], e)
	}
	var gaps []Gap
	for name, entries := range byName {
		slices.SortFunc(entries, func(a, b Entry) int { return a.From.Compare(b.From) })
		for i, e := range entries[1:] {
			if last := entries[i]; last.To.Before(e.From) {
				gaps = append(gaps, Gap{Provider: name[0], Model: name[1], From: last.To, To: e.From})
			}
		}
	}
	slices.SortFunc(gaps, func(a, b Gap) int {
		return strings.Compare(a.Provider+"/"+a.Model+a.From.String(), b.Provider+"/"+b.Model+b.From.String())
	})
	return gaps
}
