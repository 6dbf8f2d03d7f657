package supervisor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// Changes are the parts that a new plan changed, by name and in start order.
type Changes struct {
	Started []string `json:"started,omitempty"` // new ones
	Stopped []string `json:"stopped,omitempty"` // not asked for any more, and gone
	// Stale are to run in another way, and do from their next start on. They are not started again
	// for it: that may cut what is under way, and is for a person to decide.
	Stale []string `json:"stale,omitempty"`
}

// replan takes the parts as they are to be now: it starts what is new and ends what is gone.
func (s *Supervisor) replan(ctx context.Context) (Changes, error) {
	s.replanning.Lock()
	defer s.replanning.Unlock()
	if s.cfg.Replan == nil {
		return Changes{}, errors.New("the parts of this supervisor are fixed")
	}
	parts, err := s.cfg.Replan(ctx)
	if err != nil {
		return Changes{}, fmt.Errorf("plan the parts: %w", err)
	}
	made, gone, changes, err := s.arrange(parts)
	if err != nil {
		return Changes{}, err
	}
	s.mu.Lock()
	if s.ending {
		s.mu.Unlock()
		return Changes{}, errors.New("the stack is going down")
	}
	s.runners = made
	for _, r := range made {
		if slices.Contains(changes.Started, r.part.Name) {
			s.begin(r)
		}
	}
	s.mu.Unlock()
	// Backwards, as at the end of all: what is gone may have used what stands before it.
	var failed []error
	for _, r := range slices.Backward(gone) {
		if !r.part.External {
			failed = append(failed, r.do(ctx, opStop))
			r.leave()
		}
	}
	return changes, errors.Join(failed...)
}

// arrange makes the runners of a plan: those that are there stay, and learn what changed.
func (s *Supervisor) arrange(parts []Part) (made, gone []*runner, changes Changes, err error) {
	before := s.all()
	for _, p := range parts {
		r := find(before, p.Name)
		switch {
		case r == nil:
			if r, err = s.newRunner(p, made); err != nil {
				return nil, nil, Changes{}, err
			}
			changes.Started = append(changes.Started, p.Name)
		case r.part.External != p.External:
			return nil, nil, Changes{}, fmt.Errorf("%s runs elsewhere now, or did before: `leaky down`, then `leaky up`", p.Name)
		}
		made = append(made, r)
	}
	for _, r := range before {
		i := slices.IndexFunc(parts, func(p Part) bool { return p.Name == r.part.Name })
		switch {
		case i >= 0:
			r.unplanned = false
			if r.learn(parts[i]) {
				changes.Stale = append(changes.Stale, r.part.Name)
			}
		case r.unplanned:
			made = append(made, r)
		default:
			gone, changes.Stopped = append(gone, r), append(changes.Stopped, r.part.Name)
		}
	}
	return made, gone, changes, nil
}

func find(all []*runner, name string) *runner {
	if i := slices.IndexFunc(all, func(r *runner) bool { return r.part.Name == name }); i >= 0 {
		return all[i]
	}
	return nil
}

// sameRun tells whether two plans of a part run the same. The order of the environment says nothing.
func sameRun(a, b Part) bool {
	return a.Address == b.Address && a.Path == b.Path && a.Dir == b.Dir && slices.Equal(a.Args, b.Args) &&
		slices.Equal(slices.Sorted(slices.Values(a.Env)), slices.Sorted(slices.Values(b.Env)))
}

// latest is how a part is run from its next start on; nil: as it is now.
type latest struct {
	mu   sync.Mutex
	part *Part
}

// learn keeps a plan for the next start and tells whether that is another one than runs now.
func (r *runner) learn(p Part) bool {
	r.next.mu.Lock()
	defer r.next.mu.Unlock()
	if sameRun(p, r.running) {
		r.next.part = nil
		return false
	}
	r.next.part = &p
	return !p.External
}

// adopt makes the latest plan that of the process which is started now. Only run calls it. A part's
// name, its order and whose it is stay.
func (r *runner) adopt() {
	r.next.mu.Lock()
	defer r.next.mu.Unlock()
	p := r.next.part
	if p == nil {
		return
	}
	r.next.part, r.running = nil, *p
	to := &r.part
	to.Address, to.Path, to.Args, to.Env, to.Dir, to.User, to.Caps = p.Address, p.Path, p.Args, p.Env, p.Dir, p.User, p.Caps
	to.Prepare, to.Ready, to.Drain, to.StopSignal, to.DeathSignal = p.Prepare, p.Ready, p.Drain, p.StopSignal, p.DeathSignal
	r.set(func(s *Status) { s.Address = p.Address })
}
