package main

import (
	"context"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/leaky-tokens/leaky-tokens/cmd/leaky/serve"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

type serveCommand struct {
	Name string `arg:"" predictor:"served" help:"Which: ${served}; ratelimit-2 is the first of services.ratelimit.replicas."`
}

// served is the variable of serveCommand's help.
func served() kong.Vars {
	return kong.Vars{"served": strings.Join(topology.Names(topology.Having(topology.Part.Served)), ", ")}
}

// Run starts the named service and blocks until it is told to stop.
func (s serveCommand) Run(ctx context.Context, c *cli) error { return serve.Run(ctx, s.Name, c.Config) }
