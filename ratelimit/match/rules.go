package match

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
)

// Limit is a rule with its numbers for one tier and all the text that depends on
// nothing else, made once.
type Limit struct {
	*bucket.Limit
	Rule *limits.Rule
	// Capacity is the limit's for x-ratelimit-limit-*, Policy an item of RateLimit-Policy
	// ("name";q=..;w=..) and Item the begin of an item of RateLimit ("name";r=).
	Capacity, Policy, Item string

	override bool          // an Envoy stated it
	direct   *bucket.Limit // of a limit of tokens: takes hits at once instead of holding
	mark     *mark
	tier     config.Tier // that it is scaled by
	present  atomic.Pointer[Limit]
}

// at is the limit at a time, in microseconds. Windows of the calendar differ in length, so each has
// numbers of its own, which are made when its first request comes.
func (l *Limit) at(clock func() int64) *Limit {
	if l.Rule.Calendar == nil {
		return l
	}
	now := clock()
	if p := l.present.Load(); p != nil && now >= p.Params.Origin && now < p.Params.Origin+p.Params.Window {
		return p
	}
	p := newLimit(l.Rule, l.tier, time.UnixMicro(now))
	p.mark = l.mark
	l.present.Store(p)
	return p
}

// Overrides reports whether an Envoy stated the limit.
func (l *Limit) Overrides() bool { return l.override }

// Rules find the limits of a request, in one domain.
type Rules struct {
	set      *limits.Set
	base     map[*limits.Rule]*Limit
	tiers    map[string]map[*limits.Rule]*Limit // scaled rules only
	fallback string                             // the tier of who has none
	replace  bool                               // some rule replaces others
	counts   bool                               // some rule counts and refuses nobody
	labelled bool                               // some rule's metrics carry values
	marks    map[*limits.Rule]*mark
	metadata bool // some rule has some to tell
	labels   *Labels
	now      func() int64 // microseconds
	levels   config.Tiers // of tiers

	overrides overrides
}

// Set is the file that the rules stand in.
func (r *Rules) Set() *limits.Set { return r.set }

// FallbackTier is the tier of who has none that is known.
func (r *Rules) FallbackTier() string { return r.fallback }

func newRules(set *limits.Set, tiers config.Tiers, s *State) *Rules {
	r := &Rules{set: set, base: map[*limits.Rule]*Limit{}, tiers: map[string]map[*limits.Rule]*Limit{}, fallback: tiers.Default,
		marks: map[*limits.Rule]*mark{}, labels: &s.Labels, now: s.Now, levels: tiers}
	if r.now == nil {
		r.now = func() int64 { return time.Now().UnixMicro() }
	}
	began := time.Now()
	for _, rule := range set.Rules() {
		r.marks[rule] = s.Usage.of(set.Domain(), rule.Name, began)
		if rule.Unlimited {
			continue
		}
		r.base[rule] = newLimit(rule, noTier(), began)
		r.base[rule].mark = r.marks[rule]
		for name, tier := range tiers.Levels {
			if r.tiers[name] == nil {
				r.tiers[name] = map[*limits.Rule]*Limit{}
			}
			if rule.Scaled {
				r.tiers[name][rule] = newLimit(rule, tier, began)
				r.tiers[name][rule].mark = r.marks[rule]
			}
		}
	}
	r.replace = slices.ContainsFunc(set.Rules(), func(rule *limits.Rule) bool { return len(rule.Replaces) > 0 })
	r.counts = slices.ContainsFunc(set.Rules(), (*limits.Rule).Counts)
	r.metadata = slices.ContainsFunc(set.Rules(), func(rule *limits.Rule) bool { return rule.Metadata != nil })
	r.labelled = slices.ContainsFunc(set.Rules(), (*limits.Rule).Labelled)
	return r
}

// Apart are the same rules for somebody who only looks: what they match is not remembered.
func (r *Rules) Apart() *Rules { return newRules(r.set, r.levels, &State{Now: r.now}) }

// NoRules are those of a domain without any.
func NoRules() *Rules { return newRules(limits.Empty(""), config.Tiers{}, &State{}) }

// noTier scales nothing.
func noTier() config.Tier { return config.Tier{Capacity: 1, LeakRate: 1} }

// leastLeak is what a tier may scale a leak down to, per second.
const leastLeak = 0.0001

// newLimit scales a rule: capacity is rounded and at least 1, the leak is not scaled
// below leastLeak, and a multiplier that is not positive counts as 1. A rule that
// refuses everything is not scaled. Of the calendar it is the limit of the window that a time is in.
func newLimit(rule *limits.Rule, tier config.Tier, at time.Time) *Limit {
	p := bucket.Params{Capacity: rule.Capacity}
	perSecond := float64(rule.PerPeriod) / rule.Period.Seconds()
	if rule.Scaled && rule.Capacity > 0 {
		p.Capacity = max(1, math.Round(rule.Capacity*positive(tier.Capacity)))
		perSecond = max(min(perSecond, leastLeak), perSecond*positive(tier.LeakRate))
	}
	window := rule.Period.Seconds()
	switch {
	case rule.Calendar != nil:
		begin, end := rule.Window(at)
		p.Origin, p.Window = begin.UnixMicro(), end.Sub(begin).Microseconds()
		window = end.Sub(begin).Seconds()
	case rule.Algorithm == limits.FixedWindow:
		p.Window = rule.Period.Microseconds()
	default:
		p.Rate = perSecond / 1e6
		window = math.Ceil(p.Capacity / perSecond)
	}
	kind, direct := bucket.Requests, bucket.Requests
	if rule.Counts() {
		kind, direct = bucket.ShadowRequests, bucket.ShadowRequests
	}
	switch {
	case rule.CountsAll && rule.Counts():
		kind = bucket.ShadowCounted
	case rule.CountsAll:
		kind = bucket.Counted
	case rule.Unit == limits.Tokens && rule.Counts():
		kind = bucket.ShadowTokens
	case rule.Unit == limits.Tokens:
		kind = bucket.Tokens
	}
	capacity := strconv.FormatFloat(p.Capacity, 'f', 0, 64)
	return &Limit{Limit: bucket.NewLimit(kind, p), Rule: rule, direct: bucket.NewLimit(direct, p), Capacity: capacity, tier: tier,
		Policy: fmt.Sprintf(`"%s";q=%s;w=%.0f`, rule.Name, capacity, window), Item: `"` + rule.Name + `";r=`}
}

func positive(multiplier float64) float64 {
	if multiplier <= 0 {
		return 1
	}
	return multiplier
}

// PerSecond is what drains from the bucket each second, on average.
func (l *Limit) PerSecond() float64 {
	p := l.Params
	if p.Window > 0 {
		return p.Capacity / (time.Duration(p.Window) * time.Microsecond).Seconds()
	}
	return p.Rate * 1e6
}

// FirstLogOf reports whether nothing was logged of the rule in a second (of Unix time)
// before, and takes note that something is now.
func (l *Limit) FirstLogOf(second int64) bool {
	before := l.mark.logged.Load()
	return before != second && l.mark.logged.CompareAndSwap(before, second)
}
