package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"time"

	"golang.org/x/term"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/local/demo"
)

// demoCommand is `leaky demo`: load through the real gateway, then a verdict on the books.
type demoCommand struct {
	For       time.Duration `help:"How long the clients ask." default:"60s"`
	Clients   int           `help:"Clients at once, shared by three accounts of different tiers; one in ten hangs up in the middle of its streams." default:"64"`
	Seed      uint64        `help:"Makes the clients ask the same again; 0: a fresh one, which is printed."`
	Drain     time.Duration `help:"Longest wait for the books to be complete afterwards." default:"30s"`
	Purchases bool          `help:"Instead, buy tokens, spend them until a call is refused, top up, and spend on." xor:"kind"`
	Rude      bool          `help:"Clients and providers misbehave: they leave at [DONE], before the first byte and in the middle, hang, refuse, fail, cut, tell nothing, and send pictures." xor:"kind"`
	Tokens    int64         `help:"How many tokens are bought each time, with --purchases." default:"3000"`
	Kill      []demo.Break  `help:"Kill a part while the clients ask, such as redis@10s, or redis@10s+3s to keep it down for 3 s." placeholder:"PART@WHEN[+DOWN]" xor:"kind"`
	Output    string        `short:"o" help:"What to print in the end: ${enum}." enum:"text,json" default:"text"`
}

// Help shows how it is used.
func (demoCommand) Help() string {
	return `Exit code 0 only if no account went over its limit and the stubs' own counts, Redis and ClickHouse agree request by request. The stack must be up.

A part that is killed (--kill) comes back by itself. While Redis is away each route does what limits.outage
says, and the verdict holds what was admitted meanwhile against its bound: nothing (closed), what was
leased before (lease), or none (open).

With --rude the books have to equal the stubs' count for every call whose usage was told, and estimates
have to charge nine tenths of what was served, in sum.

With --purchases one account buys a small pool, spends it until it is refused with credit_balance_exhausted,
and is admitted again after a top-up; then Redis, the ledger, ClickHouse, the stub and the payment have to agree, call by call.

Examples:

    leaky demo
    leaky demo --for 15s
    leaky demo --for 30s --kill redis@10s+5s --kill ratelimit-2@20s
    leaky demo --rude --for 20s
    leaky demo --purchases
    leaky demo --seed 4711 -o json | jq .tokensOverLimit`
}

// errBooks makes the command end with exit code 1; the verdict has told why.
var errBooks = errors.New("demo: a limit was exceeded, or the books do not agree")

// Run exits with 0 only if nothing went over a limit and the books agree.
func (d demoCommand) Run(ctx context.Context, c *cli) error {
	cfg, err := config.Load(c.Config, os.Getenv)
	if err != nil {
		return err
	}
	run, err := demo.Stack(cfg, config.StateDir(os.Getenv))
	if err != nil {
		return err
	}
	run.For, run.Clients, run.Seed, run.Drain, run.ChunkDelay = d.For, d.Clients, d.Seed, d.Drain, 5*time.Millisecond
	run.Breaks, run.Rude = d.Kill, d.Rude
	if run.Seed == 0 {
		run.Seed = rand.Uint64N(1 << 32)
	}
	run.Progress = os.Stderr
	if fd := int(os.Stderr.Fd()); term.IsTerminal(fd) {
		run.Width = func() int {
			width, _, err := term.GetSize(fd)
			if err != nil {
				return 80
			}
			return width
		}
	}
	dm, err := demo.New(run)
	if err != nil {
		return err
	}
	if d.Purchases {
		verdict, err := dm.Purchases(ctx, d.Tokens)
		return d.end(verdict, verdict.OK, err)
	}
	verdict, err := dm.Run(ctx)
	return d.end(verdict, verdict.OK, err)
}

// end prints a verdict, unless there is none, and gives the command's error.
func (d demoCommand) end(v verdict, ok bool, err error) error {
	if err != nil {
		return err
	}
	if err := d.print(v); err != nil {
		return err
	}
	if !ok {
		return errBooks
	}
	return nil
}

// verdict is what a demo found.
type verdict interface{ Print(to io.Writer) error }

func (d demoCommand) print(v verdict) error {
	if d.Output == "json" {
		enc := json.NewEncoder(os.Stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	}
	return v.Print(os.Stdout)
}
