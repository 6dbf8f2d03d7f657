package ratelimit

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
)

// mark remembers when a rule last matched. Requests only set a flag, and that once a
// sweep, so that they do not fight for its cache line.
type mark struct {
	used   atomic.Bool  // since the last sweep
	logged atomic.Int64 // the second in which a shadow refusal was last logged

	// Of the sweep, under marks.mu.
	since time.Time // when this replica first had the rule
	last  time.Time // of the sweep that found it used; zero: never
	told  bool      // that it is idle
}

func (m *mark) touch() {
	if !m.used.Load() {
		m.used.Store(true)
	}
}

// marks are the marks of all rules, by domain and name; they outlive a change of the file.
type marks struct {
	mu   sync.Mutex
	byID map[[2]string]*mark
}

// of gives the mark of a rule, new for a new rule.
func (m *marks) of(domain, name string, now time.Time) *mark {
	m.mu.Lock()
	defer m.mu.Unlock()
	id := [2]string{domain, name}
	one := m.byID[id]
	if one == nil {
		one = &mark{since: now}
		m.byID[id] = one
	}
	return one
}

// sweepEvery is how often marks are looked at; what is reported is that exact.
const sweepEvery = 10 * time.Second

// defaultIdle is how long a rule may match nothing before it is reported.
const defaultIdle = time.Hour

// watchRules reports rules that match nothing until ctx ends: most often a limit that
// matches nothing is one that was written for a descriptor nobody sends.
func (s *Service) watchRules(ctx context.Context) {
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			s.sweepRules(ctx, now)
		}
	}
}

// sweepRules takes the marks in, sets the gauge and tells of each rule that became idle.
func (s *Service) sweepRules(ctx context.Context, now time.Time) {
	for _, r := range s.rules(now) {
		idle := 0.0
		if r.Idle {
			idle = 1
		}
		s.metrics.idleRules.WithLabelValues(r.Domain, r.Name).Set(idle)
		if r.newlyIdle {
			s.log.LogAttrs(ctx, slog.LevelWarn, "a limit matches nothing: does anybody send its descriptor?", slog.String("domain", r.Domain),
				slog.String("rule", r.Name), slog.String("path", r.Path), slog.Duration("for", now.Sub(r.quietSince).Round(time.Second)))
		}
	}
}

// RulesPath is where the service's own port tells of its rules.
const RulesPath = "/internal/limits"

// RuleState is one rule as this replica knows it.
type RuleState struct {
	Domain string `json:"domain"`
	Name   string `json:"name"`
	Path   string `json:"path"`
	// LastMatch is when the rule last matched a descriptor, exact to ten seconds; nil:
	// not since Since, when this replica first had the rule.
	LastMatch *time.Time `json:"lastMatch"`
	Since     time.Time  `json:"since"`
	// Idle says that nothing matched for limits.idle_after.
	Idle bool `json:"idle"`

	quietSince time.Time
	newlyIdle  bool
}

// Rules are all rules, ours first, in file order.
func (s *Service) Rules() []RuleState { return s.rules(time.Now()) }

func (s *Service) rules(now time.Time) []RuleState {
	p := s.policy.Load()
	var out []RuleState
	for _, r := range p.all() {
		for _, rule := range r.set.Rules() {
			out = append(out, s.marks.state(r.marks[rule], RuleState{Domain: r.set.Domain(), Name: rule.Name, Path: rule.Path}, now, s.idleAfter))
		}
	}
	return out
}

// state completes a rule's state, taking the mark in.
func (m *marks) state(one *mark, r RuleState, now time.Time, after time.Duration) RuleState {
	m.mu.Lock()
	defer m.mu.Unlock()
	if one.used.Swap(false) {
		one.last, one.told = now, false
	}
	r.Since, r.quietSince = one.since, one.since
	if !one.last.IsZero() {
		last := one.last
		r.LastMatch, r.quietSince = &last, last
	}
	r.Idle = now.Sub(r.quietSince) >= after
	r.newlyIdle = r.Idle && !one.told
	one.told = one.told || r.Idle
	return r
}

// all are the rules of every domain, our own first.
func (p *policy) all() []*rules {
	others := make([]*rules, 0, len(p.domains))
	for _, r := range p.domains {
		others = append(others, r)
	}
	slices.SortFunc(others, func(a, b *rules) int {
		switch {
		case a.set.Domain() == limits.Domain:
			return -1
		case b.set.Domain() == limits.Domain:
			return 1
		case a.set.Domain() < b.set.Domain():
			return -1
		}
		return 1
	})
	return others
}
