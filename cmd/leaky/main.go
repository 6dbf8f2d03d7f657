// Command leaky is the whole of Leaky Tokens in one binary: every service, the
// supervisor that runs them without containers, and the tools around them.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/alecthomas/kong"
	_ "golang.org/x/crypto/x509roots/fallback" // for machines without certificates of their own, as in our image
)

// version is set by the linker (see the Makefile).
var version = "dev"

type cli struct {
	Config string `help:"Path of leaky.yaml; the built-in one when empty." env:"LEAKY_CONFIG" placeholder:"FILE"`

	Up      upCommand      `cmd:"" group:"The stack" help:"Start everything in the background and prove it with one real call."`
	Down    downCommand    `cmd:"" group:"The stack" help:"Stop everything; data stays."`
	Ps      psCommand      `cmd:"" group:"The stack" help:"List the parts and how they are."`
	Slow    slowCommand    `cmd:"" group:"The stack" help:"Say whom the gateway waits for, and what is slower than it should be."`
	Status  statusCommand  `cmd:"" group:"The stack" help:"Say whether all is well; the exit code tells."`
	Logs    logsCommand    `cmd:"" group:"The stack" help:"Print the log of one part."`
	Start   startCommand   `cmd:"" group:"The stack" help:"Start a stopped part and wait until it is ready."`
	Stop    stopCommand    `cmd:"" group:"The stack" help:"Stop one part; it stays down until started."`
	Restart restartCommand `cmd:"" group:"The stack" help:"Stop one part gracefully, start it again, wait until it is ready."`
	Kill    killCommand    `cmd:"" group:"The stack" help:"End one part with SIGKILL; it starts again like after any crash."`
	Open    openCommand    `cmd:"" group:"The stack" help:"List the pages there are to look at, or open one."`
	Env     envCommand     `cmd:"" group:"The stack" help:"Print every URL as shell exports."`
	Parts   partsCommand   `cmd:"" group:"The stack" help:"Fetch or list the programs that are not ours."`

	Diff     diffCommand     `cmd:"" group:"Configuration" help:"Show what a leaky.yaml would change in Envoy, resource by resource."`
	Push     pushCommand     `cmd:"" group:"Configuration" help:"Give a leaky.yaml to every Envoy, or change nothing and say why."`
	History  historyCommand  `cmd:"" group:"Configuration" help:"List the versions of the configuration, or print one."`
	Rollback rollbackCommand `cmd:"" group:"Configuration" help:"Go back to an earlier version."`

	Demo    demoCommand    `cmd:"" group:"Tools" help:"Drive the running stack with parallel clients and judge the books."`
	Check   checkCommand   `cmd:"" group:"Tools" help:"Validate leaky.yaml and the limits it names."`
	Schema  schemaCommand  `cmd:"" group:"Tools" help:"Print the JSON Schema of leaky.yaml, for editors."`
	Accept  acceptCommand  `cmd:"" group:"Tools" help:"Say that a configuration is meant which lacks what the last one had."`
	Limits  limitsCommand  `cmd:"" group:"Tools" help:"List the limits, or say which one a descriptor falls under."`
	Holds   holdsCommand   `cmd:"" group:"Tools" help:"List what running calls hold, the oldest first."`
	Explain explainCommand `cmd:"" group:"Tools" help:"Say how one call was decided: rules, levels, what was held, why it was refused."`
	Clients clientsCommand `cmd:"" group:"Tools" help:"The OAuth2 clients: list, create, delete them, rotate their secrets."`
	Invites invitesCommand `cmd:"" group:"Tools" help:"Who may register where an invitation is needed: make, list and withdraw codes."`
	Orgs    orgsCommand    `cmd:"" group:"Tools" help:"Organisations and their members: list, create, rename, add, remove."`
	Teams   teamsCommand   `cmd:"" group:"Tools" help:"The teams of an organisation: list, create, delete."`
	Users   usersCommand   `cmd:"" group:"Tools" help:"List the users."`
	Charges chargesCommand `cmd:"" group:"Tools" help:"List what a user was charged for, and which calls look like a second try."`
	Usage   usageCommand   `cmd:"" group:"Tools" help:"Sum up who used what: by team, user, model, key or any other dimension."`
	Apply   applyCommand   `cmd:"" group:"Tools" help:"Make organisations, teams and members what a file says."`
	Keys    keysCommand    `cmd:"" group:"Tools" help:"The keys that sign access tokens: list them, rotate them."`
	Sagas   sagasCommand   `cmd:"" group:"Tools" help:"List, show, retry or cancel purchases."`
	Prices  pricesCommand  `cmd:"" group:"Tools" help:"What tokens cost: list the prices, validate a list."`
	Reprice repriceCommand `cmd:"" group:"Tools" help:"Book what a new price list changes, as corrections."`
	Backup  backupCommand  `cmd:"" group:"Tools" help:"Copy the stores while they are used, so that the copies fit together."`
	Restore restoreCommand `cmd:"" group:"Tools" help:"Bring a backup back into empty stores, or look whether it is whole."`

	Anomalies anomaliesCommand `cmd:"" group:"Tools" help:"List hours in which an account, a key or a model was used unusually."`
	Reconcile reconcileCommand `cmd:"" group:"Tools" help:"Hold all books against each other, call by call, or against a provider's bill."`
	Version   versionCommand   `cmd:"" group:"Tools" help:"Print the version."`

	Man        manCommand        `cmd:"" group:"Tools" help:"Write the manual's pages, made from what --help says."`
	Completion completionCommand `cmd:"" group:"Tools" help:"Say how a shell learns to complete commands, flags and parts."`

	RateLimit ratelimitCommand `cmd:"" name:"ratelimit" group:"Services" help:"Run the limiter alone, in envoyproxy/ratelimit's place, from its environment variables."`
	Serve     serveCommand     `cmd:"" group:"Services" help:"Run one service in the foreground."`
	Probe     probeCommand     `cmd:"" group:"Services" help:"Ask one service on this machine whether it is ready; the exit code tells."`
	Bootstrap bootstrapCommand `cmd:"" group:"Services" help:"What is made once where leaky up starts no Envoy, Postgres or NATS."`
	Drain     drainCommand     `cmd:"" group:"Services" help:"Let an Envoy end its requests before its container does."`
	Migrate   migrateCommand   `cmd:"" group:"Services" help:"Bring the schemas of the stores up to date, as a step before an upgrade."`
	Prove     proveCommand     `cmd:"" group:"Services" help:"Make one call through a gateway as an app does, and compare it with the books."`
	Supervise superviseCommand `cmd:"" hidden:"" help:"Run the supervisor in the foreground (what up starts)."`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := readFiles(); err != nil {
		fmt.Fprintln(os.Stderr, "leaky: error:", err)
		os.Exit(1)
	}
	args := os.Args[1:]
	if filepath.Base(os.Args[0]) == alone { // what envoyproxy/ratelimit's image starts
		args = append([]string{alone}, args...)
	}
	if len(args) > 0 && args[0] == alone {
		runAlone(ctx, args[1:])
		return
	}
	var c cli
	k := kong.Must(&c, kong.Name("leaky"), kong.Description("Meter and limit LLM tokens with Envoy."),
		served(), kong.ConfigureHelp(kong.HelpOptions{Compact: true}), kong.BindTo(ctx, (*context.Context)(nil)), kong.Bind(&c))
	completeIn(k)
	command, err := k.Parse(args)
	if err != nil {
		refuse(k, err)
	}
	command.FatalIfErrorf(command.Run())
}

// refuse says in one line what is wrong with the command line, in a second where to read more.
func refuse(k *kong.Kong, err error) {
	k.Errorf("%s", err)
	about := "leaky"
	if wrong, ok := errors.AsType[*kong.ParseError](err); ok {
		if node := wrong.Context.Selected(); node != nil {
			about = node.FullPath()
		}
	}
	fmt.Fprintf(k.Stderr, "Run \"%s --help\" for how it is used.\n", about)
	const usage = 80 // as kong exits
	k.Exit(usage)
}
