package match

import (
	"sync"
	"sync/atomic"
	"time"
)

// mark remembers when a rule last matched. Requests only set a flag, and that once a
// sweep, so that they do not fight for its cache line.
type mark struct {
	used   atomic.Bool  // since the last sweep
	logged atomic.Int64 // the second in which a shadow refusal was last logged

	// Of the sweep, under Usage.mu.
	since time.Time // when this replica first had the rule
	last  time.Time // of the sweep that found it used; zero: never
	told  bool      // that it is idle
}

func (m *mark) touch() {
	if !m.used.Load() {
		m.used.Store(true)
	}
}

// Usage is when each rule last matched, by domain and name; it outlives a change of the file.
type Usage struct {
	mu   sync.Mutex
	byID map[[2]string]*mark
}

// of gives the mark of a rule, new for a new rule.
func (u *Usage) of(domain, name string, now time.Time) *mark {
	u.mu.Lock()
	defer u.mu.Unlock()
	id := [2]string{domain, name}
	one := u.byID[id]
	if one == nil {
		if u.byID == nil {
			u.byID = map[[2]string]*mark{}
		}
		one = &mark{since: now}
		u.byID[id] = one
	}
	return one
}

// RuleUsage is one rule as this replica knows it.
type RuleUsage struct {
	Domain string `json:"domain"`
	Name   string `json:"name"`
	Path   string `json:"path"`
	// LastMatch is when the rule last matched a descriptor, exact to the pause between two
	// sweeps; nil: not since Since, when this replica first had the rule.
	LastMatch *time.Time `json:"lastMatch"`
	Since     time.Time  `json:"since"`
	// Idle says that nothing matched for limits.idle_after.
	Idle bool `json:"idle"`

	QuietSince time.Time `json:"-"` // LastMatch, else Since
	NewlyIdle  bool      `json:"-"` // no sweep said so before
}

// Sweep takes in what matched since the last sweep and gives all rules, ours first, in
// file order. A rule that matched nothing for idleAfter is idle.
func (u *Usage) Sweep(p *Policy, now time.Time, idleAfter time.Duration) []RuleUsage {
	var out []RuleUsage
	for _, r := range p.All() {
		for _, rule := range r.set.Rules() {
			out = append(out, u.sweep(r.marks[rule], RuleUsage{Domain: r.set.Domain(), Name: rule.Name, Path: rule.Path}, now, idleAfter))
		}
	}
	return out
}

// sweep completes a rule's state, taking the mark in.
func (u *Usage) sweep(one *mark, r RuleUsage, now time.Time, idleAfter time.Duration) RuleUsage {
	u.mu.Lock()
	defer u.mu.Unlock()
	if one.used.Swap(false) {
		one.last, one.told = now, false
	}
	r.Since, r.QuietSince = one.since, one.since
	if !one.last.IsZero() {
		last := one.last
		r.LastMatch, r.QuietSince = &last, last
	}
	r.Idle = now.Sub(r.QuietSince) >= idleAfter
	r.NewlyIdle = r.Idle && !one.told
	one.told = one.told || r.Idle
	return r
}
