package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/leaky-tokens/leaky-tokens/internal/settings"
	"github.com/leaky-tokens/leaky-tokens/xds"
	"github.com/leaky-tokens/leaky-tokens/xds/diff"
	"github.com/leaky-tokens/leaky-tokens/xds/snapshot"
)

type diffCommand struct {
	Output string `short:"o" enum:"text,json,short" default:"text" help:"Format: ${enum}; short names the resources only."`
	File   string `arg:"" optional:"" type:"path" help:"leaky.yaml to compare; the running one as it is now when not given."`
	From   int    `help:"Version to compare with, in place of the live one." placeholder:"NUMBER"`
	To     int    `help:"Version to compare, in place of a file." placeholder:"NUMBER"`
}

// Help shows how it is used.
func (diffCommand) Help() string {
	return `Shows what a push would change in Envoy, resource by resource: + is new, - goes, ~ changes. Routes are told one by one. What secrets hold is not told.

Examples:

    leaky diff new.yaml
    leaky diff --from 11 --to 12
    leaky diff -o short`
}

// Run prints the changes.
func (k diffCommand) Run(ctx context.Context, c *cli) error {
	p, err := openControlPlane(ctx, c)
	if err != nil {
		return err
	}
	defer p.close()
	from, to, err := k.sides(ctx, p)
	if err != nil {
		return err
	}
	changes, err := diff.Between(from, to)
	if err != nil {
		return err
	}
	if k.Output == "json" {
		return printJSON(os.Stdout, append([]diff.Change{}, changes...))
	}
	for _, change := range changes {
		fmt.Printf("%s %s %s\n", change.Sign(), change.Type, change.Name)
	}
	for _, change := range changes {
		if k.Output == "text" {
			fmt.Print("\n", change.Unified())
		}
	}
	if len(changes) == 0 {
		fmt.Println("Nothing changes in Envoy.")
	}
	return nil
}

// sides are what is compared.
func (k diffCommand) sides(ctx context.Context, p *controlPlane) (from, to *snapshot.Snapshot, err error) {
	live, err := p.status(ctx)
	if err != nil {
		return nil, nil, err
	}
	before, err := k.before(ctx, p, live)
	if err != nil {
		return nil, nil, err
	}
	after := map[string]string{}
	switch {
	case k.To != 0:
		after, err = p.textsOf(ctx, k.To, live.Path)
	case k.File != "":
		after, err = textsAt(k.File, live.Path)
	case live.Path != "":
		after, err = textsAt(live.Path, live.Path)
	}
	if err != nil {
		return nil, nil, err
	}
	if from, err = p.preview(live.Path, before); err == nil {
		to, err = p.preview(live.Path, after)
	}
	return from, to, err
}

// before are the texts of --from, or of what is live.
func (k diffCommand) before(ctx context.Context, p *controlPlane, live xds.Status) (map[string]string, error) {
	if k.From != 0 {
		return p.textsOf(ctx, k.From, live.Path)
	}
	if live.Path == "" {
		return nil, nil
	}
	all, err := p.versions(ctx)
	if err != nil {
		return nil, err
	}
	for _, v := range all {
		if v.Hash == live.Content {
			return p.textsOf(ctx, v.Number, live.Path)
		}
	}
	return nil, errors.New("the history does not have what is live yet; try again in a moment, or name a version with --from")
}

func (p *controlPlane) textsOf(ctx context.Context, number int, path string) (map[string]string, error) {
	_, files, err := p.version(ctx, number)
	return files.At(path), err
}

func (p *controlPlane) preview(path string, texts map[string]string) (*snapshot.Snapshot, error) {
	set, err := settings.Of(path, texts, os.Getenv)
	if err != nil {
		return nil, err
	}
	_, snap, err := xds.Preview(set, p.dir)
	return snap, err
}
