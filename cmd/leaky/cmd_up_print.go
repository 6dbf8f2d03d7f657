package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/local/stack"
	"github.com/leaky-tokens/leaky-tokens/internal/local/supervisor"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// awaitReady prints each part as it becomes ready and returns when all are. A supervisor
// that ends before that is an error with the end of its log.
func awaitReady(ctx context.Context, out io.Writer, logDir string, begun time.Time, ended <-chan error) (supervisor.Overview, error) {
	seen := map[string]supervisor.State{}
	c := control()
	var last supervisor.Overview
	for {
		if o, err := c.Status(ctx); err == nil {
			last = o
			if o.Ready() && len(seen) == 0 { // was up before we came
				return o, nil
			}
			for _, p := range o.Parts {
				report(out, seen, p, begun)
			}
			if o.Ready() {
				return o, nil
			}
		}
		select {
		case err := <-ended:
			return last, fmt.Errorf("the supervisor ended: %w\n%s", err, tail(logDir, "supervisor", 5))
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return last, errors.New("interrupted; the stack goes on starting in the background (leaky ps, leaky down)")
			}
			explain(out, last, logDir)
			return last, errors.New("the stack did not become ready in time; it keeps trying (leaky ps, leaky logs NAME, leaky down)")
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// report prints a line when the part's state is news.
func report(out io.Writer, seen map[string]supervisor.State, p supervisor.Status, begun time.Time) {
	before := seen[p.Name]
	if before == p.State {
		return
	}
	switch p.State {
	case supervisor.StateReady:
		fmt.Fprintf(out, "  %-12s ready    %5.1f s   %s\n", p.Name, time.Since(begun).Seconds(), p.Address)
	case supervisor.StateExternal:
		fmt.Fprintf(out, "  %-12s elsewhere          %s\n", p.Name, p.Address)
	case supervisor.StateBackoff:
		fmt.Fprintf(out, "  %-12s %s; trying again (leaky logs %s)\n", p.Name, p.Message, p.Name)
	case supervisor.StateStopped:
		fmt.Fprintf(out, "  %-12s stopped (leaky start %s)\n", p.Name, p.Name)
	default:
		if before == supervisor.StateBackoff { // a crash loop is told once
			return
		}
	}
	seen[p.Name] = p.State
}

// explain says what each part that is not up waits for or died of.
func explain(out io.Writer, o supervisor.Overview, logDir string) {
	fmt.Fprintln(out, "\nNot ready:")
	for _, p := range o.Parts {
		if p.Up() {
			continue
		}
		fmt.Fprintf(out, "  %-12s %s %s\n", p.Name, p.State, p.Message)
		if p.Restarts > 0 || p.State == supervisor.StateBackoff {
			fmt.Fprintln(out, tail(logDir, p.Name, 3))
		}
	}
}

// tail is the end of a log, indented, for an error message.
func tail(logDir, part string, lines int) string {
	var text bytes.Buffer
	if err := supervisor.Tail(context.Background(), &text, supervisor.LogPath(logDir, part), lines, false); err != nil {
		return "    (" + err.Error() + ")"
	}
	return "    " + strings.ReplaceAll(strings.TrimSpace(text.String()), "\n", "\n    ")
}

// describe tells where everything listens and how to get a key; it knows no key itself.
func describe(out io.Writer, plan *stack.Plan, o supervisor.Overview, dir string, took time.Duration) {
	fmt.Fprintf(out, "\nLeaky Tokens is up: %d parts in %.1f s.\n\n", len(o.Parts), took.Seconds())
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	gateway := plan.Gateway()
	fmt.Fprintf(w, "  gateway\t%s\tOpenAI SDK: OPENAI_BASE_URL=%s/v1\n", gateway, gateway)
	for _, p := range o.Parts {
		if p.Name == topology.Envoy {
			continue
		}
		note := ""
		switch p.State {
		case supervisor.StateExternal:
			note = "elsewhere"
		case supervisor.StateStopped:
			note = "stopped"
		}
		fmt.Fprintf(w, "  %s\t%s\t%s\n", p.Name, p.Address, note)
	}
	fmt.Fprintf(w, "  data and logs\t%s\t\n", dir)
	if _, err := os.Stat(stack.AdminFile(dir)); err == nil {
		fmt.Fprintf(w, "  first administrator\t%s\t\n", stack.AdminFile(dir))
	}
	w.Flush()
	fmt.Fprintf(out, `
Get a key (the first answer holds token and userId, the second the key):

  curl -s %[1]s/api/v1/auth/register -H 'content-type: application/json' \
    -d '{"username":"ada","email":"ada@example.com","password":"one of your own"}'
  curl -s %[1]s/api/v1/auth/api-keys -H 'content-type: application/json' \
    -H "authorization: Bearer $TOKEN" -d "{\"userId\":\"$USER_ID\",\"name\":\"first\"}"

`+"`leaky ps` lists the parts, `leaky env` prints every URL, `leaky down` stops them.\n", gateway)
}
