package main

import (
	"context"
	"fmt"
	"os"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/local/binaries"
	"github.com/leaky-tokens/leaky-tokens/internal/local/stack"
)

// partsCommand is `leaky parts`: the programs that are not ours.
type partsCommand struct {
	Fetch partsFetch `cmd:"" help:"Fetch the missing parts into the cache folder, checked against their pinned hashes."`
	List  partsList  `cmd:"" help:"List the parts: version, where from, where they are."`
}

type partsFetch struct {
	Names []string `arg:"" optional:"" help:"Which (envoy, postgres, redis, clickhouse, prometheus, alertmanager); all that no LEAKY_..._URL replaces when none is named."`
}

// Run fetches what is missing; what is there already costs a few milliseconds.
func (c partsFetch) Run(ctx context.Context) error {
	store, err := partsStore()
	if err != nil {
		return err
	}
	return store.Ensure(ctx, c.Names...)
}

type partsList struct{ output }

// partLine is a part as JSON.
type partLine struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	From    string `json:"from"` // registry
	Package string `json:"package"`
	Release string `json:"release"`
	Bytes   int64  `json:"bytes"` // of the download; 0: there is no build for this platform
	Instead string `json:"instead,omitzero"`
	Path    string `json:"path,omitzero"` // empty: not fetched
}

// Run prints one line per part.
func (c partsList) Run() error {
	store, err := partsStore()
	if err != nil {
		return err
	}
	parts := store.List()
	rows, lines := make([][]string, len(parts)), make([]partLine, len(parts))
	for i, p := range parts {
		where := p.Path
		switch {
		case p.Bytes == 0:
			where = "no build for this platform"
		case where == "":
			where = "not fetched"
		}
		lines[i] = partLine{Name: p.Name, Version: p.Version, From: string(p.Kind), Package: p.Package, Release: p.Release, Bytes: p.Bytes,
			Instead: p.Instead, Path: p.Path}
		rows[i] = []string{p.Name, p.Version, fmt.Sprintf("%s %s %s", p.Kind, p.Package, p.Release), fmt.Sprintf("%.1f MB", float64(p.Bytes)/1e6),
			p.Instead, where}
	}
	return c.print(os.Stdout, lines, []string{"PART", "VERSION", "FROM", "DOWNLOAD", "INSTEAD", "WHERE"}, rows)
}

func partsStore() (*binaries.Store, error) {
	return binaries.New(binaries.Config{CacheDir: config.CacheDir(os.Getenv), Progress: os.Stderr})
}

// leaveOut takes monitors off the plan whose programs are not on this machine.
func leaveOut(plan *stack.Plan) error {
	programs, err := partsStore()
	if err != nil {
		return err
	}
	plan.Without(programs.Lacking()...)
	return nil
}
