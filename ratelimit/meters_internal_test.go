package ratelimit

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
)

// TestNobodyWaitsForAMeterThatIsGone: a meter that was gone before Redis lost something is not waited
// for, one that lived then is until it has published what was over then, and one that went then for as
// long as a hold lives.
func TestNobodyWaitsForAMeterThatIsGone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const life = time.Minute
		m := &meters{}
		waits := func() string { return m.behind(m.lostAt(poolName("a", "p")), life) }
		said := map[string]store.Said{}
		look := func(now time.Time) { m.hears(store.Progress{Now: now.UnixMicro(), Meters: said}, time.Now(), life) }
		say := func(name string, behind time.Duration) {
			<-time.After(time.Second)
			said[name] = store.Said{At: time.Now().UnixMicro(), Settled: time.Now().Add(-behind).UnixMicro()}
		}
		m.lose()
		if name := waits(); name != "" {
			t.Errorf("no meter is known: want nobody to wait, got %s", name)
		}
		say("gone", 0)
		<-time.After(90 * time.Second)
		say("here", 0)
		look(time.Now())
		<-time.After(time.Second)
		m.lose()
		if name := waits(); name != "here" {
			t.Errorf("want the one that lives to be waited for, got %q", name)
		}
		say("here", 10*time.Second)
		look(time.Now())
		if name := waits(); name != "here" {
			t.Errorf("it published nothing of then: want it to be waited for, got %q", name)
		}
		say("here", 0)
		look(time.Now())
		if name := waits(); name != "" {
			t.Errorf("it published what was over then: want nobody to wait, got %q", name)
		}
		m.misses(poolName("a", "p"), life)
		m.misses("other", life)
		<-time.After(time.Second)
		m.misses(poolName("a", "p"), life)
		if name := waits(); name != "here" {
			t.Errorf("a pool was evicted: want it to wait, got %q", name)
		}
		look(time.Now())
		say("here", 500*time.Millisecond)
		look(time.Now())
		if name := waits(); name != "" {
			t.Errorf("what was over when it was missed first is published: want nobody to wait, got %q", name)
		}
		m.misses(poolName("a", "p"), life)
		m.has("a", "p")
		m.lose()
		<-time.After(life + 1)
		if name := waits(); name != "" {
			t.Errorf("a hold's life later: want nobody to wait, got %q", name)
		}
	})
}

// TestMetersAreHeardWhateverTheClockOfRedis: it was moved between what a meter said and what Redis lost. The
// meter still lives, and has not published what it had not.
func TestMetersAreHeardWhateverTheClockOfRedis(t *testing.T) {
	t.Parallel()
	for name, moved := range map[string]time.Duration{"right": 0, "behind": -5 * time.Minute, "ahead": time.Hour} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				const life = 15 * time.Second
				m := &meters{}
				look := func(at, now time.Time) {
					<-time.After(time.Second)
					m.hears(store.Progress{Now: now.UnixMicro(),
						Meters: map[string]store.Said{"edge": {At: at.UnixMicro(), Settled: at.UnixMicro()}}}, time.Now(), life)
				}
				look(time.Now(), time.Now())
				there := time.Now().Add(moved)
				look(there, there)      // it speaks by the clock that is moved,
				look(there, time.Now()) // which is set right, and then it cannot
				look(there, time.Now())
				m.lose()
				look(there, time.Now())
				if got := m.behind(m.lostAt(poolName("a", "p")), life); got != "edge" {
					t.Errorf("want the meter to be waited for, got %q", got)
				}
			})
		})
	}
}
