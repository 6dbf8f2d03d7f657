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
	Name   string `arg:"" predictor:"part" help:"Part, as leaky ps names it, or supervisor."`
	Follow bool   `short:"f" help:"Go on as lines come."`
	Lines  int    `short:"n" default:"100" help:"How many of the last lines."`
}

// Help shows how it is used.
func (logsCommand) Help() string {
	return `Works whether or not the part runs. A log keeps at most 10 MB, and the 10 MB before them in NAME.log.1.

Examples:

    leaky logs ratelimit
    leaky logs -f -n 0 meter
    leaky logs supervisor        # starts, crashes and stops of all parts`
}

// Run prints the log.
func (l logsCommand) Run(ctx context.Context) error {
	known := append(topology.Names(topology.Parts()), "supervisor")
	if service, _ := config.Instance(l.Name); !slices.Contains(known, service) {
		return supervisor.UnknownPart(l.Name, known)
	}
	if l.Lines < 0 {
		return fmt.Errorf("-n %d: must not be negative", l.Lines)
	}
	dir := stack.LogDir(config.StateDir(os.Getenv))
	err := supervisor.Tail(ctx, os.Stdout, supervisor.LogPath(dir, l.Name), l.Lines, l.Follow)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s has no log in %s: it never ran here", l.Name, dir)
	}
	return err
}
