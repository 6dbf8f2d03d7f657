package main

import (
	"context"
	"os"

	"github.com/alecthomas/kong"

	"github.com/leaky-tokens/leaky-tokens/ratelimit/dropin"
)

// alone is the name under which this program is the limiter alone.
const alone = "ratelimit"

// ratelimitCommand stands in the list of commands. Its settings are read by a parser of their
// own (runAlone): they come from variables like PORT, which mean nothing to other commands.
type ratelimitCommand struct {
	Settings []string `arg:"" optional:"" passthrough:"" help:"See leaky ratelimit --help."`
}

// Run is never reached: main runs the command before others are parsed.
func (ratelimitCommand) Run() error { return nil }

// Help shows how it is used.
func (ratelimitCommand) Help() string { return aboutAlone }

const aboutAlone = `The limiter alone: no Postgres, no NATS, no Envoy of ours. It reads the environment variables of envoyproxy/ratelimit, its files or its xDS, and listens on its ports; started under the name "ratelimit" it does so too.

Examples:

    REDIS_SOCKET_TYPE=tcp REDIS_URL=127.0.0.1:6379 RUNTIME_ROOT=/etc RUNTIME_SUBDIRECTORY=ratelimit leaky ratelimit
    leaky ratelimit --redis-socket-type=tcp --redis-url=127.0.0.1:6379 --runtime-root=/etc --runtime-subdirectory=ratelimit`

// aloneCommand is what runAlone parses.
type aloneCommand struct {
	dropin.Settings `embed:""`
}

// Help shows how it is used.
func (aloneCommand) Help() string { return aboutAlone }

// Run serves until it is told to stop.
func (a *aloneCommand) Run(ctx context.Context) error {
	d, err := dropin.New(a.Settings, os.Environ())
	if err != nil {
		return err
	}
	return d.Run(ctx)
}

// runAlone parses the settings and runs the limiter.
func runAlone(ctx context.Context, args []string) {
	var a aloneCommand
	k := kong.Must(&a, kong.Name("leaky "+alone), kong.BindTo(ctx, (*context.Context)(nil)))
	command, err := k.Parse(args)
	if err != nil {
		refuse(k, err)
	}
	command.FatalIfErrorf(a.Run(ctx))
}
