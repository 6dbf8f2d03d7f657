package server

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/leaky-tokens/leaky-tokens/xds/snapshot"
)

// trial is how far the current configuration may still be undone. It goes through these states:
//
//	published ── an Envoy takes all of it ──▶ proven ── Probation is over ──▶ good
//	    │                                        │
//	    └── any Envoy refuses it                 └── one that took part in the change refuses it
//	            ▼                                        ▼
//	          before                                   before
//
// While no Envoy is connected a change stays published, however long that is: the first
// one that comes decides.
type trial struct {
	before *snapshot.Snapshot // what to go back to; nil: nothing
	proven bool               // before was
	until  time.Time          // end of the probation
	since  int64              // serial of the last refusal when it began
	took   map[string]bool    // the Envoys that took the first step; what others refuse is their own trouble
}

// prove notes that an Envoy runs the current configuration.
func (s *Server) prove(current *snapshot.Snapshot) {
	s.proven = true
	if s.c.Proven != nil {
		s.c.Proven(current.Version)
	}
}

// undo puts what was good back for every Envoy. Those that had taken the new clusters keep them
// for as long as requests may be on their way there; nobody else hears of them again.
func (s *Server) undo(ctx context.Context, back trial, next *snapshot.Snapshot, added map[string]bool, refused *Refused) error {
	good := back.before
	refused.Tried = next.Version
	s.current, s.proven, s.trial = good, back.proven, trial{}
	kept, err := s.kept()
	if err != nil {
		return errors.Join(refused, err)
	}
	lingering, err := kept.With(next, pools()...)
	if err != nil {
		return errors.Join(refused, err)
	}
	s.served.serve(kept)
	for node := range s.served.all() {
		if added[node] && node != refused.Node {
			s.served.set(ctx, node, lingering)
		} else {
			s.served.set(ctx, node, kept)
		}
	}
	s.retire(good) // wakes the sweep, which sets everyone to what is kept then
	s.log.LogAttrs(ctx, slog.LevelError, "change undone, the last good configuration is served again",
		slog.String("version", next.Version), slog.String("good", good.Version), slog.String("reason", refused.Error()))
	return refused
}

// guard follows what Envoys answer after a change: it notes that the current configuration is
// proven, and undoes it when it is refused late.
func (s *Server) guard(ctx context.Context) {
	for seen := int64(0); ; {
		changed := s.clients.event("")
		if refused, serial := s.clients.refusalAfter(seen); refused != nil {
			seen = serial
			s.late(ctx, refused, serial)
			continue
		}
		s.look()
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// look proves the current configuration if an Envoy runs it.
func (s *Server) look() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proven || s.current == nil {
		return
	}
	for node, has := range s.served.present() {
		if s.clients.runs(node, has) {
			s.prove(s.current)
			return
		}
	}
}

// late undoes the current configuration for a refusal after its change, if it is still on trial.
func (s *Server) late(ctx context.Context, refused *Refused, serial int64) {
	s.mu.Lock()
	t := s.trial
	decides := !s.proven || t.took[refused.Node] && time.Now().Before(t.until)
	undone := t.before != nil && serial > t.since && decides
	if undone {
		_ = s.undo(ctx, t, s.current, t.took, refused) // it logs, and who published is told
	}
	s.mu.Unlock()
	if undone && s.c.Undone != nil {
		s.c.Undone(refused)
	}
}
