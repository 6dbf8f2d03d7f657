package judge

import (
	"slices"
	"testing"
)

// rude is an honest demo in which the provider declined one call and told nothing of another.
func rude() Evidence {
	e := honest()
	e.Rude = true
	e.Calls[1].Manner = "left in the middle"
	e.Calls = append(e.Calls, Call{Provider: "openai", ID: "declined", Outcome: Declined, Status: 500, Manner: "provider refuses"},
		Call{Provider: "openai", ID: "untold", Outcome: Completed, Status: 200, Manner: "provider tells no usage", Untold: true, Input: -1, Output: -1},
		Call{Provider: "openai", Outcome: Aborted, Manner: "left before the first byte"})
	e.Served["declined"], e.Served["untold"], e.Served["early"] = Served{Times: 1}, Served{10, 10, 1}, Served{50, 0, 1}
	e.Charges["declined"], e.Charges["untold"], e.Charges["early"] = Charge{Settled, 100, 0}, Charge{Settled, 100, 19}, Charge{Settled, 100, 50}
	event := Event{User: "u-ann", Provider: "openai", Source: "released", Allowed: true, Times: 1}
	e.Events["declined"] = event
	event.Source, event.Charged, event.Input, event.Output = "estimated", 19, 10, 9
	e.Events["untold"] = event
	event.Charged, event.Input, event.Output = 50, 50, 0
	e.Events["early"] = event
	e.Totals = nil
	return e
}

func TestARudeDemo(t *testing.T) {
	t.Parallel()
	v := Judge(rude())
	if !v.OK || v.Estimates.Charged != 44+19+50 || v.Estimates.Served != 40+20+50 || v.Books.Unclaimed != 1 {
		t.Errorf("want all books to agree, and three estimates, got %+v", v)
	}
	want := MannerVerdict{Manner: "provider refuses", Calls: 1, Free: 1}
	if !slices.Contains(v.Manners, want) {
		t.Errorf("want %+v among %+v", want, v.Manners)
	}
	for name, tc := range map[string]struct {
		spoil  func(*Evidence)
		reason string
	}{
		"declined and charged": {func(e *Evidence) {
			event := e.Events["declined"]
			event.Charged = 5
			e.Events["declined"], e.Charges["declined"] = event, Charge{Settled, 100, 5}
		}, "the books differ on 1 request"},
		"estimates too low": {func(e *Evidence) { e.Served["early"] = Served{Input: 80, Times: 1} },
			"estimates charge 113 tokens for 140 that were served, less than nine tenths"},
		"told and estimated": {func(e *Evidence) { e.Calls[3+1].Untold = false }, "the books differ on 1 request"},
	} {
		e := rude()
		tc.spoil(&e)
		if v := Judge(e); v.OK || !slices.Contains(v.Reasons, tc.reason) {
			t.Errorf("%s: want %q, got %q", name, tc.reason, v.Reasons)
		}
	}
}
