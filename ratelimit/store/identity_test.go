package store_test

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
)

// heard is what a store said of its server.
type heard struct {
	mu    sync.Mutex
	older []bool
}

func (h *heard) changed(older bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.older = append(h.older, older)
}

// take gives what was heard since it was called last.
func (h *heard) take() []bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	said := h.older
	h.older = nil
	return said
}

// TestAServerIsKnownByItsData: one that starts again has the same data, and is told apart from one whose
// data went back, by a copy in its place, by another server that it followed for a while, or by an
// operator, also where connections stay and its run id is the same.
func TestAServerIsKnownByItsData(t *testing.T) {
	t.Parallel()
	server, other, said := testenv.RedisServer(t), testenv.RedisServer(t), &heard{}
	s, err := store.New(store.Config{URL: server.URL(), Lifetime: time.Minute, SettledKept: time.Minute, Timeout: time.Minute, DialTimeout: time.Minute,
		Changed: said.changed})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	admin, copied := server.Client(), other.Client()
	beat := func() {
		t.Helper()
		testenv.Eventually(t, "a beat", func() bool { return s.Beat(t.Context()) == nil })
	}
	do := func(args ...any) {
		t.Helper()
		if err := admin.Do(t.Context(), args...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []*redis.Client{admin, copied} { // else a copy is begun five seconds later
		if err := c.ConfigSet(t.Context(), "repl-diskless-sync-delay", "0").Err(); err != nil {
			t.Fatal(err)
		}
	}
	beat()
	restore := server.Snapshot()
	if err := copied.Do(t.Context(), "REPLICAOF", "127.0.0.1", server.URL()[len("redis://127.0.0.1:"):]).Err(); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, "a copy", func() bool { return copied.Exists(t.Context(), "{*}:beat").Val() == 1 })
	if err := copied.Do(t.Context(), "REPLICAOF", "NO", "ONE").Err(); err != nil {
		t.Fatal(err)
	}
	beat()
	beat()
	for _, step := range []struct {
		name string
		do   func()
		want []bool
	}{
		{"nothing", func() {}, nil},
		{"it starts again", server.Restart, []bool{false}},
		{"a copy from before", restore, []bool{true}},
		{"emptied", func() { beat(); beat(); said.take(); do("FLUSHALL") }, []bool{true}},
		{"it followed another that had less", func() {
			for range 3 {
				beat()
			}
			said.take()
			do("REPLICAOF", "127.0.0.1", other.URL()[len("redis://127.0.0.1:"):])
			testenv.Eventually(t, "the other's data", func() bool { return admin.Get(t.Context(), "{*}:beat").Val() == "1" })
			do("REPLICAOF", "NO", "ONE")
		}, []bool{true}},
	} {
		said.take()
		step.do()
		beat()
		if got := said.take(); !slices.Equal(got, step.want) {
			t.Errorf("%s: want it told as older %v, got %v", step.name, step.want, got)
		}
	}
}

// TestWhoNoticesLateGoesByWhoNoticedFirst: two limiters share a server that goes back, and one of them stood
// still meanwhile. What was taken since the first noticed is of calls that run, for both.
func TestWhoNoticesLateGoesByWhoNoticedFirst(t *testing.T) {
	t.Parallel()
	server := testenv.RedisServer(t)
	limiter := func() *store.Store {
		s, err := store.New(store.Config{URL: server.URL(), Lifetime: time.Minute, SettledKept: time.Minute, Timeout: time.Minute, DialTimeout: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	}
	beat := func(s *store.Store, times int) {
		t.Helper()
		for range times {
			testenv.Eventually(t, "a beat", func() bool { return s.Beat(t.Context()) == nil })
		}
	}
	back := func(s *store.Store, noticed time.Duration) int64 {
		t.Helper()
		by, err := s.WentBack(t.Context(), noticed)
		if err != nil {
			t.Fatal(err)
		}
		return by
	}
	first, late := limiter(), limiter()
	beat(first, 1)
	restore := server.Snapshot()
	beat(first, 3)
	beat(late, 1)
	restore()
	beat(first, 2)
	by := back(first, time.Second)
	if now, err := first.Clock(t.Context()); err != nil || by == 0 || by > now-time.Second.Microseconds() {
		t.Errorf("want what was taken before it was noticed, a second ago or more, to be of older data; got %d at %d, %v", by, now, err)
	}
	beat(late, 1)
	if got := back(late, 0); got != by {
		t.Errorf("want the late one to go by what the first noticed, %d, got %d", by, got)
	}
	beat(late, 3)
	if err := server.Client().FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	beat(first, 2)
	if got := back(first, 0); got != 0 {
		t.Errorf("nothing is left of before: want 0, got %d", got)
	}
	beat(late, 1)
	if got := back(late, 0); got != 0 {
		t.Errorf("nothing is left of before: want 0 by who notices late, got %d", got)
	}
}
