package main

import (
	"context"
	"os"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/local/stack"
)

type probeCommand struct {
	Name string        `arg:"" predictor:"served" help:"envoy, or which: ${served}."`
	Wait time.Duration `default:"2s" help:"How long it may take to answer."`
}

// Help shows where it is used.
func (probeCommand) Help() string {
	return `The health check of a container that has no shell and no curl: it asks where leaky.yaml says that the service listens, with a certificate where one is wanted.

Examples:

    leaky probe identity && echo ready
    leaky probe envoy --wait 500ms`
}

// Run asks once.
func (p probeCommand) Run(ctx context.Context, c *cli) error {
	cfg, err := config.Load(c.Config, os.Getenv)
	if err != nil {
		return err
	}
	plan, err := stack.New(stack.Config{Leaky: cfg, StateDir: config.StateDir(os.Getenv), Getenv: os.Getenv})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, p.Wait)
	defer cancel()
	return plan.Probe(ctx, p.Name)
}
