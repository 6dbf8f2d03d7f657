// Command load drives the whole product the way its callers do, at a fixed rate whatever the answers
// take (an open model, by github.com/tsenart/vegeta), with accounts and keys of its own, and fails
// where answers are wrong or slow.
//
//	go run ./bench/load                                each scenario for 30 seconds after 10 of ramp
//	go run ./bench/load -only TokenConsume -rate 200   one, faster
//	go run ./bench/load -soak 1h                       all at once, and what grows meanwhile
//	go run ./bench/load -write docs/perf/load.md       keep the report too
//
// Only the statuses that a scenario means to get are good: a 401 or a 5xx is a failure.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/retry"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/stacktest"
)

type options struct {
	only         string
	rate         float64
	ramp, window time.Duration
	p95          time.Duration
	failures     float64
	soak         time.Duration
	users        int
}

func main() {
	var o options
	flag.StringVar(&o.only, "only", "", "names of scenarios, with commas between; empty: all")
	flag.Float64Var(&o.rate, "rate", 50, "requests a second of a scenario; logins, whose passwords are hashed, are a tenth")
	flag.DurationVar(&o.ramp, "ramp", 10*time.Second, "how long the rate rises before it is measured")
	flag.DurationVar(&o.window, "for", 30*time.Second, "how long each scenario is measured")
	flag.DurationVar(&o.p95, "p95", 100*time.Millisecond, "bound of the 95th percentile; logins may take five times as long")
	flag.Float64Var(&o.failures, "failures", 0.001, "bound of the share of answers that are not good")
	flag.DurationVar(&o.soak, "soak", 0, "instead, run all scenarios at once for so long, and fail if memory, goroutines or descriptors grow")
	flag.IntVar(&o.users, "users", 50, "accounts that call")
	keep := flag.String("write", "", "file that the report replaces once it is whole")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var report bytes.Buffer
	err := run(ctx, io.MultiWriter(os.Stdout, &report), o)
	if err == nil && *keep != "" {
		err = os.WriteFile(*keep, report.Bytes(), 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench/load:", err)
		os.Exit(1)
	}
}

// run starts a product of its own, waits until it is ready, and loads it.
func run(ctx context.Context, out io.Writer, o options) error {
	all := slices.DeleteFunc(scenarios(o), func(s scenario) bool {
		return o.only != "" && !slices.Contains(strings.Split(o.only, ","), s.name)
	})
	if len(all) == 0 {
		return fmt.Errorf("-only %q names no scenario", o.only)
	}
	dir, err := os.MkdirTemp("", "bench-load")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o711); err != nil { // Postgres may run as another user below it
		return err
	}
	fmt.Fprintln(os.Stderr, "building leaky and starting the whole product ...")
	stack, err := stacktest.New(ctx, dir, 2)
	if err != nil {
		return err
	}
	defer func() { _, _ = stack.Leaky(context.WithoutCancel(ctx), "down") }()
	if said, err := stack.Up(ctx); err != nil {
		return fmt.Errorf("%w\n%s", err, said)
	}
	l := &load{stack: stack, o: o}
	if err := l.open(ctx); err != nil {
		return err
	}
	describe(ctx, out, o)
	if o.soak > 0 {
		return l.soak(ctx, out, all)
	}
	return l.each(ctx, out, all)
}

// pool is how many tokens each account has of a provider: more than it can use.
const pool = 1_000_000

// open makes the accounts, and buys each of them what they use.
func (l *load) open(ctx context.Context) error {
	for range l.o.users {
		one, err := l.stack.NewAccount(ctx, "VAST")
		if err != nil {
			return err
		}
		order := map[string]any{"userId": one.ID, "provider": "openai", "tokens": pool}
		if err := l.stack.Must(ctx, http.StatusAccepted, http.MethodPost, "/api/v1/tokens/purchase", one.Key, order, nil); err != nil {
			return err
		}
		l.who = append(l.who, one)
	}
	for _, one := range l.who {
		err := retry.Policy{First: 100 * time.Millisecond}.Do(ctx, func(ctx context.Context) error {
			var quota struct{ RemainingTokens int64 }
			path := "/api/v1/tokens/quota?provider=openai&userId=" + one.ID
			if _, err := l.stack.Call(ctx, http.MethodGet, path, one.Key, nil, &quota); err != nil {
				return err
			}
			if quota.RemainingTokens < pool {
				return errors.New("a purchase has not ended")
			}
			return nil
		}, nil)
		if err != nil {
			return err
		}
	}
	return nil
}

// describe says what was loaded, on what, and when.
func describe(ctx context.Context, out io.Writer, o options) {
	commit, err := exec.CommandContext(ctx, "git", "describe", "--tags", "--always", "--dirty").Output()
	if err != nil {
		commit = []byte("unknown") // an archive without its history
	}
	fmt.Fprintf(out, "# Load of %s, %s\n\nWritten by `make load`: %d accounts, an open model, everything on one machine of %d cores, the load\nand the providers' stubs included.\n\n",
		strings.TrimSpace(string(commit)), time.Now().UTC().Format("2006-01-02 15:04 MST"), o.users, runtime.NumCPU())
}

// each measures the scenarios one after another, and tells all that are too slow or fail too often.
func (l *load) each(ctx context.Context, out io.Writer, all []scenario) error {
	fmt.Fprint(out, head)
	var wrong []error
	for _, s := range all {
		l.attack(ctx, s, rising(s.rate, l.o.ramp), l.o.ramp)
		got := l.attack(ctx, s, steady(s.rate), l.o.window)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		fmt.Fprintln(out, got.row(s))
		wrong = append(wrong, got.judge(s, l.o))
	}
	return errors.Join(wrong...)
}

// stateBytes is what the stores, spools and logs take on the disk.
func (l *load) stateBytes() (sum int64) {
	_ = filepath.WalkDir(l.stack.Dir, func(_ string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return nil // files come and go
		}
		if info, err := e.Info(); err == nil {
			sum += info.Size()
		}
		return nil
	})
	return sum
}
