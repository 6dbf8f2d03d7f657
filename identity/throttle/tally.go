package throttle

import "time"

const (
	// first is the first wait; each further failure doubles it.
	first = time.Second
	// pendingLife is when an attempt that nobody settled counts as abandoned: its process died.
	pendingLife = 30 * time.Second
	// ticketLife is how long a place is kept for whoever was told to come back.
	ticketLife = 10 * time.Second
)

// rules are what all subjects have in common.
type rules struct {
	Longest time.Duration // the wait doubles up to this
	Window  time.Duration // without a failure for so long all is forgotten
}

// subject is what is counted. who tells those apart who try it: networks at an account, accounts
// at an address.
type subject struct {
	key  string
	who  string
	most int // failures without a wait
}

// verdict is whether an attempt may be made now.
type verdict struct {
	wait  time.Duration // 0: it may
	line  bool          // only until the attempts that are being checked are settled
	fresh bool          // who asks has failed nothing at the subjects that make it wait
}

// tally is what is known of one subject. The zero one is that of a subject never seen. The Lua of
// shared.go does the same; a test holds the two against each other.
//
//   - n failures, p attempts that are being checked: an attempt goes through at once while n+p is
//     below most. Above that attempts go one at a time, each at the end of the wait that the last
//     failure began.
//   - Whoever is refused gets a ticket for the time that they are told. When they come back, it
//     lets one attempt through, whatever others did meanwhile; others stand back for it. There is one
//     ticket a subject, and who has failed less here takes it from who has failed more: a guesser
//     who hammers on cannot keep the owner out for longer than one wait.
//   - A success takes back nothing but its own place: wait and end stay as they were.
type tally struct {
	failures     int
	pending      int
	pendingUntil time.Time
	until        time.Time      // end of the wait
	failed       map[string]int // failures by who
	ticket       ticket
	expires      time.Time
}

type ticket struct {
	who         string
	failed      int
	from, until time.Time
}

// judge says whether an attempt of who may go now.
func (t *tally) judge(s subject, now time.Time) verdict {
	if !now.Before(t.pendingUntil) {
		t.pending = 0
	}
	held := now.Before(t.ticket.until)
	fresh := t.failed[s.who] == 0
	switch {
	case held && t.ticket.who == s.who:
		return verdict{wait: max(0, t.ticket.from.Sub(now)), fresh: fresh}
	case now.Before(t.until):
		return verdict{wait: t.until.Sub(now), fresh: fresh}
	case t.failures+t.pending < s.most:
		return verdict{}
	case t.pending > 0:
		return verdict{wait: 1, line: true, fresh: fresh}
	case held:
		return verdict{wait: t.ticket.until.Sub(now), fresh: fresh}
	}
	return verdict{}
}

// promise keeps a place for who was told to wait.
func (t *tally) promise(s subject, now time.Time, wait time.Duration) {
	mine, held := t.failed[s.who], now.Before(t.ticket.until)
	if held && (t.ticket.who == s.who || mine >= t.ticket.failed) {
		return
	}
	from := now.Add(wait)
	t.ticket = ticket{who: s.who, failed: mine, from: from, until: from.Add(ticketLife)}
	t.keep(from.Add(ticketLife))
}

// admit lets an attempt through; it is pending from now on.
func (t *tally) admit(s subject, now time.Time) {
	if t.ticket.who == s.who {
		t.ticket = ticket{}
	}
	t.pending++
	t.pendingUntil = now.Add(pendingLife)
	t.keep(t.pendingUntil)
}

func (t *tally) settle() { t.pending = max(0, t.pending-1) }

// fail counts a failure.
func (t *tally) fail(s subject, r rules, now time.Time) {
	t.settle()
	t.failures++
	if t.failed == nil {
		t.failed = map[string]int{}
	}
	t.failed[s.who]++
	if p := pause(t.failures, s.most, r.Longest); p > 0 {
		t.until = now.Add(p)
	}
	t.keep(now.Add(r.Window + r.Longest))
}

func (t *tally) keep(until time.Time) {
	if t.expires.Before(until) {
		t.expires = until
	}
}

// pause is the wait after so many failures of which most are free.
func pause(failures, most int, longest time.Duration) time.Duration {
	over := failures - most
	if over < 0 {
		return 0
	}
	return min(first<<min(over, 20), longest)
}

// worst is what several subjects say together: the longest wait, and to stand in line only if none
// says to wait.
func worst(all []verdict) verdict {
	var out verdict
	for _, v := range all {
		switch {
		case v.wait == 0:
		case out.wait == 0 || out.line && !v.line:
			out = v
		case v.line == out.line:
			out.wait, out.fresh = max(out.wait, v.wait), out.fresh && v.fresh
		}
	}
	return out
}
