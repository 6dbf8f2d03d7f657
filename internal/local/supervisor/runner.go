package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"syscall"
	"time"
)

const (
	probeStarting = 100 * time.Millisecond // between probes until ready
	probeReady    = 5 * time.Second        // and after
	probeTimeout  = 2 * time.Second
)

// ErrNotRunning answers a kill of a part that has no process.
var ErrNotRunning = errors.New("is not running")

type operation int

const (
	opStart operation = iota
	opStop
	opRestart
	opKill
)

type command struct {
	op    operation
	reply chan error // buffered
}

// runner owns one part: all that happens to its process happens in its run goroutine.
type runner struct {
	part  Part
	log   *slog.Logger
	logs  logFolder
	grace time.Duration
	spawn *spawner

	commands chan command
	ready    chan struct{}   // closed when first ready
	after    []chan struct{} // ready channels of the parts it waits for
	want     bool            // should be up; only run touches it
	restarts restarts
	readyAt  time.Time // when this run became ready; only run touches it

	next    latest
	running Part               // as the process was started, or will be; guarded by next
	leave   context.CancelFunc // ends run, once the part is stopped
	gone    chan struct{}      // closed when run has ended

	unplanned bool // no plan names it; guarded by Supervisor.replanning

	mu     sync.Mutex
	status Status
}

func newRunner(p Part, cfg Config, spawn *spawner) *runner {
	r := &runner{part: p, log: cfg.Log.With("part", p.Name), logs: logFolder(cfg.LogDir), grace: cfg.StopGrace, spawn: spawn,
		commands: make(chan command), ready: make(chan struct{}), want: true, running: p, gone: make(chan struct{}),
		status: Status{Name: p.Name, Address: p.Address, State: StateWaiting, Since: time.Now()}}
	if p.External {
		r.status.State = StateExternal
		close(r.ready)
	}
	return r
}

// do hands one operation to the run goroutine and waits for its result.
func (r *runner) do(ctx context.Context, op operation) error {
	if r.part.External {
		return fmt.Errorf("%s runs elsewhere (%s): leaky does not manage it", r.part.Name, r.part.Address)
	}
	c := command{op: op, reply: make(chan error, 1)}
	select {
	case r.commands <- c:
	case <-r.gone:
		if op == opStop {
			return nil
		}
		return fmt.Errorf("%s is not a part of the stack any more", r.part.Name)
	case <-ctx.Done():
		return fmt.Errorf("%s is busy: %w", r.part.Name, ctx.Err())
	}
	select {
	case err := <-c.reply:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%s takes long: %w", r.part.Name, ctx.Err())
	}
}

func (r *runner) snapshot() Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.status
}

func (r *runner) set(change func(*Status)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	before := r.status.State
	change(&r.status)
	if r.status.State != before {
		r.status.Since = time.Now()
	}
}

func (r *runner) enter(state State, pid int, message string) {
	r.set(func(s *Status) { s.State, s.PID, s.Message = state, pid, message })
}

// run keeps the part as it is wanted until ctx ends; the caller stops it before that.
func (r *runner) run(ctx context.Context) {
	defer close(r.gone)
	r.await(ctx)
	for ctx.Err() == nil {
		if !r.want {
			r.enter(StateStopped, 0, "")
			r.idle(ctx, nil)
			continue
		}
		proc, err := r.launch(ctx)
		if err == nil {
			if crashed := r.attend(ctx, proc); !crashed {
				continue
			}
			err = errors.New(proc.reason)
		}
		r.wait(ctx, err)
	}
}

// await blocks until the parts in After were ready, or until someone decides otherwise.
func (r *runner) await(ctx context.Context) {
	for _, dependency := range r.after {
		select {
		case <-dependency:
		case c := <-r.commands:
			if r.decide(c) {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// idle blocks until the timer fires (nil: never) or a command says what to do.
func (r *runner) idle(ctx context.Context, timer <-chan time.Time) {
	for {
		select {
		case <-timer:
			return
		case c := <-r.commands:
			if r.decide(c) {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// decide answers a command while no process runs; false: nothing changed.
func (r *runner) decide(c command) bool {
	switch c.op {
	case opKill:
		c.reply <- fmt.Errorf("%s %w", r.part.Name, ErrNotRunning)
		return false
	case opStop:
		r.want = false
		r.enter(StateStopped, 0, "")
	case opStart, opRestart:
		r.want = true
		r.enter(StateStarting, 0, "")
	}
	c.reply <- nil
	return true
}

func (r *runner) launch(ctx context.Context) (*process, error) {
	r.adopt()
	r.readyAt = time.Time{}
	r.enter(StateStarting, 0, "")
	if r.part.Prepare != nil {
		if err := r.part.Prepare(ctx); err != nil {
			return nil, err
		}
	}
	file, err := r.logs.open(r.part.Name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	proc, err := r.spawn.spawn(ctx, &r.part, file)
	if err != nil {
		return nil, err
	}
	r.enter(StateStarting, proc.cmd.Process.Pid, "")
	r.log.Info("started", "pid", proc.cmd.Process.Pid)
	return proc, nil
}

// attend watches one run. True: it ended by itself (or by kill) and counts as a crash.
func (r *runner) attend(ctx context.Context, proc *process) (crashed bool) {
	probing, stop := context.WithCancel(ctx)
	defer stop()
	results := make(chan error)
	go probe(probing, r.part.Ready, results)
	for {
		select {
		case <-proc.exited:
			return true
		case err := <-results:
			r.judge(proc, err)
		case c := <-r.commands:
			switch c.op {
			case opStart:
				c.reply <- nil
			case opKill:
				err := proc.signal(syscall.SIGKILL)
				if err == nil {
					<-proc.exited
					r.enter(StateBackoff, 0, proc.reason)
				}
				c.reply <- err
			case opStop, opRestart:
				r.want = c.op == opRestart
				r.enter(StateStopping, proc.cmd.Process.Pid, "")
				err := r.stop(ctx, proc)
				r.log.Info("stopped", "pid", proc.cmd.Process.Pid, "reason", proc.reason)
				if r.want {
					r.enter(StateStarting, 0, "")
				} else {
					r.enter(StateStopped, 0, "")
				}
				c.reply <- err
				return false
			}
		case <-ctx.Done():
			if err := proc.end(syscall.SIGKILL, r.grace); err != nil {
				r.log.Error("end failed", "error", err)
			}
			return false
		}
	}
}

// stop ends a process politely: drain, signal, and SIGKILL only after the grace.
func (r *runner) stop(ctx context.Context, proc *process) error {
	begun := time.Now()
	if r.part.Drain != nil {
		draining, cancel := context.WithTimeout(ctx, r.grace/2)
		r.part.Drain(draining)
		cancel()
	}
	return proc.end(r.stopSignal(), r.grace-time.Since(begun))
}

func (r *runner) stopSignal() syscall.Signal {
	if r.part.StopSignal == 0 {
		return syscall.SIGTERM
	}
	return r.part.StopSignal
}

// judge turns a probe's result into a state.
func (r *runner) judge(proc *process, err error) {
	before, pid := r.snapshot().State, proc.cmd.Process.Pid
	warning, warned := errors.AsType[Warning](err)
	if warned {
		err = nil
	}
	switch {
	case err == nil && before == StateReady:
		r.enter(StateReady, pid, string(warning))
	case err == nil:
		r.enter(StateReady, pid, string(warning))
		if r.readyAt.IsZero() {
			r.readyAt = time.Now()
		}
		r.log.Info("ready", "pid", pid, "after", time.Since(proc.started).Round(time.Millisecond).String())
		select {
		case <-r.ready:
		default:
			close(r.ready)
		}
	case err != nil && before == StateReady:
		r.enter(StateUnready, pid, err.Error())
		r.log.Warn("not ready any more", "pid", pid, "reason", err.Error())
	case err != nil:
		r.enter(before, pid, err.Error())
	}
}

// probe reports readiness until ctx ends: often while starting, seldom once ready.
func probe(ctx context.Context, ready func(context.Context) error, results chan<- error) {
	every := time.Duration(0)
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(every):
		}
		var err error
		if ready != nil {
			probing, cancel := context.WithTimeout(ctx, probeTimeout)
			err = ready(probing)
			cancel()
		}
		every = probeReady
		if _, warned := errors.AsType[Warning](err); err != nil && !warned {
			every = probeStarting
		}
		select {
		case results <- err:
		case <-ctx.Done():
			return
		}
	}
}

// wait is the pause after a crash.
func (r *runner) wait(ctx context.Context, cause error) {
	var healthy time.Duration
	if !r.readyAt.IsZero() {
		healthy = time.Since(r.readyAt)
	}
	pause := r.restarts.next(healthy)
	r.enter(StateBackoff, 0, cause.Error())
	r.log.Warn("crashed", "reason", cause.Error(), "again_in", pause.String())
	r.idle(ctx, time.After(pause))
	if r.want && ctx.Err() == nil {
		r.set(func(s *Status) { s.Restarts++ })
	}
}
