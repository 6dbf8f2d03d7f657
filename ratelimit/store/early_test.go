package store_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/balance"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
)

const earlyMinute = int64(60e6)

// drawn is a pool of 1000 tokens that refills, and the clock of Redis.
type drawn struct {
	*testing.T
	store  *store.Store
	clock  *atomic.Int64
	right  int64 // the time that it is, when the clock is right
	window time.Duration
	calls  int
}

func newDrawn(t *testing.T, window time.Duration) *drawn {
	t.Helper()
	d := &drawn{T: t, clock: new(atomic.Int64), right: noon - noon%earlyMinute + 10e6, window: window}
	d.clock.Store(d.right)
	d.store = newStore(t, d.clock.Load)
	return d
}

// take is a call of so many tokens of the pool.
func (d *drawn) take(id string, tokens int64) store.Take {
	return store.Take{Account: "user:u", ID: id, Output: tokens, Facts: []byte("f"), Pool: store.PoolRequired, Provider: "openai",
		Buckets: []bucket.Bucket{{Limit: bucket.NewLimit(bucket.Tokens, bucket.Params{Capacity: 1e9}), Key: "{user:u}:b:x"}}}
}

func (d *drawn) hold(id string, tokens int64, want store.Outcome) store.Taken {
	d.Helper()
	got, err := d.store.Hold(d.Context(), d.take(id, tokens))
	if err != nil || got.Outcome != want {
		d.Fatalf("%s of %d tokens: want %s, got %s, %+v, %v", id, tokens, want, got.Outcome, got.Pool, err)
	}
	return got
}

func (d *drawn) settle(id string, charged int64) {
	d.Helper()
	got, err := d.store.Settle(d.Context(), []store.Settlement{{Account: "user:u", ID: id, Charged: charged}})
	if err != nil || got[0].Status != store.Settled && got[0].Status != store.Late {
		d.Fatalf("settle %s: %+v, %v", id, got, err)
	}
}

func (d *drawn) spend(tokens int64) {
	d.Helper()
	d.calls++
	id := fmt.Sprint("call-", d.calls)
	d.hold(id, tokens, store.Admitted)
	d.settle(id, tokens)
}

// state is what the ledger says that has booked so much in a window, and whose clock is right.
func (d *drawn) state(version, spent, returned int64) balance.State {
	begin := time.UnixMicro(d.right - d.right%d.window.Microseconds())
	return balance.State{Account: "user:u", Provider: "openai", Present: true, Version: version, Credits: 1000, Spent: spent, Returned: returned,
		Window: d.window, Anchor: begin.Add(-10 * d.window), At: time.UnixMicro(d.right)}
}

// asked writes what the ledger answers, told what the stream brings.
func (d *drawn) asked(b balance.State) {
	d.Helper()
	if _, err := d.store.SetBalance(d.Context(), b); err != nil {
		d.Fatal(err)
	}
}

func (d *drawn) told(b balance.State) {
	d.Helper()
	if known, err := d.store.UpdateBalance(d.Context(), b); err != nil || !known {
		d.Fatal(known, err)
	}
}

func (d *drawn) want(what string, index, spent, held int64) {
	d.Helper()
	seen, err := d.store.ReadState(d.Context(), "user:u", nil, nil, "openai")
	if err != nil {
		d.Fatal(err)
	}
	if p := seen.Pools[0]; p.Index != index || p.Spent != spent || p.Held != held {
		d.Errorf("%s: want %d spent and %d held in window %d, got %+v", what, spent, held, index, p)
	}
}

// later lets time pass for all clocks.
func (d *drawn) later(us int64) {
	d.right += us
	d.clock.Add(us)
}

// TestAPoolAfterTheClockWasAhead: all is spent, Redis' clock is an hour ahead for one call, and is set right.
// Nothing is spent twice in the window that it really is, and it refills at the next border.
func TestAPoolAfterTheClockWasAhead(t *testing.T) {
	t.Parallel()
	d := newDrawn(t, time.Minute)
	first := d.state(1, 0, 0)
	d.asked(first)
	d.spend(1000)
	d.hold("dry", 20, store.Short)
	d.clock.Add(60 * earlyMinute)
	d.spend(20)
	d.want("while it is ahead", 70, 20, 0)
	d.clock.Store(d.right)

	if got := d.hold("next", 20, store.Missing); !got.Pool.Known || !got.Pool.Present || got.Pool.Index != 70 || got.Held != 0 {
		t.Errorf("want it told with the window that has not begun, got %+v", got)
	}
	d.want("a call that was not decided takes nothing", 70, 20, 0)
	if seen, err := d.store.ReadState(t.Context(), "user:u", []string{"next"}, d.take("", 0).Buckets); err != nil ||
		seen.Records[0].State != store.StateNone || seen.States[0].Held != 0 {
		t.Errorf("want no hold of it, got %+v, %v", seen, err)
	}
	now := d.state(2, 1000, 0)
	now.Anchor = first.Anchor
	d.asked(now)
	d.want("what the ledger knows is spent", 10, 1000, 0)
	d.hold("next", 20, store.Short)
	now.Version, now.Spent = 3, 1020
	d.told(now)
	d.want("and then the call of before", 10, 1020, 0)
	d.hold("next", 20, store.Short)

	d.later(earlyMinute)
	d.hold("too much", 981, store.Short)
	d.hold("the next window", 980, store.Admitted)
	d.settle("the next window", 980)
	d.want("a real border", 11, 1000, 0)
	d.later(60 * earlyMinute)
	d.want("when the clock comes to where it was", 71, 0, 0)
}

// TestAPoolHearsOfAWindowThatHasNotBegunInAnyOrder: the clock was ahead, and states come with and without a question.
func TestAPoolHearsOfAWindowThatHasNotBegunInAnyOrder(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		order string // a: asked, before the call of the wrong window is booked; A: after; t, T: told so; o: told long ago
		index int64
		spent int64
	}{
		"nobody is asked":   {"tTo", 70, 20},
		"asked":             {"a", 10, 1000},
		"asked late":        {"A", 10, 1020},
		"asked, then told":  {"aT", 10, 1020},
		"told, then asked":  {"tTA", 10, 1020},
		"told, asked early": {"Ta", 10, 1000}, // what was told of another window told nothing
		"old news":          {"AotaT", 10, 1020},
		"all, twice":        {"aAtToaAtTo", 10, 1020},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDrawn(t, time.Minute)
			old := d.state(1, 0, 0)
			d.asked(old)
			d.spend(1000)
			d.clock.Add(60 * earlyMinute)
			d.spend(20)
			d.clock.Store(d.right)
			before, after := d.state(2, 1000, 0), d.state(3, 1020, 0)
			for _, step := range tc.order {
				switch step {
				case 'a':
					d.asked(before)
				case 'A':
					d.asked(after)
				case 't':
					d.told(before)
				case 'T':
					d.told(after)
				case 'o':
					d.told(old)
				}
			}
			d.want(tc.order, tc.index, tc.spent, 0)
		})
	}
}

// TestAHoldOfAWindowThatNeverWasSettlesOnce: calls begin before and while Redis' clock is ahead, and end at any time.
// What they were charged is spent in the window that it really is, and what they hold ends with them.
func TestAHoldOfAWindowThatNeverWasSettlesOnce(t *testing.T) {
	t.Parallel()
	const charged = 90 // of 100 that are held
	for _, begins := range []string{"before the jump", "while it is ahead"} {
		for ends, tc := range map[string]struct {
			sweep bool
			spent int64 // in the end
			index int64
		}{
			"before it is asked":       {false, 500 + charged, 10},
			"after it is asked":        {false, 500 + charged, 10},
			"by the sweeper":           {true, 500 + 100, 10},
			"by the sweeper and late":  {true, 500 + charged, 10},
			"in the window after that": {false, charged, 11}, // of a call that is told of the wrong window
		} {
			t.Run(begins+", ends "+ends, func(t *testing.T) {
				t.Parallel()
				d := newDrawn(t, time.Minute)
				if tc.sweep { // holds live for a minute
					d = newDrawn(t, time.Hour)
				}
				first := d.state(1, 0, 0)
				d.asked(first)
				d.spend(500)
				ahead := 60 * d.window.Microseconds()
				if begins == "before the jump" {
					d.hold("runs", 100, store.Admitted)
				}
				d.clock.Add(ahead)
				if begins == "while it is ahead" {
					d.hold("runs", 100, store.Admitted)
				}
				d.spend(1)
				d.want("ahead", 70, 1, 100)
				d.clock.Store(d.right)
				booked := int64(500)
				if ends == "before it is asked" {
					d.settle("runs", charged)
					booked += charged // and is published
				}
				d.hold("another", 10, store.Missing)
				now := d.state(2, booked, 0)
				now.Anchor = first.Anchor
				d.asked(now)
				switch ends {
				case "after it is asked":
					d.want("it runs", 10, 500, 100)
					d.settle("runs", charged)
				case "in the window after that":
					d.later(earlyMinute)
					d.hold("another", 10, store.Admitted)
					d.settle("another", 0)
					d.want("it runs", 11, 0, 100)
					d.settle("runs", charged)
					if begins == "before the jump" { // it counts where it was taken
						d.want("it is settled", 11, 0, 0)
						return
					}
				case "by the sweeper", "by the sweeper and late":
					sweepAll(d)
					d.later(earlyMinute)
					sweepAll(d)
					if ends == "by the sweeper and late" {
						d.want("it is charged", 10, 600, 0)
						d.settle("runs", charged)
					}
				}
				d.want("it is over", tc.index, tc.spent, 0)
			})
		}
	}
}

// sweepAll expires what is due.
func sweepAll(d *drawn) {
	d.Helper()
	if _, err := d.store.Sweep(d.Context(), func(h store.Hold) error {
		_, _, err := d.store.Expire(d.Context(), h.Account, h.ID, true)
		return err
	}); err != nil {
		d.Fatal(err)
	}
}

// TestAPoolWhileTheClockIsBehind: Redis' clock falls back over the border of a window in which calls were made. What was
// spent stays spent, nothing is refilled by the second time that the clock comes to the border, and the ledger is
// asked once.
func TestAPoolWhileTheClockIsBehind(t *testing.T) {
	t.Parallel()
	d := newDrawn(t, time.Hour)
	d.right += 30 * earlyMinute // a minute and a bit after the hour
	d.right -= d.right % (60 * earlyMinute)
	d.right -= earlyMinute
	d.clock.Store(d.right)
	first := d.state(1, 0, 0)
	d.asked(first)
	d.spend(900)
	d.later(2 * earlyMinute)
	d.spend(700)
	d.hold("runs", 100, store.Admitted)
	d.want("a new window", 11, 700, 100)
	now := d.state(3, 700, 0)
	now.Anchor = first.Anchor

	d.clock.Add(-5 * earlyMinute)
	first.Version, first.Spent = 2, 900
	d.told(first) // of the window before, late
	d.hold("next", 10, store.Missing)
	d.asked(now)
	d.want("the ledger is in that window", 11, 700, 100)
	d.hold("too much", 201, store.Short)
	d.told(first)
	d.spend(50)
	d.settle("runs", 100)
	d.want("a call", 11, 850, 0)
	if _, _, err := d.store.Recount(t.Context()); err != nil {
		t.Error(err)
	}
	now.Version, now.Spent = 4, 850
	d.told(now)
	d.spend(50)
	d.later(5 * earlyMinute) // the border once more
	d.want("the same border", 11, 900, 0)
	d.spend(50)
	d.clock.Store(d.right)
	d.want("set right", 11, 950, 0)
	d.hold("too much", 51, store.Short)
	d.later(60 * earlyMinute)
	d.hold("the next window", 1000, store.Admitted)
	d.want("the next window", 12, 0, 1000)

	d.clock.Add(-10 * earlyMinute) // and what the ledger said of the window before says nothing of this one
	d.hold("next", 10, store.Missing)
}

// TestAPoolWaitsForAClockThatIsALittleBehind: by less than a minute, nobody is asked.
func TestAPoolWaitsForAClockThatIsALittleBehind(t *testing.T) {
	t.Parallel()
	d := newDrawn(t, time.Minute)
	first := d.state(1, 0, 0)
	d.asked(first)
	d.spend(900)
	d.later(51e6)
	d.spend(700)
	d.want("a new window", 11, 700, 0)
	d.clock.Add(-40e6)
	old := first
	old.Version, old.Spent = 2, 900
	d.asked(old) // it was read before the border
	d.hold("too much", 301, store.Short)
	d.spend(100)
	d.later(40e6)
	d.spend(100)
	d.want("the same border", 11, 900, 0)
}

// TestAPoolBeforeItsFirstWindowIsInIt: the anchor is after what the clock says.
func TestAPoolBeforeItsFirstWindowIsInIt(t *testing.T) {
	t.Parallel()
	d := newDrawn(t, time.Hour)
	b := d.state(1, 0, 0)
	b.Anchor = b.At
	d.asked(b)
	d.clock.Add(-30 * earlyMinute)
	d.spend(400)
	d.want("before the anchor", 0, 400, 0)
}

// TestACallWithoutRedisInAWindowThatNeverWas: what was admitted while Redis was away is written down, and counts.
func TestACallWithoutRedisInAWindowThatNeverWas(t *testing.T) {
	t.Parallel()
	d := newDrawn(t, time.Minute)
	first := d.state(1, 0, 0)
	d.asked(first)
	d.spend(300)
	d.clock.Add(60 * earlyMinute)
	d.spend(1)
	d.clock.Store(d.right)
	if way, err := d.store.RecordLate(t.Context(), d.take("late", 100), ""); err != nil || way != store.Forced {
		t.Fatal(way, err)
	}
	d.want("written down", 70, 1, 100)
	d.hold("next", 10, store.Missing)
	d.asked(d.state(2, 300, 0))
	d.want("asked", 10, 300, 100)
	d.settle("late", 80)
	d.want("settled", 10, 380, 0)
}

// TestAMoveToAnotherModelInAWindowThatNeverWas keeps the hold of the model before until the ledger has answered.
func TestAMoveToAnotherModelInAWindowThatNeverWas(t *testing.T) {
	t.Parallel()
	d := newDrawn(t, time.Minute)
	d.asked(d.state(1, 0, 0))
	d.hold("moves", 100, store.Admitted)
	d.clock.Add(60 * earlyMinute)
	d.spend(1)
	d.clock.Store(d.right)
	again := d.take("moves", 50)
	again.Moves = true
	if got, err := d.store.Hold(t.Context(), again); err != nil || got.Outcome != store.Missing {
		t.Fatal(got, err)
	}
	d.want("not yet", 70, 1, 100)
	d.asked(d.state(2, 0, 0))
	if got, err := d.store.Hold(t.Context(), again); err != nil || got.Outcome != store.Admitted {
		t.Fatal(got, err)
	}
	d.want("moved", 10, 1, 50)
	d.settle("moves", 40)
	d.want("settled", 10, 41, 0)
}

// TestACorrectionInAWindowThatHasNotBegun: what the sweeper charged too much is given back, told by the ledger or not yet,
// after a clock that was ahead and by one that is behind.
func TestACorrectionInAWindowThatHasNotBegun(t *testing.T) {
	t.Parallel()
	const jump = 60 * 60 * earlyMinute
	for _, behind := range []bool{false, true} {
		t.Run(fmt.Sprintf("behind %t", behind), func(t *testing.T) {
			t.Parallel()
			d := newDrawn(t, time.Hour)
			first := d.state(1, 0, 0)
			d.asked(first)
			index := int64(10)
			if behind {
				d.later(jump)
				index = 70
			} else {
				d.clock.Add(jump)
			}
			d.hold("runs", 100, store.Admitted)
			d.later(2 * earlyMinute)
			sweepAll(d)
			if err := d.store.Finish(t.Context(), "user:u", "runs"); err != nil {
				t.Fatal(err)
			}
			d.clock.Add(-jump)
			d.hold("next", 10, store.Missing)
			now := d.state(2, 100, 0)
			now.Anchor = first.Anchor
			if behind {
				d.asked(now)
				d.settle("runs", 60)
			} else {
				d.settle("runs", 60)
				d.asked(now)
			}
			d.want("corrected", index, 60, 0)
			d.hold("too much", 941, store.Short)
			d.told(now)
			now.Version, now.Spent, now.Returned = 3, 60, 40
			d.told(now)
			d.want("told", index, 60, 0)
			d.hold("next", 940, store.Admitted)
		})
	}
}
