// Command leaky is the whole of Leaky Tokens in one binary: every service, the
// supervisor that runs them without containers, and the tools around them.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"
)

type cli struct {
	Config string `help:"Path of leaky.yaml; the built-in one when empty." env:"LEAKY_CONFIG" type:"path"`

	Serve serveCommand `cmd:"" help:"Run one service in the foreground."`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var c cli
	command := kong.Parse(&c, kong.Name("leaky"), kong.Description("Meter and limit LLM tokens with Envoy."),
		kong.UsageOnError(), kong.BindTo(ctx, (*context.Context)(nil)), kong.Bind(&c))
	command.FatalIfErrorf(command.Run())
}
