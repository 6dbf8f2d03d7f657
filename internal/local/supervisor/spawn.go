package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// spawner starts every child from one thread that lives as long as the supervisor:
// the kernel sends the death signal when the starting *thread* ends, not the process,
// and Go retires threads as it likes.
type spawner struct{ requests chan spawnRequest }

type spawnRequest struct {
	cmd   *exec.Cmd
	reply chan error
}

func newSpawner() *spawner { return &spawner{requests: make(chan spawnRequest)} }

// run serves start requests until ctx ends, which must be after the last child's end.
func (s *spawner) run(ctx context.Context) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for {
		select {
		case r := <-s.requests:
			r.reply <- r.cmd.Start()
		case <-ctx.Done():
			return
		}
	}
}

func (s *spawner) start(ctx context.Context, cmd *exec.Cmd) error {
	r := spawnRequest{cmd: cmd, reply: make(chan error, 1)}
	select {
	case s.requests <- r:
		return <-r.reply
	case <-ctx.Done():
		return ctx.Err()
	}
}

// process is one run of a part.
type process struct {
	cmd     *exec.Cmd
	started time.Time
	exited  chan struct{} // closed when it has been reaped
	reason  string        // valid once exited is closed
}

// spawn starts the part with its output appended to log.
func (s *spawner) spawn(ctx context.Context, p *Part, log *os.File) (*process, error) {
	cmd := exec.Command(program(p.Path), p.Args...)
	cmd.Args[0] = p.Path
	cmd.Env, cmd.Dir = p.Env, p.Dir
	if cmd.Env == nil {
		cmd.Env = []string{}
	}
	cmd.Stdout, cmd.Stderr = log, log
	death := p.DeathSignal
	if death == 0 {
		death = syscall.SIGKILL
	}
	// A process group of its own keeps a terminal's Ctrl-C from reaching parts past the supervisor's order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: death, Credential: p.User, AmbientCaps: p.Caps}
	if err := s.start(ctx, cmd); err != nil {
		return nil, fmt.Errorf("start %s: %w", p.Name, err)
	}
	proc := &process{cmd: cmd, started: time.Now(), exited: make(chan struct{})}
	go func() {
		proc.reason = describeExit(cmd.Wait())
		close(proc.exited)
	}()
	return proc, nil
}

// program survives the removal of our own binary (go run, a rebuild in progress).
func program(path string) string {
	if _, err := os.Stat(path); err != nil {
		if self, err := os.Executable(); err == nil && self == path {
			return "/proc/self/exe"
		}
	}
	return path
}

func describeExit(err error) string {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return "exited with 0"
	case errors.As(err, &exit):
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			return "ended by " + ws.Signal().String()
		}
		return fmt.Sprintf("exited with %d", exit.ExitCode())
	}
	return err.Error()
}

// signal is sent to the process itself; one that is gone already is no error.
func (p *process) signal(sig syscall.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("send %s to pid %d: %w", sig, p.cmd.Process.Pid, err)
	}
	return nil
}

// end asks with sig, waits grace, then kills. It returns when the process is reaped.
func (p *process) end(sig syscall.Signal, grace time.Duration) error {
	err := p.signal(sig)
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-p.exited:
		return nil
	case <-timer.C:
	}
	if err := errors.Join(err, p.signal(syscall.SIGKILL)); err != nil {
		return err
	}
	<-p.exited
	return nil
}
