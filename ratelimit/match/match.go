package match

import (
	"slices"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
)

// Matched is what one request falls under: a bucket of each limit.
type Matched struct {
	Limits  []*Limit
	Buckets []bucket.Bucket
	Counts  bool // some limits may only count
	Long    bool // what is used counts for a day or more in some (bucket.Limit.Long)

	labels []string // of metrics, where they are not the rule's name; nil: nowhere
}

// Label is what metrics call limit i.
func (m *Matched) Label(i int) string {
	if m.labels == nil || m.labels[i] == "" {
		return m.Limits[i].Rule.Name
	}
	return m.labels[i]
}

// Match finds the limits of the descriptors for a tier. Descriptors with an entry that
// says "not stated" match nothing: they would share one bucket between all such callers.
// Two descriptors that fall into one bucket add up their hits there, while a hold of
// tokens is held in it once.
func (r *Rules) Match(descriptors []Descriptor, account, tier string, c Counting) Matched {
	return r.match(descriptors, account, tier, c, r.now)
}

// MatchAt is Match at another time, in microseconds.
func (r *Rules) MatchAt(at int64, descriptors []Descriptor, account, tier string, c Counting) Matched {
	return r.match(descriptors, account, tier, c, func() int64 { return at })
}

func (r *Rules) match(descriptors []Descriptor, account, tier string, c Counting, clock func() int64) Matched {
	m := Matched{Limits: make([]*Limit, 0, len(descriptors)), Buckets: make([]bucket.Bucket, 0, len(descriptors)), Counts: r.counts}
	levels := r.tiers[tier]
	if levels == nil {
		levels = r.tiers[r.fallback]
	}
	var unlimited []*limits.Rule
	var room [192]byte
	for i, d := range descriptors {
		if slices.ContainsFunc(d, absent) {
			continue
		}
		rule, ok := r.set.Match(d)
		own := c.addend(i)
		if !ok || rule.Unit == limits.Tokens && !c.Tokens && !own.Stated {
			continue
		}
		if rule.Unlimited {
			r.marks[rule].touch()
			unlimited = append(unlimited, rule)
			continue
		}
		l := levels[rule]
		if l == nil {
			l = r.base[rule]
		}
		l = l.at(clock)
		l.mark.touch()
		b := bucket.Bucket{Limit: l.Limit, Key: bucket.Key(account, rule.Shared, rule.AppendAccountKey(room[:0], account, d)),
			Own: own.Hits, HasOwn: own.Stated}
		if own.Stated && rule.Unit == limits.Tokens {
			b.Limit = l.direct
		}
		if m.addTo(b, c) {
			continue
		}
		m.Limits, m.Long = append(m.Limits, l), m.Long || l.Long
		if r.labelled {
			m.labels = append(m.labels, r.labels.of(rule, d))
		}
		m.Buckets = append(m.Buckets, b)
	}
	if r.replace {
		m.dropReplaced(unlimited)
	}
	return m
}

// Unmatched are the descriptors that no rule is found for. Those with a value that the
// request does not have are no surprise and left out.
func (r *Rules) Unmatched(descriptors []Descriptor) []Descriptor {
	var out []Descriptor
	for _, d := range descriptors {
		if slices.ContainsFunc(d, absent) {
			continue
		}
		if _, ok := r.set.Match(d); !ok {
			out = append(out, d)
		}
	}
	return out
}

// absent reports whether the caller has no value for the key.
func absent(e limits.Entry) bool { return e.Value == attributes.Absent }

// addTo adds the hits of a bucket that is there already, and says so.
func (m *Matched) addTo(b bucket.Bucket, c Counting) bool {
	i := slices.IndexFunc(m.Buckets, func(have bucket.Bucket) bool { return have.Key == b.Key })
	if i < 0 {
		return false
	}
	have := &m.Buckets[i]
	if have.Limit.Kind.CountsTokens() && !b.HasOwn {
		return true
	}
	if !have.HasOwn {
		have.Own, have.HasOwn = c.Hits, true
	}
	if !b.HasOwn {
		b.Own = c.Hits
	}
	have.Own += b.Own
	return true
}

// dropReplaced drops the limits that another matching rule replaces.
func (m *Matched) dropReplaced(unlimited []*limits.Rule) {
	var replaced []string
	for _, rule := range unlimited {
		replaced = append(replaced, rule.Replaces...)
	}
	for _, l := range m.Limits {
		replaced = append(replaced, l.Rule.Replaces...)
	}
	for i := len(m.Limits) - 1; i >= 0; i-- {
		if slices.Contains(replaced, m.Limits[i].Rule.Name) {
			m.Limits = slices.Delete(m.Limits, i, i+1)
			m.Buckets = slices.Delete(m.Buckets, i, i+1)
			if m.labels != nil {
				m.labels = slices.Delete(m.labels, i, i+1)
			}
		}
	}
}
