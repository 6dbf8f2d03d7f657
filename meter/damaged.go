package meter

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/spool"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
)

// ReasonDamaged is the reason of an event whose line could be read in part only.
const ReasonDamaged = "line_damaged"

// parse reads a line. When Envoy dies in the middle of one, the next Envoy's first line
// follows without a newline between them: that one is read all the same.
func (m *Meter) parse(text []byte, now time.Time) (spool.Line, bool) {
	l, err := spool.Parse(text)
	if err == nil {
		return l, true
	}
	if at := bytes.LastIndex(text, []byte(`{"`)); at > 0 {
		if whole, again := spool.Parse(text[at:]); again == nil {
			m.salvage(text[:at], now)
			return whole, true
		}
	}
	m.salvage(text, now)
	return l, false
}

// salvage takes in a damaged line. It is logged, counted and kept, and its hold is settled
// if the line still says which one it is. Where it has no count of the provider's, all that
// was held is charged, as if nobody had settled it: damage must not be worth anything.
func (m *Meter) salvage(text []byte, now time.Time) {
	m.metrics.lines.WithLabelValues("damaged").Inc()
	m.said.Warn(context.Background(), "a spool line is damaged", fmt.Errorf("%w: %d bytes", spool.ErrMalformed, len(text)))
	if err := m.damage.keep([][]byte{text}); err != nil {
		m.said.Warn(context.Background(), "a damaged line is not kept", err)
	}
	l, ok := spool.Salvage(text)
	if !ok || l.Running() || l.Account == "" || l.Held == nil || l.Provider == "" {
		return
	}
	v := charge(&l, m.estimator, m.cfg.Aborted, now)
	if !v.settle {
		return
	}
	if e := &v.event; e.Source != usage.FromProvider {
		e.Source, e.Reason, e.Charged = usage.FromHold, ReasonDamaged, e.Held
		e.Input = min(heldInput(&l, e.Input), e.Held)
		e.Output = e.Held - e.Input
	}
	m.metrics.countLine(&v)
	m.verdicts = append(m.verdicts, v)
}
