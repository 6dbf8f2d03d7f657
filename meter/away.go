package meter

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

// away are settlements whose server of the Redis cluster does not answer. They wait here and are tried
// again, while the meter reads on, so that the accounts of the other servers do not stay held.
//
//	line ──AWAY──▶ kept, or with too many in the spool alone ──settled──▶ event queued ──▶ checkpoint moves on
//
// Nothing else knows of them, so until they are settled and their events published the checkpoint stays
// before the oldest of their lines (see before): a meter that dies reads them again, with what was settled
// since, which is known for settled.
type away struct {
	kept []verdict
	due  time.Time // when they are tried again
	// over: more were away than are kept. From there on the spool is read again when none waits any more.
	over     bool
	overFrom place

	at    place // where the batch in hand begins
	again bool  // something was away in it
}

// place is a position in the spool, and the number of the batch that begins there, from 1; 0: none.
type place struct {
	position

	batch int64
}

// awayEvery is how often what is away is tried again.
const awayEvery = time.Second

// unreached is said while settlements wait for a server.
const unreached = "settling of some accounts waits for a server of redis"

// errAway is why.
var errAway = errors.New("a server of the cluster does not answer")

// keepAway has a settlement wait.
func (m *Meter) keepAway(v *verdict) {
	a := &m.away
	if m.behind {
		return // its line is read again
	}
	a.again = true
	again := *v
	if again.tries == 0 && again.from.batch == 0 {
		again.from = a.at
	}
	switch read := again.from.batch > 0; { // of an orphan that is sought again no line is behind us
	case a.over && read && again.from.batch >= a.overFrom.batch:
	case len(a.kept) < m.cfg.MaxAway:
		a.kept = append(a.kept, again)
	case read:
		a.over, a.overFrom = true, again.from
	}
}

// rereadAway goes back to what was not kept, once nothing that was kept waits. What was settled since is
// known for settled, and its events are the same.
func (m *Meter) rereadAway() error {
	a := &m.away
	if !a.over || len(a.kept) > 0 || m.behind {
		return nil
	}
	a.over = false
	return m.seek(a.overFrom.position)
}

// seekAway adds some of what is away to the verdicts of this batch: once a second, and with every batch
// while all that are tried are settled.
func (m *Meter) seekAway(now time.Time) {
	a := &m.away
	n := min(len(a.kept), 2*m.cfg.BatchLines-len(m.verdicts))
	if n <= 0 || m.behind || now.Before(a.due) {
		return
	}
	m.verdicts = append(m.verdicts, a.kept[:n]...)
	a.kept = append([]verdict(nil), a.kept[n:]...) // those that are away again come after the others
}

// reviewAway looks, after a batch, at what is away: when it is tried again, and whether to say so.
func (m *Meter) reviewAway(ctx context.Context, now time.Time) {
	a := &m.away
	n := len(a.kept)
	m.metrics.away.Set(float64(n))
	switch {
	case a.again && now.After(a.due):
		a.due = now.Add(awayEvery)
		m.metrics.retries.WithLabelValues("settle").Inc()
		m.said.Warn(ctx, unreached, errAway, slog.Int("waiting", n))
	case n == 0 && !a.over:
		m.said.Over(ctx, unreached, "all accounts are settled again")
	}
	a.again = false
}

// before is the oldest place that is not done though it was read; otherwise where none is.
func (a *away) before(otherwise position) position {
	oldest := place{batch: 1<<63 - 1}
	if a.over {
		oldest = a.overFrom
	}
	for i := range a.kept {
		if from := a.kept[i].from; from.batch > 0 && from.batch < oldest.batch {
			oldest = from
		}
	}
	if oldest.Inode == 0 {
		return otherwise
	}
	return oldest.position
}

// waits reports whether something that was read is not settled.
func (a *away) waits() bool { return a.over || len(a.kept) > 0 }

// fallBehind drops the events of a batch, to read its lines again, and those of what is away.
func (m *Meter) fallBehind(b batch) {
	m.behind, m.behindFrom = true, b.start
	m.away.forget()
}

// forget drops all: their lines are read again.
func (a *away) forget() { a.kept, a.over = nil, false }
