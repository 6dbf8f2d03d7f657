package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/local/binaries"
	"github.com/leaky-tokens/leaky-tokens/internal/local/smoketest"
	"github.com/leaky-tokens/leaky-tokens/internal/local/stack"
	"github.com/leaky-tokens/leaky-tokens/internal/local/supervisor"
	"github.com/leaky-tokens/leaky-tokens/internal/retry"
	"github.com/leaky-tokens/leaky-tokens/internal/settings"
)

type upCommand struct {
	Foreground bool          `help:"Stay, and stop everything on Ctrl-C or SIGTERM."`
	Clean      bool          `help:"Stop what runs and delete all data first."`
	Timeout    time.Duration `default:"60s" help:"How long the parts may take to become ready; not counting the download of missing ones."`
	Proof      bool          `default:"true" negatable:"" help:"End with one real call through the gateway and its metered tokens."`
}

// Help shows how it is used.
func (upCommand) Help() string {
	return `Each part is a process of its own on loopback. Data, logs and secrets live in one state folder (LEAKY_STATE_DIR). A store whose URL is in the environment (LEAKY_POSTGRES_URL, LEAKY_REDIS_URL, LEAKY_NATS_URL, LEAKY_CLICKHOUSE_URL) is used and not started.

Examples:

    leaky up                                        # start, or add to what runs what leaky.yaml has gained
    leaky up --clean                                # begin with empty books
    leaky --config my.yaml up                       # another leaky.yaml
    LEAKY_POSTGRES_LISTEN=127.0.0.1:5433 leaky up   # another port for our own Postgres
    leaky up --foreground                           # under a service manager`
}

// Run brings the stack up; it returns nil only when every part serves and the proof holds.
func (u upCommand) Run(ctx context.Context, c *cli) error {
	out := os.Stdout
	l, err := u.open(out, c)
	if err != nil {
		return err
	}
	if u.Clean {
		if err := u.clean(ctx, l.dir); err != nil {
			return err
		}
	}
	begun := time.Now()
	if pid, err := supervisor.Holder(stack.RunDir(l.dir)); err != nil {
		return err
	} else if pid != 0 {
		if u.Foreground {
			return errors.New("already running in the background: `leaky down` first")
		}
		sayRunning(ctx, out, pid)
		if err := follow(ctx, out, l); err != nil {
			return err
		}
		return errors.Join(u.finish(ctx, out, l, begun, nil), notFollowed(ctx))
	}
	if err := prepare(ctx, l); err != nil {
		return err
	}
	u.accept(out, l)
	begun = time.Now()
	if u.Foreground {
		return u.stay(ctx, out, l, begun)
	}
	ended, err := startSupervisor(l)
	if err != nil {
		return err
	}
	return u.finish(ctx, out, l, begun, ended)
}

// open reads the files. What is wrong with them is for the person who starts the stack to mend; a
// service manager gets the last good content, lest a restart of the machine stops the gateway, or starts
// it from what a full disk left of leaky.yaml.
func (u upCommand) open(out io.Writer, c *cli) (local, error) {
	l, err := openLocal(c)
	if err == nil {
		_, err = l.limitSets()
	}
	if !u.Foreground || u.Clean { // what was good is deleted with all data
		return l, err
	}
	if _, none := os.Stat(filepath.Join(l.dir, settings.Folder)); none != nil {
		return l, err // nothing was ever good
	}
	files := l.files(supervisorLog(io.Discard))
	last, lastErr := files.Open()
	if lastErr != nil {
		return l, cmp.Or(err, lastErr)
	}
	if because := files.Problem(); because != nil {
		fmt.Fprintf(out, "Starting from the last good configuration, since the present one is not followed:\n%v\n", because)
	}
	l.cfg = last.Config
	return l, nil
}

// accept says that what the files hold is meant, as somebody starts the stack with it; a service manager
// is nobody. Files that are wrong are left alone.
func (u upCommand) accept(out io.Writer, l local) {
	if u.Foreground {
		return
	}
	gone, err := l.files(supervisorLog(io.Discard)).Accept()
	if err == nil && len(gone) > 0 {
		fmt.Fprintf(out, "%s is other than before: %s.\n", l.configPath, strings.Join(gone, "; "))
	}
}

func sayRunning(ctx context.Context, out io.Writer, pid int) {
	fmt.Fprintf(out, "Already running (supervisor %d).\n", pid)
	o, err := control().Status(ctx)
	if err != nil {
		return // it is just starting, or ending
	}
	if built, err := builtAt(); err == nil && built.After(o.Started) {
		fmt.Fprintln(out, "This binary is newer: `leaky restart NAME` takes it for one part, `leaky down` and `leaky up` for all.")
	}
}

// follow makes a running stack what leaky.yaml says by now, and tells what that changed.
func follow(ctx context.Context, out io.Writer, l local) error {
	plan, err := l.plan(true)
	if err != nil {
		return err
	}
	if err := fetch(ctx, plan); err != nil {
		return err
	}
	changes, err := control().Replan(ctx)
	if err != nil {
		return fmt.Errorf("start what is new in leaky.yaml: %w", err)
	}
	for _, name := range changes.Started {
		fmt.Fprintf(out, "  %-12s is new, and started\n", name)
	}
	for _, name := range changes.Stopped {
		fmt.Fprintf(out, "  %-12s is not asked for any more, and stopped\n", name)
	}
	for _, name := range changes.Stale {
		fmt.Fprintf(out, "  %-12s runs as before: `leaky restart %s` has it take what changed\n", name, name)
	}
	return nil
}

// looksAgain is how long a part may still speak of a file as it was before: it reads its files every
// second, and is asked how it is every five.
const looksAgain = 8 * time.Second

// notFollowed is why the running stack does not follow the files as they are; nil: it does.
func notFollowed(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, looksAgain)
	defer cancel()
	var wrong error
	err := retry.Policy{First: 200 * time.Millisecond}.Do(ctx, func(ctx context.Context) error {
		o, err := control().Status(ctx)
		if err != nil {
			return retry.Permanent(err)
		}
		wrong = warned(o.Parts)
		return wrong
	}, nil)
	return cmp.Or(wrong, err)
}

func builtAt() (time.Time, error) {
	self, err := os.Executable()
	if err != nil {
		return time.Time{}, err
	}
	info, err := os.Stat(self)
	if err != nil {
		return time.Time{}, err
	}
	return info.ModTime(), nil
}

func (u upCommand) clean(ctx context.Context, dir string) error {
	if _, err := supervisor.NewClient(stack.RunDir(dir)).Down(ctx); err != nil {
		return err
	}
	return stack.Clean(dir)
}

// prepare does all that can be done before anything starts: folder, ports, missing parts.
func prepare(ctx context.Context, l local) error {
	if err := stack.OpenStateDir(l.dir); err != nil {
		return err
	}
	plan, err := l.plan(true)
	if err != nil {
		return err
	}
	if err := plan.SpoolFree(); err != nil {
		return err
	}
	ports, err := plan.Ports()
	if err != nil {
		return err
	}
	if err := freePorts(ctx, ports, filepath.Join(stack.RunDir(l.dir), "supervisor.sock")); err != nil {
		return err
	}
	return fetch(ctx, plan)
}

// fetch gets the programs that a plan needs and this machine lacks.
func fetch(ctx context.Context, plan *stack.Plan) error {
	programs, err := partsStore()
	if err != nil {
		return err
	}
	return programs.EnsureOr(ctx, func(p binaries.Part, err error) {
		fmt.Fprintf(os.Stderr, "  %s is not on this machine, and the stack runs without it (install it and set %s): %v\n", p.Name, p.Instead, err)
	}, plan.NeededParts()...)
}

// freePorts checks the ports. Where a supervisor left its socket behind it died without
// a word, and its parts may take a moment to follow.
func freePorts(ctx context.Context, ports []stack.Port, socket string) error {
	err := stack.CheckPorts(ports)
	if _, stale := os.Lstat(socket); stale != nil {
		return err
	}
	for deadline := time.Now().Add(5 * time.Second); err != nil && time.Now().Before(deadline); err = stack.CheckPorts(ports) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
	return err
}

// stay runs the supervisor in this process.
func (u upCommand) stay(ctx context.Context, out io.Writer, l local, begun time.Time) error {
	log, err := supervisor.OpenLog(stack.LogDir(l.dir), "supervisor")
	if err != nil {
		return err
	}
	defer log.Close()
	running, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- supervise(running, l, log) }()
	first := make(chan error, 1) // finish takes the supervisor's early end from here
	result := make(chan error, 1)
	go func() { result <- u.finish(ctx, out, l, begun, first) }()
	select {
	case err := <-ended:
		first <- err
		return errors.Join(err, <-result)
	case err := <-result:
		if err != nil {
			stop()
			return errors.Join(err, <-ended)
		}
	}
	fmt.Fprintln(out, "\nCtrl-C stops everything.")
	return <-ended
}

// startSupervisor runs `leaky supervise` in a session of its own, away from our
// terminal and our pipes; the channel tells when it ends.
func startSupervisor(l local) (<-chan error, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find own program: %w", err)
	}
	log, err := supervisor.OpenLog(stack.LogDir(l.dir), "supervisor")
	if err != nil {
		return nil, err
	}
	defer log.Close()
	closeInherited()
	cmd := exec.Command(self, "supervise")
	cmd.Env = append(os.Environ(), "LEAKY_STATE_DIR="+l.dir, "LEAKY_CACHE_DIR="+config.CacheDir(os.Getenv))
	if l.configPath != "" { // relative in our environment, perhaps
		cmd.Env = append(cmd.Env, "LEAKY_CONFIG="+l.configPath)
	}
	cmd.Dir, cmd.Stdout, cmd.Stderr = l.dir, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start supervisor: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	return ended, nil
}

// closeInherited keeps files that make or a shell left open to us (a job server, a pipe)
// from staying open as long as the stack runs.
func closeInherited() {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return
	}
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > 2 {
			syscall.CloseOnExec(fd)
		}
	}
}

// finish waits for readiness, tells where everything is, and proves it.
func (u upCommand) finish(ctx context.Context, out io.Writer, l local, begun time.Time, ended <-chan error) error {
	waiting, cancel := context.WithTimeout(ctx, u.Timeout)
	defer cancel()
	o, err := awaitReady(waiting, out, stack.LogDir(l.dir), begun, ended)
	if err != nil {
		return err
	}
	plan, err := l.plan(true)
	if err != nil {
		return err
	}
	describe(out, plan, o, l.dir, time.Since(begun))
	if !u.Proof {
		return nil
	}
	return prove(ctx, out, l, plan)
}

func prove(ctx context.Context, out io.Writer, l local, plan *stack.Plan) error {
	if l.cfg.Gateway.TLS.Clients == config.ClientsRequired {
		fmt.Fprintln(out, "\nProof: left out, since callers must show a certificate.")
		return nil
	}
	trust, err := l.gatewayTLS()
	if err != nil {
		return err
	}
	model, provider, ok := plan.Proof()
	if !ok {
		fmt.Fprintln(out, "\nProof: left out, since no model is served by a stub and a real call costs money.")
		return nil
	}
	r, err := smoketest.Run(ctx, smoketest.Config{Gateway: plan.Gateway(), TLS: trust, Model: model, Provider: provider})
	if err != nil {
		return fmt.Errorf("proof failed: %w\n(`leaky ps` and `leaky logs NAME` tell more; the stack stays up)", err)
	}
	fmt.Fprintf(out, "\nProof: a call to %s through the gateway used %d tokens; %.1f s later /api/v1/analytics/usage shows %d.\n",
		model, r.Told, r.Delay.Seconds(), r.Metered)
	return nil
}
