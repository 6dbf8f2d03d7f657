package server

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"golang.org/x/sync/errgroup"

	"github.com/leaky-tokens/leaky-tokens/xds/snapshot"
)

// served is what each Envoy is served at present.
type served struct {
	cache cachev3.SnapshotCache

	mu       sync.Mutex
	newcomer *snapshot.Snapshot            // what an Envoy gets that connects now
	nodes    map[string]*snapshot.Snapshot // nil before there is anything
}

// join gives an Envoy that connects what it is to run.
func (s *served) join(node string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.nodes[node]; known {
		return
	}
	s.nodes[node] = s.newcomer
	if s.newcomer != nil {
		_ = s.cache.SetSnapshot(context.Background(), node, s.newcomer.Cache()) // fails only for a context that ended
	}
}

func (s *served) leave(node string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.nodes, node)
	s.cache.ClearSnapshot(node)
}

// serve makes a snapshot that of those who connect from now on.
func (s *served) serve(snap *snapshot.Snapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.newcomer = snap
}

// set serves a snapshot to one Envoy, if it is still there.
func (s *served) set(ctx context.Context, node string, snap *snapshot.Snapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, here := s.nodes[node]; here && ctx.Err() == nil {
		s.nodes[node] = snap
		_ = s.cache.SetSnapshot(ctx, node, snap.Cache()) // fails only for a context that ended
	}
}

// has is what an Envoy is served; nil for nothing or nobody.
func (s *served) has(node string) *snapshot.Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.nodes[node]
}

// all are the connected Envoys.
func (s *served) all() map[string]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	here := make(map[string]bool, len(s.nodes))
	for node := range s.nodes {
		here[node] = true
	}
	return here
}

// change takes every Envoy to final, each at its own pace, until all run it or one refuses.
// added are those that took the first step. Who connects meanwhile comes along.
func (s *Server) change(ctx context.Context, final *snapshot.Snapshot) (refused *Refused, added map[string]bool, err error) {
	var mu sync.Mutex
	added = map[string]bool{}
	begun := map[string]bool{}
	for offered := false; ; offered = true {
		g, walking := errgroup.WithContext(ctx)
		before := len(begun)
		for node := range s.served.all() {
			if begun[node] {
				continue
			}
			begun[node] = true
			g.Go(func() error {
				no, took, err := s.walk(walking, node, final)
				mu.Lock()
				defer mu.Unlock()
				added[node] = took
				if no != nil {
					refused = no
					return no // ends the walk of the others
				}
				return err
			})
		}
		err := g.Wait()
		switch {
		case refused != nil:
			return refused, added, nil
		case err != nil:
			return nil, added, err
		case offered && len(begun) == before: // nobody came before final was there for newcomers
			return nil, added, nil
		}
		s.served.serve(final)
	}
}

// walk takes one Envoy to final: what its routes need, then the routes.
func (s *Server) walk(ctx context.Context, node string, final *snapshot.Snapshot) (refused *Refused, added bool, err error) {
	had := s.served.has(node)
	if had == nil { // it waits for its first configuration
		return s.step(ctx, node, "all", final)
	}
	adding, err := had.Adding(final, pools()...)
	if err != nil {
		return nil, false, err
	}
	if refused, added, err = s.step(ctx, node, "add", adding); refused != nil || err != nil {
		return refused, false, err
	}
	refused, _, err = s.step(ctx, node, "move", final)
	return refused, added, err
}

var errImpatient = errors.New("no answer in time")

// step serves a snapshot to one Envoy and waits for its answer. One that stays silent is
// given the next step all the same: it may be gone, and gets everything when it is back.
func (s *Server) step(ctx context.Context, node, name string, next *snapshot.Snapshot) (refused *Refused, took bool, err error) {
	since := s.clients.serial()
	silent := s.clients.silent(s.c.Patience)[node]
	s.served.set(ctx, node, next)
	if silent {
		return nil, true, ctx.Err()
	}
	wait, cancel := context.WithTimeoutCause(ctx, s.c.Patience, errImpatient)
	defer cancel()
	refused, err = s.clients.wait(wait, node, next, since)
	if errors.Is(err, errImpatient) {
		s.log.LogAttrs(ctx, slog.LevelWarn, "an envoy has not answered in time", slog.String("node", node), slog.String("step", name))
		err = nil
	}
	return refused, refused == nil, err
}

// retire keeps the clusters of a configuration for as long as requests may be on their way.
func (s *Server) retire(old *snapshot.Snapshot) {
	s.retired = append(s.retired, retired{old, time.Now().Add(s.c.Linger)})
	select {
	case s.retiring <- struct{}{}:
	default: // sweep knows already
	}
}

// kept is the current configuration with the clusters of the retired ones.
func (s *Server) kept() (*snapshot.Snapshot, error) {
	all := s.current
	for _, r := range s.retired {
		if !all.Lost(r.snapshot, pools()...) {
			continue
		}
		var err error
		if all, err = all.With(r.snapshot, pools()...); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// sweep removes clusters whose time is over, until ctx ends.
func (s *Server) sweep(ctx context.Context) {
	tick := time.NewTicker(s.c.Linger/4 + time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.retiring:
			for s.remove(ctx) {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
			}
		}
	}
}

// remove drops what lingered long enough and reports whether more is left.
func (s *Server) remove(ctx context.Context) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, before := time.Now(), len(s.retired)
	s.retired = slices.DeleteFunc(s.retired, func(r retired) bool { return now.After(r.until) })
	if len(s.retired) == before {
		return len(s.retired) > 0
	}
	kept, err := s.kept()
	if err != nil {
		s.log.LogAttrs(ctx, slog.LevelError, "cannot remove old clusters", slog.Any("error", err))
		return len(s.retired) > 0
	}
	s.served.serve(kept)
	for node := range s.served.all() {
		s.served.set(ctx, node, kept)
	}
	return len(s.retired) > 0
}
