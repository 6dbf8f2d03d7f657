package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"syscall"

	"github.com/leaky-tokens/leaky-tokens/internal/local/stack"
	"github.com/leaky-tokens/leaky-tokens/internal/local/supervisor"
	"github.com/leaky-tokens/leaky-tokens/internal/redisconn"
	"github.com/leaky-tokens/leaky-tokens/internal/telemetry"
)

type superviseCommand struct{}

// Help says who starts it.
func (superviseCommand) Help() string {
	return "`leaky up` starts this in the background; `leaky up --foreground` is what a service manager should run.\n\nExamples:\n\n    leaky --config my.yaml supervise"
}

// Run starts every part and blocks until it is told to stop.
func (superviseCommand) Run(ctx context.Context, c *cli) error {
	l, err := openLastGood(c, supervisorLog(os.Stderr))
	if err != nil {
		return err
	}
	return supervise(ctx, l, os.Stderr)
}

// supervise is the composition root of the supervisor; its log goes to w.
func supervise(ctx context.Context, l local, w io.Writer) error {
	if err := stack.OpenStateDir(l.dir); err != nil {
		return err
	}
	raiseFileLimit()
	log := supervisorLog(w)
	redisconn.SetLogger(log)
	spools := stack.NewSpools(l.dir, log)
	defer spools.Release()
	if err := spools.Hold(l.cfg); err != nil {
		return err
	}
	parts, err := l.parts(ctx, log)
	if err != nil {
		return err
	}
	replan := func(ctx context.Context) ([]supervisor.Part, error) {
		now, err := l.lastGood(log)
		if err != nil {
			return nil, err
		}
		if err := spools.Hold(now.cfg); err != nil {
			return nil, err
		}
		return now.parts(ctx, log)
	}
	further := func(ctx context.Context, name string) (supervisor.Part, error) {
		now, err := l.lastGood(log)
		if err != nil {
			return supervisor.Part{}, err
		}
		return now.further(ctx, log, name)
	}
	s, err := supervisor.New(supervisor.Config{Parts: parts, LogDir: stack.LogDir(l.dir), RunDir: stack.RunDir(l.dir), StateDir: l.dir,
		Log: log, Replan: replan, Further: further})
	if err != nil {
		return err
	}
	return s.Run(ctx)
}

// parts are what the supervisor is to run.
func (l local) parts(ctx context.Context, log *slog.Logger) ([]supervisor.Part, error) {
	plan, commands, err := l.commanded(ctx, log)
	if err != nil {
		return nil, err
	}
	return plan.Parts(ctx, commands)
}

// further is one more process of a service.
func (l local) further(ctx context.Context, log *slog.Logger, name string) (supervisor.Part, error) {
	plan, commands, err := l.commanded(ctx, log)
	if err != nil {
		return supervisor.Part{}, err
	}
	return plan.Further(name, commands)
}

// commanded is the plan with how its parts are run.
func (l local) commanded(ctx context.Context, log *slog.Logger) (*stack.Plan, stack.Commands, error) {
	none := stack.Commands{}
	plan, err := l.plan(true)
	if err != nil {
		return nil, none, err
	}
	programs, err := partsStore()
	if err != nil {
		return nil, none, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, none, fmt.Errorf("find own program: %w", err)
	}
	if lacking := programs.Lacking(); len(lacking) > 0 {
		log.Warn("monitors are left out, their programs are not on this machine", slog.Any("parts", lacking))
		plan.Without(lacking...)
	}
	commands := stack.Commands{Programs: programs, Self: self, Config: l.configPath}
	if err := plan.Drop(ctx, commands); err != nil {
		log.Warn("parts run as root", slog.Any("because", err))
	}
	return plan, commands, nil
}

func supervisorLog(w io.Writer) *slog.Logger {
	return telemetry.Logger(w, "supervisor", slog.LevelInfo)
}

// raiseFileLimit lets children open as many files as the system allows: Go raises its own
// limit by itself, but gives the old one back to children unless it is set here. Failing
// leaves the usual limit, which does for a small stack.
func raiseFileLimit() {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) != nil {
		return
	}
	limit.Cur = min(limit.Max, 1<<20)
	_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
}
