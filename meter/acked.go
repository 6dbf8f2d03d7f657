package meter

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
)

// stream is a publisher whose events stand in a stream, in places that grow.
//
// NATS acknowledges an event before it syncs it, so that a power cut takes back what it acknowledged
// last. That shows in two ways: the connection broke, and the stream ends before an event that was
// acknowledged (unless somebody else has filled it up again). So what is acknowledged is not done yet:
//
//	published ──acknowledged──▶ unsure ──the same connection and the stream's end, cfg.Trail later──▶ done
//	    ▲                          │
//	    └──reconnected, or the stream ends before it
//
// The messages of what is unsure are kept and published again; each has an id, so that the stream keeps
// one. Only what is done is in the checkpoint. A stream that ends even before that is of a server that
// syncs later than cfg.Trail, or of another: then the spool is read again as far as it is there.
type stream interface {
	Newest() uint64
	Connection() uint64
	Last(ctx context.Context) (uint64, error)
}

// acked is what NATS acknowledged and may still lose. Only publishLoop uses it.
type acked struct {
	batches []ackedBatch // in order
	size    int          // messages in them
	newest  uint64       // place in the stream of the newest; 0: not known

	connection uint64 // on which they were acknowledged
	looked     bool   // the stream's end was compared on it
}

type ackedBatch struct {
	settledBatch
	newest uint64 // of all up to this one
	at     time.Time
}

func (a *acked) add(b settledBatch, at time.Time) {
	a.batches = append(a.batches, ackedBatch{settledBatch: b, newest: a.newest, at: at})
	a.size += len(b.messages)
}

// drop takes out what is not to be published again.
func (a *acked) drop(ids map[string]bool) {
	if len(ids) == 0 {
		return
	}
	a.size = 0
	for i := range a.batches {
		a.batches[i].messages = without(a.batches[i].messages, ids)
		a.size += len(a.batches[i].messages)
	}
}

const lastTimeout = 2 * time.Second

// reconnected reports whether the connection is another than that of the last look.
func (m *Meter) reconnected() bool {
	s, is := m.cfg.Publisher.(stream)
	return is && (!m.acked.looked || s.Connection() != m.acked.connection)
}

// look compares the stream with what was acknowledged, and publishes again what may be lost.
func (m *Meter) look(ctx context.Context) error {
	s, is := m.cfg.Publisher.(stream)
	if !is {
		return nil
	}
	a := &m.acked
	asking, cancel := context.WithTimeout(ctx, lastTimeout)
	defer cancel()
	connection := s.Connection()
	last, err := s.Last(asking)
	if err != nil {
		return err
	}
	if s.Connection() != connection {
		return errReconnected
	}
	lost := last < a.newest
	if !lost && a.looked && connection == a.connection {
		return nil
	}
	a.connection, a.looked = connection, true
	if lost {
		a.newest = last
		m.metrics.retries.WithLabelValues("lost").Inc()
		m.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "nats lost events that it had acknowledged: they are published again",
			slog.Uint64("last", last), slog.Int("kept", a.size))
	}
	if last < m.published.Sequence {
		m.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "nats lost events of before the checkpoint: the spool is read again")
		m.published = checkpoint{}
		m.wanted.Add(1)
	}
	var messages []usage.Message
	for _, b := range a.batches {
		messages = append(messages, b.messages...)
	}
	for len(messages) > 0 {
		some := messages[:min(mostAtOnce, len(messages))]
		rest, kept, err := m.store(ctx, some)
		a.drop(kept)
		if err != nil {
			a.looked = false // all once more
			return fmt.Errorf("publish %d events again: %w", len(rest), err)
		}
		messages = messages[len(some):]
	}
	now := time.Now()
	for i := range a.batches {
		a.batches[i].at, a.batches[i].newest = now, a.newest
	}
	return nil
}

// confirm takes for done what was acknowledged cfg.Trail ago and is still there.
func (m *Meter) confirm(ctx context.Context) {
	a := &m.acked
	if len(a.batches) == 0 {
		return
	}
	due := time.Now().Add(-m.cfg.Trail)
	if a.batches[0].at.After(due) {
		return
	}
	if err := m.look(ctx); err != nil {
		m.said.Warn(ctx, "what NATS acknowledged is not known to be there", err)
		return
	}
	for len(a.batches) > 0 && !a.batches[0].at.After(due) {
		b := a.batches[0]
		if b.end.Inode != 0 && b.reading == m.wanted.Load() {
			m.published = checkpoint{position: b.end, Sequence: b.newest}
		}
		a.size -= len(b.messages)
		a.batches[0] = ackedBatch{}
		a.batches = a.batches[1:]
	}
}
