package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/local/supervisor"
)

type psCommand struct {
	Output string `short:"o" enum:"table,json" default:"table" help:"Format: ${enum}."`
}

// Help shows how it is used.
func (psCommand) Help() string {
	return `RSS counts the pages of the one binary in each of its processes again; PSS shares them out, so its sum is what the machine gives.

Examples:

    leaky ps
    leaky ps -o json | jq '.[] | select(.state != "ready")'`
}

// Run prints the parts in start order.
func (p psCommand) Run(ctx context.Context) error {
	o, err := control().Status(ctx)
	if err != nil {
		return err
	}
	if p.Output == "json" {
		encoder := json.NewEncoder(os.Stdout)
		encoder.SetIndent("", "  ")
		return encoder.Encode(o.Parts)
	}
	return printParts(os.Stdout, o.Parts, time.Now())
}

func printParts(out io.Writer, parts []supervisor.Status, now time.Time) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "PART\tSTATE\tPID\tRESTARTS\tSINCE\tRSS\tPSS\tADDRESS\t")
	for _, p := range parts {
		pid := "-"
		if p.PID != 0 {
			pid = fmt.Sprint(p.PID)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\t%s\t%s\t%s\n", p.Name, p.State, pid, p.Restarts, age(now.Sub(p.Since)),
			megabytes(p.RSS), megabytes(p.PSS), p.Address, p.Message)
	}
	return w.Flush()
}

func megabytes(n int64) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f MB", float64(n)/1e6)
}

// age rounds to what one wants to know.
func age(d time.Duration) string {
	switch {
	case d < time.Minute:
		return d.Truncate(time.Second).String()
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd", int(d.Hours())/24)
}

type downCommand struct{}

// Help says what stays.
func (downCommand) Help() string {
	return "Stops every part in order and the supervisor with them. Data stays in the state folder; nothing running is no error. A part that does not end within ten seconds is killed.\n\nExamples:\n\n    leaky down"
}

// Run returns when no process is left.
func (downCommand) Run(ctx context.Context) error {
	was, err := control().Down(ctx)
	switch {
	case err != nil:
		return err
	case was:
		fmt.Println("Stopped. Data stays in", config.StateDir(os.Getenv))
	default:
		fmt.Println("Nothing is running.")
	}
	return nil
}

// readyTimeout is how long start and restart wait for one part.
const readyTimeout = 30 * time.Second

type startCommand struct {
	Name string `arg:"" predictor:"part" help:"Part, as leaky ps names it."`
}

// Help shows how it is used.
func (startCommand) Help() string {
	return "A further process of a service needs no line of leaky.yaml: it finds free ports, says that it is there, and Envoy calls it. `leaky stop` ends and forgets it.\n\nExamples:\n\n    leaky start meter\n    leaky start ratelimit-3"
}

// Run starts the part.
func (s startCommand) Run(ctx context.Context) error {
	return untilReady(ctx, s.Name, (*supervisor.Client).Start)
}

type stopCommand struct {
	Name string `arg:"" predictor:"part" help:"Part, as leaky ps names it."`
}

// Help shows how it is used.
func (stopCommand) Help() string { return "Examples:\n\n    leaky stop meter" }

// Run stops the part.
func (s stopCommand) Run(ctx context.Context) error {
	if _, err := control().Stop(ctx, s.Name); err != nil {
		return err
	}
	fmt.Println(s.Name, "is stopped; start it with: leaky start", s.Name)
	return nil
}

type restartCommand struct {
	Name string `arg:"" predictor:"part" help:"Part, as leaky ps names it."`
}

// Help shows how it is used.
func (restartCommand) Help() string {
	return "A binary built meanwhile takes effect.\n\nExamples:\n\n    go build -o bin/leaky ./cmd/leaky && bin/leaky restart ratelimit"
}

// Run restarts the part.
func (s restartCommand) Run(ctx context.Context) error {
	return untilReady(ctx, s.Name, (*supervisor.Client).Restart)
}

type killCommand struct {
	Name string `arg:"" predictor:"part" help:"Part, as leaky ps names it."`
}

// Help shows how it is used.
func (killCommand) Help() string {
	return "Shows that nothing is lost when a part dies at the worst moment.\n\nExamples:\n\n    leaky kill ratelimit && leaky ps"
}

// Run kills the part.
func (s killCommand) Run(ctx context.Context) error {
	if _, err := control().Kill(ctx, s.Name); err != nil {
		return err
	}
	fmt.Println(s.Name, "is killed; it starts again by itself")
	return nil
}

// untilReady does one operation and waits until the part serves.
func untilReady(ctx context.Context, name string, do func(*supervisor.Client, context.Context, string) (supervisor.Status, error)) error {
	c := control()
	if _, err := do(c, ctx, name); err != nil {
		return err
	}
	waiting, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	s, err := c.WaitReady(waiting, name)
	if errors.Is(waiting.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("%w (leaky logs %s)", err, name)
	}
	if err != nil {
		return err
	}
	fmt.Printf("%s is ready (pid %d)\n", s.Name, s.PID)
	return nil
}
