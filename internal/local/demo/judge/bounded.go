package judge

// refusalsKept is how many refusals of an account have an event of their own in any second;
// the meter skips further ones, and the next event counts them. A refusal without an event is
// therefore no loss, once its account had so many with one.
const refusalsKept = 10

// Bounded are the accounts, by index, whose refusals were so many that not all have events.
func Bounded(calls []Call, events map[string]Event) map[int]bool {
	kept := map[int]int{}
	for i := range calls {
		if c := &calls[i]; c.Outcome == Refused && events[c.ID].Times > 0 {
			kept[c.Account]++
		}
	}
	found := map[int]bool{}
	for account, n := range kept {
		found[account] = n >= refusalsKept
	}
	return found
}
