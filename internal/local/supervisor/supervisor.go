// Package supervisor is beside the request path: it runs every part of the stack as a
// process of its own, without containers, starts it again when it crashes, and answers
// `leaky ps|start|stop|restart|kill|down` on a Unix socket.
//
// Each part has a goroutine (runner.run) that alone touches its process, and these states:
//
//	waiting                  -- the parts in After were ready, or start --> starting
//	starting                 -- the probe succeeds -----------------------> ready
//	ready                    -- the probe fails --------------------------> unready
//	unready                  -- the probe succeeds -----------------------> ready
//	starting, ready, unready -- the process exits, or kill ---------------> backoff
//	starting, ready, unready -- stop or restart --------------------------> stopping
//	backoff                  -- the pause is over, start or restart ------> starting
//	waiting, backoff         -- stop -------------------------------------> stopped
//	stopping                 -- the process is gone ----------------------> stopped, starting after restart
//	stopped                  -- start or restart -------------------------> starting
//
// external is for what runs elsewhere, and never left. The pause of backoff doubles from one
// crash to the next, and begins anew after a healthy run (restarts). The end of the supervisor stops the parts in the reverse
// order of After; a part that ignores its signal is killed after StopGrace, and the kernel
// kills what a dead supervisor leaves (DeathSignal).
package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// Config is what a supervisor needs.
type Config struct {
	Parts     []Part // in start order; a part's After names only earlier ones
	LogDir    string // one file per part
	RunDir    string // control socket and lock
	StateDir  string // told to clients
	Log       *slog.Logger
	StopGrace time.Duration // between the polite signal and SIGKILL, default 10 s
	// Replan gives the parts as they are to be by now, in start order; nil: they stay as they are.
	Replan func(context.Context) ([]Part, error)
	// Further gives a part that no plan names and that may be started by its name, or an error that
	// says why not; nil: there is none.
	Further func(context.Context, string) (Part, error)
}

// Supervisor runs the parts.
type Supervisor struct {
	cfg     Config
	spawn   *spawner
	started time.Time

	replanning sync.Mutex    // held by the one replan at a time
	begin      func(*runner) // starts the goroutine of a part; Run sets it before anybody can ask
	mu         sync.Mutex    // over what follows
	runners    []*runner     // in start order; the list is replaced, not changed
	ending     bool          // nothing is started any more

	downOnce sync.Once
	down     chan struct{} // closed when a client asks for the end
}

// New checks the parts and their order; it starts nothing.
func New(cfg Config) (*Supervisor, error) {
	if cfg.Log == nil {
		return nil, errors.New("supervisor: a logger is needed")
	}
	if cfg.StopGrace <= 0 {
		cfg.StopGrace = 10 * time.Second
	}
	s := &Supervisor{cfg: cfg, spawn: newSpawner(), down: make(chan struct{})}
	for _, p := range cfg.Parts {
		if find(s.runners, p.Name) != nil {
			return nil, fmt.Errorf("supervisor: part %s is there twice", p.Name)
		}
		r, err := s.newRunner(p, s.runners)
		if err != nil {
			return nil, err
		}
		s.runners = append(s.runners, r)
	}
	return s, nil
}

// newRunner makes the runner of a part that comes after others.
func (s *Supervisor) newRunner(p Part, before []*runner) (*runner, error) {
	r := newRunner(p, s.cfg, s.spawn)
	for _, name := range p.After {
		dependency := find(before, name)
		if dependency == nil {
			return nil, fmt.Errorf("supervisor: part %s comes after %s, which is not before it", p.Name, name)
		}
		r.after = append(r.after, dependency.ready)
	}
	return r, nil
}

// Run starts every part and blocks until ctx ends or a client asks for the end; it
// returns when every process is gone. One supervisor per RunDir: a second one fails.
func (s *Supervisor) Run(ctx context.Context) error {
	lock, err := acquire(s.cfg.RunDir)
	if err != nil {
		return err
	}
	defer lock.Release()
	s.started = time.Now()
	ln, err := listenControl(s.cfg.RunDir)
	if err != nil {
		return err
	}

	// The parts outlive ctx: they end in order, by stopAll.
	lifetime, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	var group sync.WaitGroup
	group.Go(func() { s.spawn.run(lifetime) })
	s.begin = func(r *runner) {
		if !r.part.External {
			var staying context.Context
			staying, r.leave = context.WithCancel(lifetime)
			group.Go(func() { r.run(staying) })
		}
	}
	for _, r := range s.all() {
		s.begin(r)
	}
	group.Go(func() { s.trimLogs(lifetime) })
	control := s.serveControl(ln)

	select {
	case <-ctx.Done():
	case <-s.down:
	case err = <-control.failed:
	}
	err = errors.Join(err, s.stopAll(lifetime))
	end()
	group.Wait()
	return errors.Join(err, control.close())
}

// stopAll ends the parts, each after those that need it, and independent ones at once.
func (s *Supervisor) stopAll(ctx context.Context) error {
	s.cfg.Log.Info("stopping every part")
	s.mu.Lock()
	s.ending = true
	s.mu.Unlock()
	all := s.all()
	stopped := map[string]chan struct{}{}
	for _, r := range all {
		stopped[r.part.Name] = make(chan struct{})
	}
	needed := map[string][]chan struct{}{}
	for _, r := range all {
		for _, name := range r.part.After {
			needed[name] = append(needed[name], stopped[r.part.Name])
		}
	}
	var group sync.WaitGroup
	failures := make([]error, len(all))
	for i, r := range all {
		group.Go(func() {
			defer close(stopped[r.part.Name])
			for _, dependent := range needed[r.part.Name] {
				<-dependent
			}
			if !r.part.External {
				failures[i] = r.do(ctx, opStop)
			}
		})
	}
	group.Wait()
	return errors.Join(failures...)
}

// all are the parts by now, in start order.
func (s *Supervisor) all() []*runner {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.runners
}

// Statuses are all parts in start order.
func (s *Supervisor) Statuses() []Status {
	var all []Status
	for _, r := range s.all() {
		status := r.snapshot()
		status.RSS, status.PSS = memory(status.PID)
		all = append(all, status)
	}
	return all
}

func (s *Supervisor) names() []string {
	var names []string
	for _, r := range s.all() {
		names = append(names, r.part.Name)
	}
	return names
}

func (s *Supervisor) askDown() { s.downOnce.Do(func() { close(s.down) }) }

func (s *Supervisor) stopping() bool {
	select {
	case <-s.down:
		return true
	default:
		return false
	}
}

func (s *Supervisor) trimLogs(ctx context.Context) {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			for _, name := range append(s.names(), "supervisor") {
				if err := logFolder(s.cfg.LogDir).trim(name); err != nil {
					s.cfg.Log.Warn("trim log failed", "part", name, "error", err)
				}
			}
		case <-ctx.Done():
			return
		}
	}
}
