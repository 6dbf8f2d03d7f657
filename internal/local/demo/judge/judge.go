package judge

import (
	"fmt"
	"maps"
	"slices"

	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// PartEnvoy is the part whose death may lose spool lines, as the supervisor names it.
const PartEnvoy = topology.Envoy

// Judge compares the books and says whether anything went over a limit.
func Judge(e Evidence) Verdict {
	j := &judge{e: &e, lines: map[Pair]*Line{}, servings: map[Pair][]serving{}, seen: map[string]bool{}, unexpected: map[string]int{},
		failures: map[string]int{}, parts: map[string]string{}, manners: map[string]*MannerVerdict{}, skipping: Bounded(e.Calls, e.Events)}
	for _, t := range e.Targets {
		j.parts[t.Provider] = t.Part
	}
	j.v = Verdict{Seed: e.Seed, Seconds: e.Elapsed.Seconds(), Requests: len(e.Calls), Restarts: e.Restarts,
		Reasons: []string{}, Notes: []string{}, Disagreements: []Disagreement{}}
	for i := range e.Calls {
		j.call(&e.Calls[i])
	}
	j.unclaimed()
	j.orphans()
	j.limits()
	j.outages()
	j.estimates()
	for _, name := range slices.Sorted(maps.Keys(j.manners)) {
		j.v.Manners = append(j.v.Manners, *j.manners[name])
	}
	j.reasons()
	return j.v
}

type judge struct {
	e          *Evidence
	v          Verdict
	lines      map[Pair]*Line
	servings   map[Pair][]serving
	seen       map[string]bool   // request ids the clients know
	faceless   int               // calls that failed without an id
	errors     []float64         // relative error of each estimate
	unexpected map[string]int    // problems by text
	failures   map[string]int    // likewise
	died       int               // holds of calls under which Redis died
	passed     int               // admitted calls that no limiter was asked about
	lost       int               // admitted calls a restarted stub forgot
	parts      map[string]string // the stub of each provider
	skipping   map[int]bool      // accounts with more refusals than get events
	manners    map[string]*MannerVerdict
}

func (j *judge) line(p Pair) *Line {
	if j.lines[p] == nil {
		j.lines[p] = &Line{Provider: p.Provider, Limit: j.e.Limits[p]}
	}
	return j.lines[p]
}

func (j *judge) call(c *Call) {
	l := j.line(Pair{c.Account, c.Provider})
	if c.ID == "" {
		j.faceless++
	} else if j.seen[c.ID] {
		j.differ(c, "two answers carry this request id")
	}
	j.seen[c.ID] = true
	j.behaved(c)
	switch c.Outcome {
	case Refused:
		l.Refused++
		j.refused(c)
		return
	case Declined:
		if l.Declined++; c.ID != "" && j.e.Served[c.ID].Times > 0 { // else the gateway did
			j.declined(c)
			return
		}
	case Aborted:
		l.Aborted++
	case Failed, Broken:
		l.Failed++
		j.failures[string(c.Outcome)+": "+c.Problem]++
	case Unexpected:
		l.Failed++
		j.unexpected[c.Problem]++
	}
	if c.Admitted() {
		l.Admitted++
	}
	if c.ID == "" {
		return
	}
	if c.Admitted() {
		j.admitted(c)
		return
	}
	j.failed(c)
}

// refused: one event that charges nothing, no hold, and the stub never saw it.
func (j *judge) refused(c *Call) {
	event := j.e.Events[c.ID]
	if event.Times == 0 && j.skipping[c.Account] {
		j.v.Books.Skipped++
	} else {
		j.expect(c)
	}
	switch {
	case j.e.Served[c.ID].Times > 0:
		j.differ(c, "refused, and served all the same")
	case j.e.Charges[c.ID].State == Held, j.e.Charges[c.ID].Charged > 0:
		j.differ(c, "refused, and held or charged all the same")
	case event.Times > 0 && (event.Allowed || event.Charged > 0):
		j.differ(c, "refused, and the event says otherwise")
	}
}

// admitted: every book knows it, and the numbers are equal where the provider told them.
func (j *judge) admitted(c *Call) {
	charge, event := j.e.Charges[c.ID], j.e.Events[c.ID]
	if charge.State == Held {
		j.v.Books.Open++
		j.line(Pair{c.Account, c.Provider}).Held += charge.Held
		j.serve(c, j.e.Served[c.ID])
		if event.Times > 0 {
			j.differ(c, "the event is there and the hold is still open")
		}
		return
	}
	j.expect(c)
	if j.unasked(c, charge) {
		j.passed++
		charge = Charge{State: Settled, Charged: event.Charged}
	}
	j.account(c, charge, event)
	served, known := j.e.Served[c.ID]
	lost := !known && event.Times > 0 && j.e.Restarts[j.parts[c.Provider]] > 0
	if lost {
		j.lost++
		served, known = Served{Input: event.Input, Output: event.Output, Times: 1}, true
	}
	j.serve(c, served)
	// A stream that was left in the middle is charged what had been told by then, where the
	// provider tells a running count (Gemini): the stub may have served a token more.
	told := event.Source == "provider" && (c.Outcome == Completed || served.total() == charge.Charged)
	if !lost && (c.Outcome == Completed && !c.Untold || told) {
		j.v.Books.Compared++
	}
	switch {
	case !known:
		j.differ(c, "the stub has no record of it")
	case charge.State == Unknown || charge.State == "":
		j.differ(c, "the limiter has no record of it")
	case event.Times == 0:
		// counted as missing
	case !event.Allowed:
		j.differ(c, "admitted, and the event says refused")
	case charge.Charged != event.Charged:
		j.differ(c, "Redis and ClickHouse differ")
	case c.Outcome == Completed && event.Source != "provider" && !c.Untold:
		j.differ(c, "completed, and charged as "+event.Source)
	case lost:
	case told:
		j.exact(c, served, charge, event)
	default:
		j.estimate(c, served, charge)
	}
}

// exact: the provider told its count, so no book may be a token off.
func (j *judge) exact(c *Call, served Served, charge Charge, event Event) {
	switch {
	case served.Times > 1:
		j.differ(c, fmt.Sprintf("the stub served it %d times", served.Times))
	case served.total() != charge.Charged:
		j.differ(c, "the charge is not what the stub served")
	case served.Input != event.Input || served.Output != event.Output:
		j.differ(c, "input and output of the event are not the stub's")
	case c.Outcome == Completed && (c.Input != served.Input || c.Output != served.Output):
		j.differ(c, fmt.Sprintf("the client was told %d + %d tokens", c.Input, c.Output))
	default:
		j.v.Books.Agreed++
	}
}

// failed: a call answered without 200. What it held may be settled or given back; if the
// books say it was charged, they have to say the same.
func (j *judge) failed(c *Call) {
	charge, event, served := j.e.Charges[c.ID], j.e.Events[c.ID], j.e.Served[c.ID]
	j.serve(c, served)
	switch charge.State {
	case Held:
		if j.torn(c) {
			j.died++
		} else {
			j.v.Books.Open++
		}
		j.line(Pair{c.Account, c.Provider}).Held += charge.Held
		return
	case Settled, Expired:
		if charge.Held > 0 || charge.Charged > 0 { // else it was refused, and what Redis may have taken for it was given back
			j.expect(c)
		}
		j.account(c, charge, event)
	}
	switch {
	case event.Times > 0 && event.Charged != charge.Charged:
		j.differ(c, "failed, and Redis and ClickHouse differ")
	case served.total() > 0:
		j.estimate(c, served, charge)
	}
}

// expect counts the one event a request must have.
func (j *judge) expect(c *Call) {
	if c.ID == "" {
		return
	}
	j.v.Books.Expected++
	switch event := j.e.Events[c.ID]; {
	case event.Times == 0:
		j.v.Books.Missing++
		j.show(c, "its usage event is missing")
	case event.Times > 1:
		j.v.Books.Found++
		j.v.Books.Double++
		j.show(c, fmt.Sprintf("it has %d usage events", event.Times))
	default:
		j.v.Books.Found++
	}
}

func (j *judge) account(c *Call, charge Charge, event Event) {
	l := j.line(Pair{c.Account, c.Provider})
	l.Held += charge.Held
	switch {
	case charge.State == Expired:
		l.Expired++
		l.ExpTokens += charge.Charged
	case charge.State == Settled:
		l.Settled += charge.Charged
		if event.Source == "estimated" {
			l.Estimated++
			l.EstTokens += charge.Charged
		}
	}
}

func (j *judge) serve(c *Call, s Served) {
	if s.total() == 0 {
		return
	}
	p := Pair{c.Account, c.Provider}
	j.line(p).Served += s.total()
	j.servings[p] = append(j.servings[p], serving{sent: c.Sent, answered: c.Answered, tokens: s.total()})
}

func (j *judge) estimate(c *Call, served Served, charge Charge) {
	real := served.total()
	diff := charge.Charged - real
	j.v.Estimates.Count++
	j.v.Estimates.Charged += charge.Charged
	j.v.Estimates.Served += real
	relative := float64(max(diff, -diff)) / float64(max(real, 1))
	if j.errors = append(j.errors, relative); relative > j.v.Estimates.Worst {
		j.v.Estimates.Worst, j.v.Estimates.WorstID = relative, c.ID
	}
}

// differ counts a request on which the books differ and shows it.
func (j *judge) differ(c *Call, why string) {
	j.v.Books.Differing++
	j.show(c, why)
}

func (j *judge) show(c *Call, why string) {
	if len(j.v.Disagreements) >= maxShown {
		return
	}
	d := Disagreement{ID: c.ID, Account: j.e.Accounts[c.Account].Name, Provider: c.Provider, Why: why, Stub: -1, Redis: -1, ClickHouse: -1}
	if s := j.e.Served[c.ID]; s.Times > 0 {
		d.Stub = s.total()
	}
	if charge := j.e.Charges[c.ID]; charge.State == Settled || charge.State == Expired {
		d.Redis = charge.Charged
	}
	if event := j.e.Events[c.ID]; event.Times > 0 {
		d.ClickHouse = event.Charged
	}
	j.v.Disagreements = append(j.v.Disagreements, d)
}

// unclaimed looks at events of our accounts that no client has an answer for: a client
// whose connection broke before the head of the answer knows no request id.
func (j *judge) unclaimed() {
	users := map[string]int{}
	for i, a := range j.e.Accounts {
		users[a.User] = i
	}
	for _, id := range slices.Sorted(maps.Keys(j.e.Events)) {
		event := j.e.Events[id]
		account, ours := users[event.User]
		if !ours || j.seen[id] {
			continue
		}
		j.v.Books.Unclaimed++
		c := &Call{Account: account, Provider: event.Provider, ID: id, Answered: j.e.Elapsed}
		charge, known := j.e.Charges[id]
		j.serve(c, j.e.Served[id])
		if known && charge.State == Settled {
			j.account(c, charge, event)
		}
		if j.e.Rude && j.e.Served[id].total() > 0 { // its client left before the first byte
			j.estimate(c, j.e.Served[id], charge)
		}
		if event.Times > 1 {
			j.v.Books.Double++
		}
		if known && (charge.State == Settled || charge.State == Expired) && charge.Charged != event.Charged {
			j.differ(c, "Redis and ClickHouse differ; no client saw its answer")
		}
	}
}

// orphans were served, and neither a client nor an event knows them: they count against
// the limit, and their holds are open until they expire.
func (j *judge) orphans() {
	for i := range j.e.Orphans {
		c := &j.e.Orphans[i]
		j.serve(c, j.e.Served[c.ID])
		charge := j.e.Charges[c.ID]
		j.line(Pair{c.Account, c.Provider}).Held += charge.Held
		if charge.State == Held {
			j.v.Books.Open++
			continue
		}
		j.expect(c) // charged, so an event is due
	}
}

func (j *judge) limits() {
	for i, a := range j.e.Accounts {
		v := AccountVerdict{Account: a}
		for _, t := range j.e.Targets {
			p := Pair{i, t.Provider}
			l := j.line(p)
			l.Allowed = l.Limit.Capacity + l.Limit.Leak*j.e.Elapsed.Seconds()
			if l.Limit.Capacity > 0 {
				l.Over = tokensOver(j.servings[p], l.Limit)
			}
			if j.opens(t.Provider) { // what nothing bounds is told, and no fault
				j.v.OpenOver += l.Over
			} else {
				j.v.Over += l.Over
			}
			v.Providers = append(v.Providers, *l)
		}
		j.v.Accounts = append(j.v.Accounts, v)
	}
}

func (j *judge) estimates() {
	e := &j.v.Estimates
	if e.Count == 0 {
		return
	}
	sum := 0.0
	for _, err := range j.errors {
		sum += err
	}
	if j.e.Rude && float64(e.Charged) < leastEstimate*float64(e.Served) {
		j.fail("estimates charge %d tokens for %d that were served, less than nine tenths", e.Charged, e.Served)
	}
	e.Mean = sum / float64(e.Count)
	e.Bias = float64(e.Charged-e.Served) / float64(max(e.Served, 1))
}
