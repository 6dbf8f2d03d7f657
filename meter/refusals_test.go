package meter

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/spool"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

func TestRefusalsOfOneAccountAreBounded(t *testing.T) {
	t.Parallel()
	var r refusals
	start := time.Unix(1000, 0)
	passed := map[string]int{}
	for i := range 3000 { // 1000 a second for three seconds
		e := usage.Event{Account: "user:always", Timestamp: start.Add(time.Duration(i) * time.Millisecond)}
		if r.pass(&e) {
			passed[e.Account]++
			if first := i%1000 == 0 && i > 0; first != (e.Skipped == 1000-refusalsPerSecond) {
				t.Errorf("refusal %d: want the skipped ones told once a second, got %d", i, e.Skipped)
			}
		}
		if other := (usage.Event{Account: "user:rarely", Timestamp: e.Timestamp}); i%500 == 0 && r.pass(&other) {
			passed[other.Account]++
		}
	}
	if passed["user:always"] != 3*refusalsPerSecond || passed["user:rarely"] != 6 {
		t.Errorf("want %d a second, and all of another's, got %v", refusalsPerSecond, passed)
	}
	for i := range 3 * maxRefusing {
		r.pass(&usage.Event{Account: fmt.Sprint(i), Timestamp: start})
	}
	if len(r.accounts) > maxRefusing {
		t.Errorf("remembers %d accounts", len(r.accounts))
	}
}

// TestDamagedLinesAreSettled: a line that is cut, too long or not JSON is kept and counted,
// and its call is charged what it held.
func TestDamagedLinesAreSettled(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	cut, long, told := uuid.NewString(), uuid.NewString(), uuid.NewString()
	broken := func(id string) string {
		return strings.Replace(spoolLine(id, 10), `"answer":`, `"answer":nothing,"was":`, 1)
	}
	write(t, r.spool, broken(cut))
	write(t, r.spool, strings.TrimSuffix(strings.Replace(broken(long), `"flags"`, `"corr":"`+strings.Repeat("x", 2*spool.MaxLine)+`","flags"`, 1), "\n")+"\n")
	write(t, r.spool, strings.Replace(spoolLine(told, 10), `"flags":"-"`, `"flags":-`, 1))
	// As Envoy writes members, by name; the pool that it draws on cannot be told, so its hold is left alone.
	poolless := uuid.NewString()
	write(t, r.spool, fmt.Sprintf(`{"account":"user:u1","answer":"whole=1,in=12,out=10","bytes":"174","flags":"-","held":300,"held_in":44,"id":%q,"mod`+"\n", poolless))
	write(t, r.spool, spoolLine(uuid.NewString(), 10)) // is behind it
	m, _ := r.start(nil)
	got := r.events(4)
	if _, settled := r.limiter.charge(poolless); settled {
		t.Error("a hold of a pool that nobody knows was settled")
	}
	for name, id := range map[string]string{"cut": cut, "long": long} {
		if e := got[id]; e.Charged != 300 || e.Source != usage.FromHold || e.Reason != ReasonDamaged {
			t.Errorf("%s: want all that was held, got %+v", name, e)
		}
	}
	if e := got[told]; e.Charged != 22 || e.Source != usage.FromProvider {
		t.Errorf("want the provider's count where it can be read, got %+v", e)
	}
	kept, err := os.ReadFile(filepath.Join(filepath.Dir(r.spool), "damaged.jsonl"))
	if err != nil || !strings.Contains(string(kept), cut) || !strings.Contains(string(kept), long) {
		t.Errorf("want the lines kept, got %d bytes, %v", len(kept), err)
	}
	testenv.Eventually(t, "the stream's room", func() bool {
		used, most, err := m.cfg.Publisher.(room).Room(t.Context())
		return err == nil && used > 0 && most > used
	})
}
