package judge

import (
	"strings"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
)

// away is the honest demo with Redis away from 0.5 s to 1.5 s: its second call, of 100
// tokens, was admitted meanwhile.
func away(mode config.OutageMode) Evidence {
	e := honest()
	e.Targets[0].Outage, e.Targets[0].StreamOutage = mode, mode
	e.Outages = []Outage{{Part: PartRedis, Begun: 400 * time.Millisecond, Dead: 500 * time.Millisecond, Counted: 600 * time.Millisecond,
		Started: 1400 * time.Millisecond, Back: 2500 * time.Millisecond, Leased: 100}}
	e.Calls[1].Blind, e.Calls[1].Held = string(mode), 100
	return e
}

func TestJudgeOutages(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		mode   config.OutageMode
		spoil  func(*Evidence)
		reason string // empty: OK
		bound  int64  // -1: none
	}{
		"closed holds": {config.OutageClosed, func(e *Evidence) { e.Calls[1].Blind = "" }, "", 0},
		"closed lets one through that says so": {config.OutageClosed, func(*Evidence) {},
			"1 call of 100 tokens admitted in mode closed, and 0 is the bound", 0},
		"closed lets one through that says nothing": {config.OutageClosed, func(e *Evidence) {
			e.Calls[1].Blind, e.Calls[1].Answered = "", e.Outages[0].Started
		}, "admitted in mode closed", 0},
		"no mode is closed":   {"", func(e *Evidence) { e.Calls[1].Blind = "closed" }, "admitted in mode closed", 0},
		"lease within bounds": {config.OutageLease, func(*Evidence) {}, "", 100},
		"lease overspent": {config.OutageLease, func(e *Evidence) { e.Outages[0].Leased = 99 },
			"of 100 tokens admitted in mode lease, and 99 is the bound", 99},
		"lease spent before the limiters were asked": {config.OutageLease, func(e *Evidence) {
			e.Outages[0].Leased, e.Outages[0].Counted = 0, 1200*time.Millisecond
		}, "", 100},
		"lease overspent after Redis is back": {config.OutageLease, func(e *Evidence) {
			e.Outages[0].Leased = 99
			e.Calls[1].Sent, e.Calls[1].Answered = 2600*time.Millisecond, 2700*time.Millisecond
		}, "and 99 is the bound", 99},
		"lease with a limiter that did not answer": {config.OutageLease, func(e *Evidence) { e.Outages[0].Counted = 0 }, "", -1},
		"open admits": {config.OutageOpen, func(*Evidence) {}, "", -1},
		"open may go over the limit": {config.OutageOpen, func(e *Evidence) {
			e.Limits[Pair{0, "openai"}] = Limit{Capacity: 40,
				Leak: 1}
		}, "", -1},
		"lease may not": {config.OutageLease, func(e *Evidence) {
			e.Limits[Pair{0, "openai"}] = Limit{Capacity: 40,
				Leak: 1}
		}, "over the limit", 100},
		"a call that was not written down": {config.OutageOpen, func(e *Evidence) { e.Adopted = map[string]int{"failed": 1} },
			"1 call of an outage", -1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := away(test.mode)
			test.spoil(&e)
			v := Judge(e)
			if got := strings.Join(v.Reasons, "\n"); v.OK != (test.reason == "") || !strings.Contains(got, test.reason) {
				t.Errorf("want reason %q, got OK %v %q", test.reason, v.OK, got)
			}
			if len(v.Outages) != 1 || len(v.Outages[0].Modes) != 1 {
				t.Fatalf("want one mode of one outage, got %+v", v.Outages)
			}
			bound := v.Outages[0].Modes[0].Bound
			if (test.bound < 0) != (bound == nil) || bound != nil && *bound != test.bound {
				t.Errorf("want bound %d, got %v", test.bound, bound)
			}
			var text strings.Builder
			if err := v.Print(&text); err != nil || !strings.Contains(text.String(), "redis was killed after 0.4 s") {
				t.Errorf("printing: %v\n%s", err, text.String())
			}
		})
	}
}

// A hold that Redis took in its last moment is no fault; one at any other time is.
func TestJudgeHoldsOfADyingRedis(t *testing.T) {
	t.Parallel()
	for name, sent := range map[string]time.Duration{"open": 3 * time.Second, "": 0} {
		e := away(config.OutageOpen)
		e.Calls[0] = Call{Provider: "openai", ID: id1, Outcome: Failed, Status: 503, Sent: sent, Answered: sent + time.Second}
		delete(e.Served, id1)
		delete(e.Events, id1)
		e.Totals = nil
		e.Charges[id1] = Charge{State: Held, Held: 30}
		if v := Judge(e); v.OK != (name == "") || !strings.Contains(strings.Join(v.Reasons, " "), name) {
			t.Errorf("call sent at %v: got OK %v %v", sent, v.OK, v.Reasons)
		}
	}
}

// What passed while every limiter was away is in all books but the buckets.
func TestJudgeCallsThatNoLimiterSaw(t *testing.T) {
	t.Parallel()
	for _, mode := range []config.OutageMode{config.OutageOpen, config.OutageClosed} {
		e := away(mode)
		e.Outages[0].Part = "ratelimit-2"
		e.Calls[1].Blind, e.Calls[1].Held = "", 0
		e.Charges[id2] = Charge{State: Unknown}
		if v := Judge(e); v.OK != (mode == config.OutageOpen) {
			t.Errorf("%s: got OK %v %v", mode, v.OK, v.Reasons)
		}
	}
}

func TestJudgeLeasesAreNoStrangers(t *testing.T) {
	t.Parallel()
	e := honest()
	e.Limits[Pair{0, "openai"}] = Limit{Capacity: 1000, Leak: 10, Held: 400}
	if v := Judge(e); v.OK {
		t.Error("400 tokens are held for nobody, and the demo is content")
	}
	e.Leases = map[int]float64{0: 400}
	if v := Judge(e); !v.OK {
		t.Errorf("leased tokens are no fault: %v", v.Reasons)
	}
}
