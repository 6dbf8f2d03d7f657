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
	now      func() time.Time
	failures *lru.Cache[string, tally]
	familiar *lru.Cache[string, struct{}]
}

type tally struct {
	n       int
	until   time.Time // of the wait
	expires time.Time
}

func newMemory(now func() time.Time) *memory {
	failures, _ := lru.New[string, tally](maxSubjects) // fails only for a size below one
	familiar, _ := lru.New[string, struct{}](maxSubjects)
	return &memory{now: now, failures: failures, familiar: familiar}
}

func (m *memory) tally(key string) tally {
	t, _ := m.failures.Get(key)
	if !m.now().Before(t.expires) {
		return tally{}
	}
	return t
}

func (m *memory) take(_ context.Context, subjects []subject, longest, window time.Duration) (time.Duration, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now, wait := m.now(), time.Duration(0)
	for _, s := range subjects {
		wait = max(wait, m.tally(s.key).until.Sub(now))
	}
	if wait > 0 {
		return wait, nil
	}
	for _, s := range subjects {
		t := m.tally(s.key)
		t.n++
		if p := pause(t.n, s.most, longest); p > 0 {
			t.until = now.Add(p)
		}
		t.expires = now.Add(window + longest)
		m.failures.Add(s.key, t)
	}
	return 0, nil
}

func (m *memory) forgive(_ context.Context, subjects []subject) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range subjects {
		t := m.tally(s.key)
		t.n--
		if t.n < s.most {
			t.until = time.Time{}
		}
		if t.n <= 0 {
			m.failures.Remove(s.key)
			continue
		}
		m.failures.Add(s.key, t)
	}
	return nil
}

func (m *memory) forget(_ context.Context, s subject) error {
	m.failures.Remove(s.key)
	return nil
}

func (m *memory) known(_ context.Context, account, network string) (bool, error) {
	return m.familiar.Contains(account + ":" + network), nil
}

func (m *memory) trust(_ context.Context, account, network string) error {
	m.familiar.Add(account+":"+network, struct{}{})
	return nil
}
