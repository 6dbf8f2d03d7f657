package main

import (
	"github.com/alecthomas/kong"
	kongcompletion "github.com/jotaen/kong-completion"
	"github.com/posener/complete"

	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

type completionCommand struct{ kongcompletion.Completion }

// Help shows how a shell gets it.
func (completionCommand) Help() string {
	return `Prints the line for the shell's init file; with -c what that line runs. bash, zsh and fish are known.

Examples:

    leaky completion zsh
    source <(leaky completion -c bash)`
}

// completeIn answers a shell that asks how a command line may go on, and then ends the process.
// Arguments whose predictor is "part" are the parts of the stack, "served" those of `leaky serve`.
func completeIn(k *kong.Kong) {
	kongcompletion.Register(k,
		kongcompletion.WithPredictor("part", complete.PredictSet(topology.Names(topology.Parts())...)),
		kongcompletion.WithPredictor("served", complete.PredictSet(topology.Names(topology.Having(topology.Part.Served))...)))
}
