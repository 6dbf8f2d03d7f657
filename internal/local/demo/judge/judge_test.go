package judge

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

const (
	id1 = "11111111-1111-4111-8111-111111111111"
	id2 = "22222222-2222-4222-8222-222222222222"
	id3 = "33333333-3333-4333-8333-333333333333"
)

// honest is a demo of three calls on which all books agree: one completed, one hung up,
// one refused.
func honest() Evidence {
	return Evidence{
		Seed: 7, Elapsed: 10 * time.Second,
		Accounts: []Account{{Name: "ann", User: "u-ann", Tier: "USER"}},
		Targets:  []Target{{Provider: "openai", Part: "stub-openai"}},
		Limits:   map[Pair]Limit{{0, "openai"}: {Capacity: 1000, Leak: 10}},
		Calls: []Call{
			{Provider: "openai", ID: id1, Outcome: Completed, Status: 200, Input: 10, Output: 20, Sent: 0, Answered: time.Second},
			{Provider: "openai", ID: id2, Outcome: Aborted, Status: 200, Input: -1, Output: -1, Sent: time.Second, Answered: 2 * time.Second},
			{Provider: "openai", ID: id3, Outcome: Refused, Status: 429, Sent: 2 * time.Second, Answered: 3 * time.Second},
		},
		Served:  map[string]Served{id1: {10, 20, 1}, id2: {10, 30, 1}},
		Charges: map[string]Charge{id1: {Settled, 100, 30}, id2: {Settled, 100, 44}, id3: {State: Unknown}},
		Events: map[string]Event{
			id1: {User: "u-ann", Provider: "openai", Input: 10, Output: 20, Charged: 30, Source: "provider", Allowed: true, Times: 1},
			id2: {User: "u-ann", Provider: "openai", Charged: 44, Source: "estimated", Allowed: true, Times: 1},
			id3: {User: "u-ann", Provider: "openai", Source: "refused", Times: 1},
		},
		Totals: map[Pair]Total{{0, "openai"}: {Events: 3, Tokens: 74}},
	}
}

// TestAFailedCallThatHeldNothingHasNoEvent: nobody decided about it, and what Redis might have taken for it was
// given back. One that held something has.
func TestAFailedCallThatHeldNothingHasNoEvent(t *testing.T) {
	t.Parallel()
	for held, missing := range map[int64]int{0: 0, 50: 1} {
		e := honest()
		e.Calls = append(e.Calls, Call{Provider: "openai", ID: "x", Outcome: Failed, Status: 503})
		e.Charges["x"] = Charge{Settled, held, 0}
		if v := Judge(e); v.Books.Missing != missing {
			t.Errorf("held %d: want %d missing, got %+v", held, missing, v.Books)
		}
	}
}

// TestRefusalsBeyondThoseWithEvents: a missing event is excused only where the account had
// as many refusals with one as get them in a second.
func TestRefusalsBeyondThoseWithEvents(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ events, missing, skipped int }{
		"as many as are kept": {refusalsKept, 0, 5},
		"fewer":               {refusalsKept - 1, 6, 0},
	} {
		e := honest()
		for i := range refusalsKept + 5 {
			id := fmt.Sprintf("refusal-%d", i)
			e.Calls = append(e.Calls, Call{Account: 1, Provider: "openai", ID: id, Outcome: Refused, Status: 429})
			if i < tc.events {
				e.Events[id] = Event{Times: 1}
			}
		}
		e.Accounts = append(e.Accounts, Account{Name: "bea"})
		if v := Judge(e); v.Books.Missing != tc.missing || v.Books.Skipped != tc.skipped {
			t.Errorf("%s: want %d missing and %d skipped, got %+v", name, tc.missing, tc.skipped, v.Books)
		}
	}
}

func TestJudgeAgrees(t *testing.T) {
	t.Parallel()
	v := Judge(honest())
	if !v.OK || len(v.Reasons) > 0 || v.Over != 0 {
		t.Fatalf("want OK, got %+v", v)
	}
	want := Line{Provider: "openai", Admitted: 2, Refused: 1, Aborted: 1, Held: 200, Settled: 74, Estimated: 1, EstTokens: 44, Served: 70,
		Limit: Limit{Capacity: 1000, Leak: 10}, Allowed: 1100}
	if got := v.Accounts[0].Providers[0]; got != want {
		t.Errorf("line\nwant %+v\ngot  %+v", want, got)
	}
	if want := (Books{Compared: 1, Agreed: 1, Expected: 3, Found: 3}); v.Books != want {
		t.Errorf("books\nwant %+v\ngot  %+v", want, v.Books)
	}
	if want := (Estimates{Count: 1, Charged: 44, Served: 40, Mean: 0.1, Worst: 0.1, WorstID: id2, Bias: 0.1}); v.Estimates != want {
		t.Errorf("estimates\nwant %+v\ngot  %+v", want, v.Estimates)
	}
}

func TestJudgeFails(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		spoil  func(*Evidence)
		reason string
	}{
		"settle is broken": {func(e *Evidence) {
			for id := range e.Events {
				e.Charges[id] = Charge{State: Held, Held: 100}
			}
			e.Events = map[string]Event{id3: e.Events[id3]}
			e.Totals = nil
		}, "2 holds still open"},
		"over the limit": {func(e *Evidence) {
			e.Limits[Pair{0, "openai"}] = Limit{Capacity: 40, Leak: 1}
		}, "ann went 28 tokens over the limit at openai"},
		"missing event":         {func(e *Evidence) { delete(e.Events, id1) }, "1 usage event missing"},
		"missing refusal event": {func(e *Evidence) { delete(e.Events, id3) }, "1 usage event missing"},
		"double event": {func(e *Evidence) {
			event := e.Events[id1]
			event.Times = 2
			e.Events[id1] = event
		}, "1 usage event counted twice"},
		"double charge in Redis": {func(e *Evidence) { e.Charges[id1] = Charge{Settled, 100, 60} }, "the books differ on 1 request"},
		"double charge in both": {func(e *Evidence) {
			e.Charges[id1] = Charge{Settled, 100, 60}
			event := e.Events[id1]
			event.Charged = 60
			e.Events[id1] = event
		}, "the books differ on 1 request"},
		"ClickHouse alone is off by one": {func(e *Evidence) {
			event := e.Events[id2]
			event.Charged++
			e.Events[id2] = event
		}, "the books differ on 1 request"},
		"input and output swapped": {func(e *Evidence) {
			event := e.Events[id1]
			event.Input, event.Output = event.Output, event.Input
			e.Events[id1] = event
		}, "the books differ on 1 request"},
		"the client was told other numbers": {func(e *Evidence) { e.Calls[0].Output = 21 }, "the books differ on 1 request"},
		"completed and estimated": {func(e *Evidence) {
			event := e.Events[id1]
			event.Source = "estimated"
			e.Events[id1] = event
		}, "the books differ on 1 request"},
		"served twice":        {func(e *Evidence) { e.Served[id1] = Served{20, 40, 2} }, "the books differ on 1 request"},
		"hold forgotten":      {func(e *Evidence) { e.Charges[id1] = Charge{State: Unknown} }, "the books differ on 1 request"},
		"stub never saw it":   {func(e *Evidence) { delete(e.Served, id1) }, "the books differ on 1 request"},
		"refused and served":  {func(e *Evidence) { e.Served[id3] = Served{5, 5, 1} }, "the books differ on 1 request"},
		"refused and charged": {func(e *Evidence) { e.Charges[id3] = Charge{Settled, 10, 10} }, "the books differ on 1 request"},
		"event of nobody": {func(e *Evidence) {
			e.Events["x"] = Event{User: "u-ann", Provider: "openai", Charged: 5, Source: "provider", Allowed: true, Times: 1}
		}, "belong to no call"},
		"one id for two answers": {func(e *Evidence) { e.Calls[1].ID = id1 }, "the books differ on"},
		"the report differs": {func(e *Evidence) { e.Totals[Pair{0, "openai"}] = Total{Events: 3, Tokens: 104} },
			"the report of ann at openai says 104 tokens"},
		"tokens held for nobody": {func(e *Evidence) {
			e.Limits[Pair{0, "openai"}] = Limit{Capacity: 1000, Leak: 10, Held: 90}
		}, "90 tokens held for no call that is known"},
		"over the limit by a call no client saw": {func(e *Evidence) {
			e.Restarts = map[string]int{PartEnvoy: 1}
			e.Orphans = []Call{{ID: "x", Provider: "openai", Answered: e.Elapsed}}
			e.Served["x"] = Served{1000, 200, 1}
			e.Charges["x"] = Charge{State: Held, Held: 1200}
		}, "over the limit at openai"},
		"charged without an event": {func(e *Evidence) {
			e.Orphans = []Call{{ID: "x", Provider: "openai", Answered: e.Elapsed}}
			e.Charges["x"] = Charge{Settled, 50, 20}
		}, "1 usage event missing"},
		"no limit": {func(e *Evidence) { e.Limits = nil }, "no token limit is known"},
		"unexpected answer": {func(e *Evidence) {
			e.Calls = append(e.Calls, Call{Provider: "openai", Outcome: Unexpected, Status: 401, Problem: "status 401: no"})
		}, "1 call answered with status 401: no"},
		"nothing admitted": {func(e *Evidence) {
			e.Calls = e.Calls[2:]
			e.Events = map[string]Event{id3: e.Events[id3]}
			e.Totals = nil
		}, "nothing was admitted for ann"},
		"a book could not be read": {func(e *Evidence) { e.Unread = []string{"export: no"} }, "a book could not be read: export: no"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := honest()
			test.spoil(&e)
			v := Judge(e)
			if v.OK {
				t.Fatal("want a failure, got OK")
			}
			if all := strings.Join(v.Reasons, "\n"); !strings.Contains(all, test.reason) {
				t.Errorf("want reason %q, got\n%s", test.reason, all)
			}
		})
	}
}

func TestJudgeForgives(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		happen func(*Evidence)
		note   string
	}{
		"Envoy died and a hold stays": {func(e *Evidence) {
			e.Restarts = map[string]int{PartEnvoy: 1}
			e.Charges[id2] = Charge{State: Held, Held: 100}
			delete(e.Events, id2)
			e.Totals = nil
		}, "1 hold will expire"},
		"Envoy died before the head of an answer": {func(e *Evidence) {
			e.Restarts = map[string]int{PartEnvoy: 1}
			e.Limits[Pair{0, "openai"}] = Limit{Capacity: 1000, Leak: 10, Held: 50}
		}, "50 tokens held for calls that broke"},
		"Envoy died and the stub alone saw a call": {func(e *Evidence) {
			e.Restarts = map[string]int{PartEnvoy: 1}
			e.Orphans = []Call{{ID: "x", Provider: "openai", Answered: e.Elapsed}}
			e.Served["x"] = Served{5, 5, 1}
			e.Charges["x"] = Charge{State: Held, Held: 50}
			e.Limits[Pair{0, "openai"}] = Limit{Capacity: 1000, Leak: 10, Held: 50}
		}, "1 hold will expire"},
		"a failed call without an id has an event": {func(e *Evidence) {
			e.Calls = append(e.Calls, Call{Provider: "openai", Outcome: Failed, Problem: "connection refused"})
			e.Events["x"] = Event{User: "u-ann", Provider: "openai", Charged: 5, Source: "provider", Allowed: true, Times: 1}
			e.Charges["x"] = Charge{Settled, 10, 5}
			e.Totals = nil
		}, "1 usage event of calls that broke"},
		"503 that held nothing": {func(e *Evidence) {
			e.Calls = append(e.Calls, Call{Provider: "openai", ID: "y", Outcome: Failed, Status: 503})
			e.Charges["y"] = Charge{State: Unknown}
		}, "1 call failed"},
		"503 whose hold was given back": {func(e *Evidence) {
			e.Calls = append(e.Calls, Call{Provider: "openai", ID: "y", Outcome: Failed, Status: 503})
			e.Charges["y"] = Charge{State: Settled, Held: 10}
			e.Events["y"] = Event{User: "u-ann", Provider: "openai", Source: "released", Allowed: true, Times: 1}
			e.Totals = nil
		}, "1 call failed"},
		"a stub died and forgot": {func(e *Evidence) {
			e.Restarts = map[string]int{"stub-openai": 1}
			delete(e.Served, id1)
		}, "forgot 1 request"},
		"never refused":        {func(e *Evidence) { e.Calls = e.Calls[:2]; delete(e.Events, id3); e.Totals = nil }, "never ran into its limit"},
		"a service was killed": {func(e *Evidence) { e.Restarts = map[string]int{"meter": 2} }, "meter started anew 2 times"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := honest()
			test.happen(&e)
			v := Judge(e)
			if !v.OK {
				t.Fatalf("want OK, got reasons %q", v.Reasons)
			}
			if all := strings.Join(v.Notes, "\n"); !strings.Contains(all, test.note) {
				t.Errorf("want note %q, got\n%s", test.note, all)
			}
		})
	}
}
