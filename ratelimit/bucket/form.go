package bucket

import "slices"

// Form is how a bucket empties, as it lies in Redis beside what is in it. A limit whose
// algorithm or unit changes has another one from then on.
type Form struct {
	Rate   float64 // Params.Rate; of a window Params.Origin
	Window int64   // Params.Window
}

// Form is the limit's.
func (p Params) Form() Form {
	if p.Window > 0 {
		return Form{Rate: float64(p.Origin), Window: p.Window}
	}
	return Form{Rate: p.Rate}
}

// params are those of a limit of this form, without its capacity.
func (f Form) params() Params {
	if f.Window > 0 {
		return Params{Window: f.Window, Origin: int64(f.Rate)}
	}
	return Params{Rate: f.Rate}
}

// like reports whether two forms are one in other numbers: of a bucket the rate may change, and
// windows of the calendar are not all of one length.
func (f Form) like(g Form) bool {
	switch {
	case f.Window == 0 || g.Window == 0:
		return f.Window == g.Window
	case (f.Rate == 0) != (g.Rate == 0): // one counts from the epoch, the other by the calendar
		return false
	}
	return max(f.Window, g.Window)-min(f.Window, g.Window) <= g.Window/8
}

const debt = -1

// Kept is a bucket as it is stored.
type Kept struct {
	State
	Form   Form
	Before []Former // the last first
}

// Former is a form that a bucket had before, and what would be settled in it if it still had it.
// It counts on what comes until it is empty, so that going back and forth between two forms
// admits no more than the larger of them does. One whose Window is debt is none: it is what a change
// to windows that are smaller than what was used left to pay. No window gives more than its capacity
// of that, where it would else forget it all when it ends.
type Former struct {
	Form
	Settled float64
	At      int64
}

// Turn is a stored bucket at now, as this limit has it: drained, and if it was kept in another
// form, with what that one had settled by now. Of a form that it had before it is what that
// one counted since.
//
//	window -> window, bucket -> window   settled stands until the new window ends
//	window -> bucket, bucket -> bucket   settled drains from now on by the new rate
func (p Params) Turn(k Kept, now int64) State {
	out := p.turn(k, now)
	for _, c := range k.Before {
		if c.Window == debt && p.Window > 0 {
			out.Settled = max(out.Settled, c.drained(now).Settled)
		}
	}
	return out
}

func (c Former) drained(now int64) State {
	return c.Form.params().Drain(State{Settled: c.Settled, At: c.At}, now)
}

func (p Params) turn(k Kept, now int64) State {
	form := p.Form()
	if k.Form == form {
		return p.Drain(k.State, now)
	}
	s := k.Form.params().Drain(k.State, now)
	out := State{Held: s.Held, At: s.At}
	switch {
	case p.Window > 0:
		out.At = p.begin(now)
	case k.Form.Window > 0:
		out.At = now
	}
	out.Settled = p.outlives(s, k.Form, out.At)
	if form.like(k.Form) && (p.Window == 0 || out.At == s.At) {
		return out
	}
	stood := out.Settled
	if i := slices.IndexFunc(k.Before, func(c Former) bool { return form.like(c.Form) }); i >= 0 {
		out.Settled = p.outlives(k.Before[i].drained(now), k.Before[i].Form, out.At)
	}
	owing := slices.ContainsFunc(k.Before, func(c Former) bool { return c.Window == debt })
	if p.Window > 0 && stood > p.Capacity && p.Capacity > 0 && !owing {
		out.Settled = max(out.Settled, stood) // to be paid from now on
	}
	return out
}

// outlives is what is settled of a drained state of another form in a window that begins at begin:
// nothing, if that is where the other's ends (of two months, say).
func (p Params) outlives(s State, of Form, begin int64) float64 {
	if p.Window > 0 && of.Window > 0 && begin >= s.At+of.Window {
		return 0
	}
	return s.Settled
}
