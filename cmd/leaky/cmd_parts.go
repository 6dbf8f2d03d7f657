package main

import (
	"context"
	"fmt"
	"os"
	"text/tabwriter"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/local/binaries"
)

// partsCommand is `leaky parts`: the programs that are not ours.
type partsCommand struct {
	Fetch partsFetch `cmd:"" help:"Fetch the missing parts into the cache folder, checked against their pinned hashes."`
	List  partsList  `cmd:"" help:"List the parts: version, where from, where they are."`
}

type partsFetch struct {
	Names []string `arg:"" optional:"" help:"Which (envoy, postgres, redis, clickhouse); all that no LEAKY_..._URL replaces when none is named."`
}

// Run fetches what is missing; what is there already costs a few milliseconds.
func (c partsFetch) Run(ctx context.Context) error {
	store, err := partsStore()
	if err != nil {
		return err
	}
	return store.Ensure(ctx, c.Names...)
}

type partsList struct{}

// Run prints one line per part.
func (partsList) Run() error {
	store, err := partsStore()
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "PART\tVERSION\tFROM\tDOWNLOAD\tINSTEAD\tWHERE")
	for _, p := range store.List() {
		where := p.Path
		switch {
		case p.Bytes == 0:
			where = "no build for this platform"
		case where == "":
			where = "not fetched"
		}
		fmt.Fprintf(w, "%s\t%s\t%s %s %s\t%.1f MB\t%s\t%s\n", p.Name, p.Version, p.Kind, p.Package, p.Release, float64(p.Bytes)/1e6, p.Instead,
			where)
	}
	return w.Flush()
}

func partsStore() (*binaries.Store, error) {
	return binaries.New(binaries.Config{CacheDir: config.CacheDir(os.Getenv), Progress: os.Stderr})
}
