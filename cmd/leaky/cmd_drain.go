package main

import (
	"context"
	"os"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/local/stack"
)

type drainCommand struct {
	First time.Duration `default:"5s" help:"How long to serve on first, until load balancers have heard that this Envoy ends."`
	Wait  time.Duration `default:"1m" help:"How long requests in progress may take; then the end of Envoy cuts them."`
}

// Help shows where it is used.
func (drainCommand) Help() string {
	return `The hook before a container with Envoy ends. Envoy takes no new connections, and what is in progress comes to its end. It asks over the admin socket of the state folder that both share.

Examples:

    leaky drain
    leaky drain --first 0s --wait 10m`
}

// Run waits, closes the listeners and waits for requests in progress.
func (d drainCommand) Run(ctx context.Context, c *cli) error {
	cfg, err := config.Load(c.Config, os.Getenv)
	if err != nil {
		return err
	}
	plan, err := stack.New(stack.Config{Leaky: cfg, StateDir: config.StateDir(os.Getenv), Getenv: os.Getenv})
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d.First):
	}
	ctx, cancel := context.WithTimeout(ctx, d.Wait)
	defer cancel()
	return plan.DrainEnvoy(ctx)
}
