package server

import (
	"context"
	"errors"
	"log/slog"
	"maps"
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

// leave forgets an Envoy, unless it is here again. What it waits for would be forgotten with it.
func (s *served) leave(node string, here func(node string) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if here(node) {
		return
	}
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
	here := map[string]bool{}
	for node := range s.present() {
		here[node] = true
	}
	return here
}

// present is what each connected Envoy is served.
func (s *served) present() map[string]*snapshot.Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.nodes)
}

// change is one change on its way to every Envoy.
type change struct {
	*Server
	final *snapshot.Snapshot
	newer <-chan struct{} // closed once a newer change waits

	mu      sync.Mutex
	refused *Refused
	added   map[string]bool                           // who took the first step, or may have
	ran     bool                                      // some Envoy runs final
	adding  map[*snapshot.Snapshot]*snapshot.Snapshot // the first step from what an Envoy has
}

func (s *Server) newChange(final *snapshot.Snapshot, newer <-chan struct{}) *change {
	return &change{Server: s, final: final, newer: newer, added: map[string]bool{}, adding: map[*snapshot.Snapshot]*snapshot.Snapshot{}}
}

// run takes every Envoy to final, each at its own pace, until all run it or one refuses. Who
// connects meanwhile comes along.
func (c *change) run(ctx context.Context) (*Refused, error) {
	begun := map[string]bool{}
	for offered := false; ; offered = true {
		g, walking := errgroup.WithContext(ctx)
		before := len(begun)
		for node := range c.served.all() {
			if begun[node] {
				continue
			}
			begun[node] = true
			g.Go(func() error { return c.walk(walking, node) })
		}
		err := g.Wait()
		switch {
		case c.refused != nil:
			return c.refused, nil
		case err != nil:
			return nil, err
		case offered && len(begun) == before: // nobody came before final was there for newcomers
			return nil, nil
		}
		c.served.serve(c.final)
	}
}

// walk takes one Envoy to final: what its routes need, then the routes. A refusal is an error,
// which ends the walk of the others.
func (c *change) walk(ctx context.Context, node string) error {
	if had := c.served.has(node); had != nil { // else it waits for its first configuration
		adding, err := c.firstStep(had)
		if err != nil {
			return err
		}
		if next, err := c.step(ctx, node, "add", adding); !next {
			return err
		}
	}
	_, err := c.step(ctx, node, "move", c.final)
	return err
}

// firstStep is made once for all Envoys that have the same.
func (c *change) firstStep(had *snapshot.Snapshot) (*snapshot.Snapshot, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if made := c.adding[had]; made != nil {
		return made, nil
	}
	made, err := had.Adding(c.final, pools()...)
	c.adding[had] = made
	return made, err
}

var (
	errImpatient  = errors.New("no answer in time")
	errSuperseded = errors.New("a newer configuration waits")
)

// step serves a snapshot to one Envoy and waits for its answer, and reports whether the next
// step may follow. It may for one that stays silent: it may be gone, and gets everything when
// it is back.
func (c *change) step(ctx context.Context, node, name string, next *snapshot.Snapshot) (bool, error) {
	since := c.clients.serial()
	silent := c.clients.silent(c.c.Patience)[node]
	c.served.set(ctx, node, next)
	if silent {
		c.took(node, false)
		return true, ctx.Err()
	}
	wait, cancel := c.patience(ctx)
	defer cancel()
	refused, err := c.clients.wait(wait, node, next, since)
	switch {
	case refused != nil:
		c.mu.Lock()
		defer c.mu.Unlock()
		c.refused, c.added[node] = refused, false
		return false, refused
	case errors.Is(err, errSuperseded):
		c.took(node, false)
		return false, nil
	case errors.Is(err, errImpatient):
		c.log.LogAttrs(ctx, slog.LevelWarn, "an envoy has not answered in time", slog.String("node", node), slog.String("step", name))
		c.took(node, false)
		return true, nil
	case err == nil:
		c.took(node, next == c.final && c.clients.runs(node, next))
	}
	return true, err
}

func (c *change) took(node string, runs bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.added[node] = true
	c.ran = c.ran || runs
}

// patience ends when an Envoy is not waited for any longer; its cause says why.
func (c *change) patience(ctx context.Context) (context.Context, context.CancelFunc) {
	wait, end := context.WithTimeoutCause(ctx, c.c.Patience, errImpatient)
	wait, cancel := context.WithCancelCause(wait)
	go func() {
		select {
		case <-wait.Done():
		case <-c.newer:
			grace := time.AfterFunc(c.c.Grace, func() { cancel(errSuperseded) })
			<-wait.Done()
			grace.Stop()
		}
	}()
	return wait, func() {
		cancel(nil)
		end()
	}
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
