package meter

import "time"

// orphan is a request whose reply from ratelimit Envoy never heard, and for which no hold
// was found. Envoy gives up before ratelimit does, so the hold may still come to stand
// after its line was read: it is sought again before only its expiry would free it.
type orphan struct {
	v   verdict
	due time.Time
}

const maxOrphans = 10_000

// orphanWaits are the pauses before each further search. A restart in between leaves the
// hold to its expiry.
func orphanWaits() []time.Duration {
	return []time.Duration{time.Second, 4 * time.Second, 15 * time.Second}
}

func (m *Meter) keepOrphan(v *verdict) {
	waits := orphanWaits()
	if v.tries >= len(waits) || len(m.orphans) >= maxOrphans {
		return
	}
	again := *v
	again.tries++
	again.from = place{}
	m.orphans = append(m.orphans, orphan{v: again, due: time.Now().Add(waits[v.tries])})
}

// seekOrphans adds the orphans that are due to the verdicts of this batch. While events
// are dropped (NATS is down for long) they wait: no line would bring theirs back.
func (m *Meter) seekOrphans(now time.Time) {
	if len(m.orphans) == 0 || m.behind {
		return
	}
	kept := m.orphans[:0]
	for _, o := range m.orphans {
		if now.Before(o.due) || len(m.verdicts) >= 2*m.cfg.BatchLines {
			kept = append(kept, o)
			continue
		}
		m.verdicts = append(m.verdicts, o.v)
	}
	m.orphans = kept
}
