package ratelimit

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
)

// TestNobodyWaitsForAMeterThatIsGone: a meter that was gone before Redis lost something is not waited
// for, and one that went then for as long as a hold lives.
func TestNobodyWaitsForAMeterThatIsGone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const life = time.Minute
		m := &meters{}
		m.lose()
		if _, _, waits := m.waits(life); waits {
			t.Error("no meter is known: want nobody to wait")
		}
		now := time.Now().UnixMicro()
		m.hears(store.Progress{Now: now, Meters: map[string]store.Said{"here": {At: now}, "gone": {At: now - 90e6}}}, life)
		if _, names, waits := m.waits(life); !waits || len(names) != 1 || names[0] != "here" {
			t.Errorf("want the one that lives to be waited for, got %v, %t", names, waits)
		}
		lost, _, _ := m.waits(life)
		<-time.After(time.Second)
		m.lose()
		m.published(lost)
		if _, _, waits := m.waits(life); !waits {
			t.Error("more was lost meanwhile: want it to wait on")
		}
		<-time.After(life + 1)
		if _, _, waits := m.waits(life); waits {
			t.Error("a hold's life later: want nobody to wait")
		}
	})
}
