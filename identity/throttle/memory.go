package throttle

import (
	"context"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

// maxSubjects bounds the memory: the subjects seen last are kept.
const maxSubjects = 20_000

// memory counts in this process, as shared does in Redis.
type memory struct {
	mu       sync.Mutex
	rules    rules
	now      func() time.Time
	tallies  *lru.Cache[string, *tally]
	familiar *lru.Cache[string, struct{}]
}

func newMemory(r rules, now func() time.Time) *memory {
	tallies, _ := lru.New[string, *tally](maxSubjects) // fails only for a size below one
	familiar, _ := lru.New[string, struct{}](maxSubjects)
	return &memory{rules: r, now: now, tallies: tallies, familiar: familiar}
}

// tally gives the one of a subject, a new one where there is none or it has expired.
func (m *memory) tally(key string, now time.Time) *tally {
	if t, ok := m.tallies.Get(key); ok && now.Before(t.expires) {
		return t
	}
	t := &tally{}
	m.tallies.Add(key, t)
	return t
}

func (m *memory) take(_ context.Context, subjects []subject) (verdict, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now, verdicts := m.now(), make([]verdict, len(subjects))
	for i, s := range subjects {
		verdicts[i] = m.tally(s.key, now).judge(s, now)
	}
	v := worst(verdicts)
	for _, s := range subjects {
		switch t := m.tally(s.key, now); {
		case v.wait == 0:
			t.admit(s, now)
		case !v.line:
			t.promise(s, now, v.wait)
		}
	}
	return v, nil
}

// each runs f for the tallies that are there.
func (m *memory) each(subjects []subject, f func(s subject, t *tally, now time.Time)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	for _, s := range subjects {
		f(s, m.tally(s.key, now), now)
	}
	return nil
}

func (m *memory) fail(_ context.Context, subjects []subject) error {
	return m.each(subjects, func(s subject, t *tally, now time.Time) { t.fail(s, m.rules, now) })
}

func (m *memory) release(_ context.Context, subjects []subject) error {
	return m.each(subjects, func(_ subject, t *tally, _ time.Time) { t.settle() })
}

func (m *memory) forget(_ context.Context, s subject) error {
	return m.each([]subject{s}, func(_ subject, t *tally, _ time.Time) {
		t.settle()
		*t = tally{pending: t.pending, pendingUntil: t.pendingUntil, expires: t.pendingUntil}
	})
}

func (m *memory) known(_ context.Context, account, network string) (bool, error) {
	return m.familiar.Contains(account + ":" + network), nil
}

func (m *memory) trust(_ context.Context, account, network string) error {
	m.familiar.Add(account+":"+network, struct{}{})
	return nil
}
