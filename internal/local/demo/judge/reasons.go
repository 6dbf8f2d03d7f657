package judge

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
)

// reasons turns what was found into why the demo fails, and into notes.
func (j *judge) reasons() {
	j.admission()
	b := &j.v.Books
	if b.Differing > 0 {
		j.fail("the books differ on %s", Count(b.Differing, "request"))
	}
	switch envoy := j.e.Restarts[PartEnvoy] > 0; {
	case b.Open > 0 && envoy:
		j.note("%s will expire: Envoy started anew, and the spool lines of its last moments were lost", Count(b.Open, "hold"))
	case b.Open > 0:
		j.fail("%s still open: nothing settled them", Count(b.Open, "hold"))
	}
	j.events()
	j.sums()
	j.strangers()
	for _, what := range j.e.Unread {
		j.fail("a book could not be read: %s", what)
	}
	for _, part := range slices.Sorted(maps.Keys(j.e.Restarts)) {
		j.note("%s started anew %s during the demo", part, Count(j.e.Restarts[part], "time"))
	}
	if j.passed > 0 {
		j.note("%s passed while no limiter answered: on the books, not in the buckets", Count(j.passed, "call"))
	}
	if j.died > 0 {
		j.note("%s will expire: Redis died when it had taken them and not answered", Count(j.died, "hold"))
	}
	if j.lost > 0 {
		j.note("a stub that started anew forgot %s; what their events say stands in for it", Count(j.lost, "request"))
	}
	j.v.OK = len(j.v.Reasons) == 0
}

func (j *judge) admission() {
	for _, a := range j.v.Accounts {
		admitted, refused := 0, 0
		for _, l := range a.Providers {
			admitted += l.Admitted
			refused += l.Refused
			if l.Over > 0 && j.opens(l.Provider) {
				j.note("%s went %s over the limit at %s, whose mode admits everything meanwhile", a.Name, Count(int(l.Over), "token"), l.Provider)
			} else if l.Over > 0 {
				j.fail("%s went %s over the limit at %s", a.Name, Count(int(l.Over), "token"), l.Provider)
			}
			if l.Limit.Capacity <= 0 && l.Admitted > 0 {
				j.fail("no token limit is known for %s at %s, so nothing can be said about it", a.Name, l.Provider)
			}
		}
		if admitted == 0 {
			j.fail("nothing was admitted for %s", a.Name)
		}
		if refused == 0 {
			j.note("%s never ran into its limit; a longer demo would", a.Name)
		}
	}
	problems := slices.Sorted(maps.Keys(j.unexpected))
	for _, problem := range problems[:min(len(problems), maxShown)] {
		j.fail("%s answered with %s", Count(j.unexpected[problem], "call"), problem)
	}
	failed := 0
	for _, a := range j.v.Accounts {
		for _, l := range a.Providers {
			failed += l.Failed
		}
	}
	if failed > 0 {
		j.note("%s failed without an answer, with 5xx, or in the middle, such as", Count(failed, "call"))
		kinds := slices.SortedFunc(maps.Keys(j.failures), func(a, b string) int { return cmp.Or(j.failures[b]-j.failures[a], cmp.Compare(a, b)) })
		for _, kind := range kinds[:min(len(kinds), 3)] {
			j.note("  %s, %s", Count(j.failures[kind], "call"), kind)
		}
	}
}

func (j *judge) events() {
	b := &j.v.Books
	if b.Missing > 0 {
		j.fail("%s missing", Count(b.Missing, "usage event"))
	}
	if b.Double > 0 {
		j.fail("%s counted twice", Count(b.Double, "usage event"))
	}
	switch {
	case b.Unclaimed > j.faceless:
		j.fail("%s of our accounts belong to no call, and only %s ended without an id", Count(b.Unclaimed, "usage event"),
			Count(j.faceless, "call"))
	case b.Unclaimed > 0:
		j.note("%s of calls that broke before their answer; the books have them", Count(b.Unclaimed, "usage event"))
	}
}

// sums compares what the reports say with the events they are made of.
func (j *judge) sums() {
	sums := map[Pair]Total{}
	users := map[string]int{}
	for i, a := range j.e.Accounts {
		users[a.User] = i
	}
	for _, event := range j.e.Events {
		if i, ours := users[event.User]; ours {
			p := Pair{i, event.Provider}
			sums[p] = Total{Events: sums[p].Events + int64(event.Times), Tokens: sums[p].Tokens + event.Charged*int64(event.Times)}
		}
	}
	for i, a := range j.e.Accounts {
		for _, t := range j.e.Targets {
			p := Pair{i, t.Provider}
			if total, asked := j.e.Totals[p]; asked && total != sums[p] {
				j.fail("the report of %s at %s says %d tokens in %d events, the events themselves %d in %d", a.Name, t.Provider,
					total.Tokens, total.Events, sums[p].Tokens, sums[p].Events)
			}
		}
	}
}

// strangers looks for tokens that stay held for calls whose id nobody knows.
func (j *judge) strangers() {
	known := map[Pair]float64{}
	for _, c := range slices.Concat(j.e.Calls, j.e.Orphans) {
		if charge := j.e.Charges[c.ID]; c.ID != "" && charge.State == Held {
			known[Pair{c.Account, c.Provider}] += float64(charge.Held)
		}
	}
	byAccount := map[int]float64{}
	for p, l := range j.e.Limits {
		byAccount[p.Account] += max(0, l.Held-known[p])
	}
	left := 0.0
	for account, held := range byAccount {
		left += max(0, held-j.e.Leases[account])
	}
	switch {
	case left <= rounding:
	case j.e.Restarts[PartEnvoy] > 0:
		j.note("%s held for calls that broke before their answer; they will expire", Count(int(left), "token"))
	default:
		j.fail("%s held for no call that is known", Count(int(left), "token"))
	}
}

func (j *judge) fail(format string, args ...any) {
	j.v.Reasons = append(j.v.Reasons, fmt.Sprintf(format, args...))
}

func (j *judge) note(format string, args ...any) {
	j.v.Notes = append(j.v.Notes, fmt.Sprintf(format, args...))
}

// Count writes "1 hold" and "1,204 holds".
func Count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return Thousands(int64(n)) + " " + noun + "s"
}
