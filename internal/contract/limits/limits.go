// Package limits is what stands between a request's descriptors and the buckets they
// fill: it reads the limits file, tells xds which descriptors Envoy has to send, and
// finds the rule a descriptor falls under.
//
// The file is envoyproxy/ratelimit's descriptor YAML, with the algorithm and the burst
// in the descriptor's metadata, which that service accepts and ignores. The matcher is
// ours and not an import of its config package, for three reasons measured against it:
// each lookup there creates statistics named after the values in the request (a series
// for each user), logs through a global logger and concatenates strings for every entry;
// it answers a bad file with a panic and without a position; and importing it links a
// statsd client, an environment decoder and a second YAML library. A differential test
// holds the two matchers to the same answers.
package limits

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/leaky-tokens/leaky-tokens/deploy"
)

// Domain is the rate-limit domain our Envoy asks in; a file must name it.
const Domain = "leaky"

// Unit is what a bucket counts.
type Unit uint8

// Units. Requests is the default, as upstream has it.
const (
	Requests Unit = iota
	Tokens
)

// String is the unit's name in the file.
func (u Unit) String() string {
	if u == Tokens {
		return "tokens"
	}
	return "requests"
}

// Algorithm is how a bucket empties.
type Algorithm uint8

// Algorithms. A token bucket is a leaky bucket seen from the other end (balance =
// capacity - level, full at first), so the two share their arithmetic.
const (
	FixedWindow Algorithm = iota // level counts from zero in each window of the clock
	LeakyBucket                  // level drains at a steady rate
	TokenBucket                  // balance refills at a steady rate
)

// String is the algorithm's name in the file.
func (a Algorithm) String() string {
	switch a {
	case LeakyBucket:
		return "leaky_bucket"
	case TokenBucket:
		return "token_bucket"
	}
	return "fixed_window"
}

// Rule is one limit. It is shared and must not be changed.
type Rule struct {
	Name      string // rate_limit.name, else Path
	Given     string // rate_limit.name
	Path      string // keys with their fixed values, e.g. "count_tokens.user.provider"
	Unit      Unit
	Algorithm Algorithm
	PerPeriod uint32         // requests_per_unit: what drains or is allowed in a period
	Period    time.Duration  // of unit: a second to a year (365 days; a month is 30)
	Calendar  *time.Location // windows are those of the calendar there (Window); nil: they count from the epoch
	Capacity  float64        // burst, else PerPeriod
	Scaled    bool           // capacity and drain are multiplied by the caller's tier
	Unlimited bool           // matches, and limits nothing
	Shadow    bool           // counts and reports, and never refuses
	Quota     bool           // quota_mode: as Shadow, and the answer's metadata names the rule once it is exceeded
	Detailed  bool           // detailed_metric: its metric's label carries every value
	Shared    bool           // no entry names a caller: one bucket for all accounts
	Replaces  []string       // names of rules that yield to this one when both match
	Line      int            // where its rate_limit stands in the file
	CountsAll bool           // also what is refused is counted, as envoyproxy/ratelimit does it; in other domains
	Metadata  map[string]any // of another domain: what its Envoy is told of requests that pass; JSON's types

	domain string // before the bucket's name, for another domain than ours
	steps  []step // by depth
}

// step is one descriptor on the way to a rule.
type step struct {
	key, value string
	shared     bool // share_threshold: one bucket for all that the pattern matches
	valued     bool // value_to_metric: the label carries the value that was sent
}

func (s step) String() string {
	if s.value == "" {
		return s.key
	}
	return s.key + "_" + s.value
}

// Counts reports whether the rule refuses nobody.
func (r *Rule) Counts() bool { return r.Shadow || r.Quota }

// PathKey is one entry of a path.
type PathKey struct {
	Key string
	// Value is fixed for the key "count", and for the key "route" when only that route has
	// such a limit, so that the descriptor need not be sent on others. Else it is empty.
	Value string
}

// Path is the keys of a descriptor that some rule asks for.
type Path []PathKey

// Entry is one key and value of a descriptor.
type Entry struct {
	Key   string
	Value string
}

// Set is a file's rules.
type Set struct {
	domain   string
	root     node
	warnings []error
	paths    []Path
	rules    []*Rule
}

// Load reads the file at path; the built-in limits when path is empty.
func Load(path string) (*Set, error) {
	if path == "" {
		set, err := Parse(deploy.DefaultLimits)
		if err != nil {
			return nil, fmt.Errorf("built-in limits: %w", err)
		}
		return set, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read limits: %w", err)
	}
	return Read(path, text)
}

// Read is Load of a text that was read from path.
func Read(path string, text []byte) (*Set, error) {
	set, err := ParseWith(text, Options{File: path})
	return ruled(path, set, err)
}

// ruled refuses a file without rules: it would admit everything, and is what a cut file looks like.
func ruled(path string, set *Set, err error) (*Set, error) {
	if err == nil && len(set.rules) == 0 {
		err = &Error{File: path, Line: 1, Column: 1, Message: "no descriptor has a rate_limit; write one, if only rate_limit: {unlimited: true}"}
	}
	if err != nil {
		return nil, err
	}
	return set, nil
}

// Domain is the file's domain.
func (s *Set) Domain() string { return s.domain }

// Warnings are what is likely a mistake and does no harm, each an *Error.
func (s *Set) Warnings() []error { return s.warnings }

// Rules are all rules in file order.
func (s *Set) Rules() []*Rule { return s.rules }

// Paths are the distinct descriptors Envoy has to send for every rule to be reachable,
// in file order.
func (s *Set) Paths() []Path { return s.paths }

// addPath adds a path unless one that is there covers it, and drops those it covers.
func (s *Set) addPath(p Path) {
	if slices.ContainsFunc(s.paths, func(known Path) bool { return known.covers(p) }) {
		return
	}
	s.paths = append(slices.DeleteFunc(s.paths, p.covers), slices.Clone(p))
}

// covers reports whether every descriptor of q is one of p.
func (p Path) covers(q Path) bool {
	return slices.EqualFunc(p, q, func(a, b PathKey) bool { return a == b || a.Key == b.Key && a.Value == "" })
}

// node is one level of the tree of descriptors.
type node struct {
	keys     []keyNode
	patterns []pattern // in file order
	rule     *Rule
}

// keyNode is what a level knows of one key: fixed values, and any value.
type keyNode struct {
	key    string
	values map[string]*node
	any    *node
}

func (n *node) find(e Entry) *node {
	var any *node
	for i := range n.keys {
		k := &n.keys[i]
		if k.key != e.Key {
			continue
		}
		if next := k.values[e.Value]; next != nil {
			return next
		}
		any = k.any
		break
	}
	for i := range n.patterns {
		if n.patterns[i].matches(e) {
			return n.patterns[i].node
		}
	}
	return any
}

// Match finds the rule for a descriptor. At each level a fixed value wins over one with
// wildcards (`gpt-4*`, the first in the file that fits), and that over a descriptor without
// a value; there is no way back from a level that was entered, and only a descriptor of
// the rule's exact depth matches: all as envoyproxy/ratelimit does it.
func (s *Set) Match(entries []Entry) (*Rule, bool) {
	at := &s.root
	for _, e := range entries {
		if at = at.find(e); at == nil {
			return nil, false
		}
	}
	if at.rule == nil {
		return nil, false
	}
	return at.rule, true
}

// maxValue is the longest value that goes into a bucket's key as it is, in bytes.
const maxValue = 256

// AppendKey appends the name of the rule's bucket for these entries, which Match took:
// the rule's path with the values filled in. Bytes that could be taken for a separator
// or a hash tag are percent-encoded, so that no value can name another's bucket.
func (r *Rule) AppendKey(dst []byte, entries []Entry) []byte {
	return r.AppendAccountKey(dst, "", entries)
}

// own stands for the account's own id in the name of a bucket; no value begins with it.
const own = '@'

// AppendAccountKey is AppendKey for a bucket that stands under its account, "user:<id>" or
// "org:<id>": an entry that says the same id again is cut short, a sixth of a bucket's memory.
func (r *Rule) AppendAccountKey(dst []byte, account string, entries []Entry) []byte {
	kind, id, _ := strings.Cut(account, ":")
	join := byte('_')
	if r.domain != "" { // its keys are any text
		join = '|'
		dst = append(appendValue(dst, r.domain), join)
	}
	for i, e := range entries {
		if i > 0 {
			dst = append(dst, '.')
		}
		dst = append(appendValue(dst, e.Key), join)
		switch {
		case i < len(r.steps) && r.steps[i].shared:
			dst = appendValue(dst, cmp.Or(r.steps[i].value, r.steps[i].key))
		case !r.Shared && id != "" && e.Key == kind && e.Value == id:
			dst = append(dst, own)
		default:
			dst = appendValue(dst, e.Value)
		}
	}
	return dst
}

// AppendKey appends the name of a bucket for entries that no rule of the set names.
func (s *Set) AppendKey(dst []byte, entries []Entry) []byte {
	return (&Rule{domain: s.domain}).AppendKey(dst, entries)
}

func plain(c byte) bool {
	return c > ' ' && c < 0x7f && c != '{' && c != '}' && c != '%' && c != '.' && c != '|' && c != own
}

// appendValue appends text without the bytes that mean something in a key.
func appendValue(dst []byte, value string) []byte {
	const hex = "0123456789abcdef"
	if len(value) > maxValue {
		value = digest(value)
	}
	for i := range len(value) {
		if c := value[i]; plain(c) {
			dst = append(dst, c)
		} else {
			dst = append(dst, '%', hex[c>>4], hex[c&15])
		}
	}
	return dst
}
