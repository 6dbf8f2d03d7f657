package supervisor

import (
	"context"
	"errors"
	"slices"
)

// ErrNoPart is the error of Config.Further for a name that is none of a part.
var ErrNoPart = errors.New("no such part")

// further starts a part that no plan names. It stays until it is stopped; a plan that names it by then
// takes it over.
func (s *Supervisor) further(ctx context.Context, name string) (*runner, error) {
	s.replanning.Lock()
	defer s.replanning.Unlock()
	if r := find(s.all(), name); r != nil {
		return r, nil
	}
	if s.cfg.Further == nil {
		return nil, UnknownPart(name, s.names())
	}
	part, err := s.cfg.Further(ctx, name)
	if errors.Is(err, ErrNoPart) {
		return nil, UnknownPart(name, s.names())
	}
	if err != nil {
		return nil, err
	}
	r, err := s.newRunner(part, s.all())
	if err != nil {
		return nil, err
	}
	r.unplanned = true
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending {
		return nil, errors.New("the stack is going down")
	}
	s.runners = append(slices.Clone(s.runners), r)
	s.begin(r)
	return r, nil
}

// drop forgets a stopped part that no plan names.
func (s *Supervisor) drop(r *runner) {
	s.replanning.Lock()
	defer s.replanning.Unlock()
	if !r.unplanned || r.snapshot().State != StateStopped {
		return
	}
	s.mu.Lock()
	s.runners = slices.DeleteFunc(slices.Clone(s.runners), func(other *runner) bool { return other == r })
	s.mu.Unlock()
	r.leave()
}
