package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/local/stack"
	"github.com/leaky-tokens/leaky-tokens/internal/local/supervisor"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

type logsCommand struct {
	Name    string `arg:"" optional:"" predictor:"part" help:"Part, as leaky ps names it, or supervisor."`
	Follow  bool   `short:"f" help:"Go on as lines come."`
	Lines   int    `short:"n" default:"100" help:"How many of the last lines."`
	Request string `placeholder:"ID" help:"Lines of all parts that name this id: the x-request-id of an answer."`
}

// Help shows how it is used.
func (logsCommand) Help() string {
	return `Works whether or not the part runs. A log keeps at most 10 MB, and the 10 MB before them in NAME.log.1.

Examples:

    leaky logs ratelimit
    leaky logs -f -n 0 meter
    leaky logs supervisor        # starts, crashes and stops of all parts
    leaky logs --request 6f1c…   # one call through all parts

At logs.level debug (leaky.yaml, followed while parts run) each part says one line for each call;
else only what went wrong with it.`
}

// Run prints the log.
func (l logsCommand) Run(ctx context.Context) error {
	dir := stack.LogDir(config.StateDir(os.Getenv))
	switch {
	case l.Request != "" && l.Name != "":
		return errors.New("--request looks at all parts: leave the name out")
	case l.Request != "":
		return l.trace(ctx, dir)
	case l.Name == "":
		return errors.New("which part? leaky ps lists them; --request ID looks at all of them for one call")
	}
	known := append(topology.Names(topology.Parts()), "supervisor")
	if service, _ := config.Instance(l.Name); !slices.Contains(known, service) {
		return supervisor.UnknownPart(l.Name, known)
	}
	if l.Lines < 0 {
		return fmt.Errorf("-n %d: must not be negative", l.Lines)
	}
	err := supervisor.Tail(ctx, os.Stdout, supervisor.LogPath(dir, l.Name), l.Lines, l.Follow)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s has no log in %s: it never ran here", l.Name, dir)
	}
	return err
}

// leastID keeps an id from being in every line.
const leastID = 8

// trace prints the lines about one call.
func (l logsCommand) trace(ctx context.Context, dir string) error {
	if len(l.Request) < leastID {
		return fmt.Errorf("--request %q: an id has %d characters at least", l.Request, leastID)
	}
	lines, err := supervisor.Trace(ctx, os.Stdout, dir, l.Request, l.Follow)
	if err == nil && lines == 0 {
		return fmt.Errorf("no part says anything of %s: set logs.level to debug in leaky.yaml, and call again", l.Request)
	}
	return err
}
