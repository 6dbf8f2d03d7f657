package ratelimit

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
)

// limit is a rule with its numbers for one tier and all the text that depends on
// nothing else, made once.
type limit struct {
	rule     *limits.Rule
	store    *store.Limit
	direct   *store.Limit // of a limit of tokens: takes hits at once instead of holding
	capacity string       // for x-ratelimit-limit-*
	policy   string       // an item of RateLimit-Policy: "name";q=..;w=..
	name     string       // the begin of an item of RateLimit: "name";r=
	mark     *mark
}

// rules find the limits of a request.
type rules struct {
	set      *limits.Set
	base     map[*limits.Rule]*limit
	tiers    map[string]map[*limits.Rule]*limit // scaled rules only
	fallback string                             // the tier of who has none
	replace  bool                               // some rule replaces others
	counts   bool                               // some rule counts and refuses nobody
	labelled bool                               // some rule's metrics carry values
	marks    map[*limits.Rule]*mark
	labels   *labels
}

func newRules(set *limits.Set, tiers config.Tiers, marks *marks, labels *labels) *rules {
	r := &rules{set: set, base: map[*limits.Rule]*limit{}, tiers: map[string]map[*limits.Rule]*limit{}, fallback: tiers.Default,
		marks: map[*limits.Rule]*mark{}, labels: labels}
	began := time.Now()
	for _, rule := range set.Rules() {
		r.marks[rule] = marks.of(set.Domain(), rule.Name, began)
		if rule.Unlimited {
			continue
		}
		r.base[rule] = newLimit(rule, config.Tier{Capacity: 1, LeakRate: 1})
		r.base[rule].mark = r.marks[rule]
		for name, tier := range tiers.Levels {
			if r.tiers[name] == nil {
				r.tiers[name] = map[*limits.Rule]*limit{}
			}
			if rule.Scaled {
				r.tiers[name][rule] = newLimit(rule, tier)
				r.tiers[name][rule].mark = r.marks[rule]
			}
		}
	}
	r.replace = slices.ContainsFunc(set.Rules(), func(rule *limits.Rule) bool { return len(rule.Replaces) > 0 })
	r.counts = slices.ContainsFunc(set.Rules(), (*limits.Rule).Counts)
	r.labelled = slices.ContainsFunc(set.Rules(), (*limits.Rule).Labelled)
	return r
}

// leastLeak is what a tier may scale a leak down to, per second.
const leastLeak = 0.0001

// newLimit scales a rule: capacity is rounded and at least 1, the leak is not scaled
// below leastLeak, and a multiplier that is not positive counts as 1. A rule that
// refuses everything is not scaled.
func newLimit(rule *limits.Rule, tier config.Tier) *limit {
	p := bucket.Params{Capacity: rule.Capacity}
	perSecond := float64(rule.PerPeriod) / rule.Period.Seconds()
	if rule.Scaled && rule.Capacity > 0 {
		p.Capacity = max(1, math.Round(rule.Capacity*positive(tier.Capacity)))
		perSecond = max(min(perSecond, leastLeak), perSecond*positive(tier.LeakRate))
	}
	window := rule.Period.Seconds()
	if rule.Algorithm == limits.FixedWindow {
		p.Window = rule.Period.Microseconds()
	} else {
		p.Rate = perSecond / 1e6
		window = math.Ceil(p.Capacity / perSecond)
	}
	kind := store.Requests
	switch {
	case rule.Unit == limits.Tokens && rule.Counts():
		kind = store.ShadowTokens
	case rule.Unit == limits.Tokens:
		kind = store.Tokens
	case rule.Counts():
		kind = store.ShadowRequests
	}
	capacity := strconv.FormatFloat(p.Capacity, 'f', 0, 64)
	direct := store.Requests
	if rule.Counts() {
		direct = store.ShadowRequests
	}
	return &limit{rule: rule, store: store.NewLimit(kind, p), direct: store.NewLimit(direct, p), capacity: capacity,
		policy: fmt.Sprintf(`"%s";q=%s;w=%.0f`, rule.Name, capacity, window), name: `"` + rule.Name + `";r=`}
}

func positive(multiplier float64) float64 {
	if multiplier <= 0 {
		return 1
	}
	return multiplier
}

// perSecond is what drains from the bucket each second, on average.
func (l *limit) perSecond() float64 {
	p := l.store.Params
	if p.Window > 0 {
		return p.Capacity / (time.Duration(p.Window) * time.Microsecond).Seconds()
	}
	return p.Rate * 1e6
}

// matched is what one request falls under: a bucket of each limit.
type matched struct {
	limits  []*limit
	buckets []store.Bucket
	labels  []string // of metrics, where they are not the rule's name; nil: nowhere
	counts  bool     // some limits may only count
}

// counting is what a request takes from the limits it falls under.
type counting struct {
	tokens bool     // a hold of tokens; else rules that count tokens take only own hits
	hits   int64    // taken from each limit of requests; a refund is negative
	own    []addend // by descriptor, before hits; nil: none has its own
}

// match finds the limits of the descriptors for a tier. Descriptors with an entry that
// says "not stated" match nothing: they would share one bucket between all such callers.
// Two descriptors that fall into one bucket add up their hits there, while a hold of
// tokens is held in it once.
func (r *rules) match(descriptors []descriptor, account, tier string, c counting) matched {
	m := matched{limits: make([]*limit, 0, len(descriptors)), buckets: make([]store.Bucket, 0, len(descriptors)), counts: r.counts}
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
		own := c.of(i)
		if !ok || rule.Unit == limits.Tokens && !c.tokens && !own.stated {
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
		l.mark.touch()
		b := store.Bucket{Limit: l.store, Key: store.BucketKey(account, rule.Shared, rule.AppendAccountKey(room[:0], account, d)),
			Own: own.hits, HasOwn: own.stated}
		if own.stated && rule.Unit == limits.Tokens {
			b.Limit = l.direct
		}
		if m.again(b, c) {
			continue
		}
		m.limits = append(m.limits, l)
		if r.labelled {
			m.labels = append(m.labels, r.labels.of(rule, d))
		}
		m.buckets = append(m.buckets, b)
	}
	if r.replace {
		m.replaced(unlimited)
	}
	return m
}

// absent reports whether the caller has no value for the key.
func absent(e limits.Entry) bool { return e.Value == attributes.Absent }

// again adds the hits of a bucket that is there already, and says so.
func (m *matched) again(b store.Bucket, c counting) bool {
	i := slices.IndexFunc(m.buckets, func(have store.Bucket) bool { return have.Key == b.Key })
	if i < 0 {
		return false
	}
	have := &m.buckets[i]
	if have.Limit.Kind.CountsTokens() && !b.HasOwn {
		return true
	}
	if !have.HasOwn {
		have.Own, have.HasOwn = c.hits, true
	}
	if !b.HasOwn {
		b.Own = c.hits
	}
	have.Own += b.Own
	return true
}

// replaced drops the limits that another matching rule replaces.
func (m *matched) replaced(unlimited []*limits.Rule) {
	var gone []string
	for _, rule := range unlimited {
		gone = append(gone, rule.Replaces...)
	}
	for _, l := range m.limits {
		gone = append(gone, l.rule.Replaces...)
	}
	for i := len(m.limits) - 1; i >= 0; i-- {
		if slices.Contains(gone, m.limits[i].rule.Name) {
			m.limits = slices.Delete(m.limits, i, i+1)
			m.buckets = slices.Delete(m.buckets, i, i+1)
			if m.labels != nil {
				m.labels = slices.Delete(m.labels, i, i+1)
			}
		}
	}
}
