package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"time"

	"google.golang.org/grpc"

	"github.com/leaky-tokens/leaky-tokens/cmd/leaky/serve"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/prices"
	"github.com/leaky-tokens/leaky-tokens/internal/natsconn"
	"github.com/leaky-tokens/leaky-tokens/internal/reconcile"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

type reconcileCommand struct {
	output
	Since    string        `help:"Calls that began since: a time of RFC 3339, a day, or so long ago (36h)." default:"1h" placeholder:"TIME"`
	Until    string        `help:"Calls that began before; now when not given." placeholder:"TIME"`
	Wait     time.Duration `help:"How long books that differ are read again: what a call wrote in one may not be in the next yet." default:"20s"`
	Provider string        `help:"Instead, compare with the bill of this provider, in --file." placeholder:"PROVIDER"`
	File     string        `help:"The provider's bill, a CSV of its days and models." type:"path" placeholder:"FILE"`
}

// Help shows how it is used.
func (reconcileCommand) Help() string {
	return `Compares, call by call, what the stream of events, ClickHouse, the ledger, Redis and (where they are stubs) the providers say, and names what differs by request id. Exit code 1 if anything does, or if a book could not be read.

With --provider and --file it compares a provider's bill instead, by day (UTC) and model, and says what
explains a difference; exit code 1 if nothing does. The file has a header: a day (start_time_iso, date, ...),
model, and input_tokens with output_tokens, or amount_value with amount_currency.

Examples:

    leaky reconcile
    leaky reconcile --since 24h -o json | jq '.findings[]'
    leaky reconcile --provider openai --file costs.csv
    curl -s http://127.0.0.1:8093/__stub/costs.csv > costs.csv # the bill of the OpenAI stub`
}

// mostReconciled bounds the memory of one comparison: about a gigabyte.
const mostReconciled = 1_000_000

var (
	errBooksDiffer = errors.New("reconcile: the books differ")
	errBillDiffers = errors.New("reconcile: the bill differs, and nothing here explains it")
	errBooksUnread = errors.New("reconcile: a book could not be read, so its part is not proven")
)

// Run compares.
func (k reconcileCommand) Run(ctx context.Context, c *cli) error {
	if (k.Provider == "") != (k.File == "") {
		return errors.New("--provider and --file go together")
	}
	if k.File != "" {
		return k.bill(ctx, c)
	}
	now := time.Now()
	from, err := moment(k.Since, now)
	if err != nil {
		return fmt.Errorf("--since: %w", err)
	}
	to := now
	if k.Until != "" {
		if to, err = moment(k.Until, now); err != nil {
			return fmt.Errorf("--until: %w", err)
		}
	}
	if !from.Before(to) {
		return errors.New("--since must be before --until")
	}
	books, err := openBooks(ctx, c)
	if err != nil {
		return err
	}
	defer books.close()
	r, err := reconcile.Run(ctx, books.sources, from, to, k.Wait)
	if errors.Is(err, reconcile.ErrTooMany) {
		return fmt.Errorf("%w (--since, --until): one run takes %d", err, mostReconciled)
	}
	if err != nil {
		return err
	}
	if err := k.show(r); err != nil {
		return err
	}
	switch {
	case !r.Clean:
		return errBooksDiffer
	case len(r.Unread) > 0:
		return errBooksUnread
	}
	return nil
}

// show prints a report.
func (k reconcileCommand) show(r reconcile.Report) error {
	rows := [][]string{}
	for _, f := range r.Findings {
		rows = append(rows, []string{string(f.Fault), orDash(f.RequestID), orDash(f.Account), orDash(f.Provider), f.Detail})
	}
	if k.Output == "json" || len(rows) > 0 {
		if err := k.print(os.Stdout, r, []string{"FAULT", "REQUEST", "ACCOUNT", "PROVIDER", "WHAT"}, rows); err != nil {
			return err
		}
	}
	for _, why := range r.Unread {
		fmt.Fprintln(os.Stderr, "not compared:", why)
	}
	if k.Output != "json" {
		fmt.Printf("%d calls of %d accounts compared, %d differences\n", r.Calls, len(r.Accounts), len(r.Findings))
	}
	return nil
}

// bill compares with a provider's file.
func (k reconcileCommand) bill(ctx context.Context, c *cli) error {
	file, err := os.Open(k.File)
	if err != nil {
		return fmt.Errorf("open bill: %w", err)
	}
	defer file.Close()
	bill, err := reconcile.ParseBill(k.File, file)
	if err != nil {
		return err
	}
	l, err := openLocal(c)
	if err != nil {
		return err
	}
	if _, known := l.cfg.Providers[k.Provider]; !known {
		return fmt.Errorf("--provider %s is not in providers of leaky.yaml", k.Provider)
	}
	store, err := openEvents(ctx, c)
	if err != nil {
		return err
	}
	defer store.Close()
	from, to := bill.Days()
	used, err := store.UsedByDay(ctx, k.Provider, from, to)
	if err != nil {
		return err
	}
	r := reconcile.CompareBill(k.Provider, bill, used)
	rows := [][]string{}
	n := func(n int64) string { return strconv.FormatInt(n, 10) }
	for _, line := range r.Lines {
		why := ""
		for i, text := range line.Why {
			if why += text; i < len(line.Why)-1 {
				why += "; "
			}
		}
		rows = append(rows, []string{line.Day, line.Model, line.Verdict, n(line.Requests), n(line.Input), n(line.Output),
			prices.Money(line.Micros), orDash(why)})
	}
	if err := k.print(os.Stdout, r, []string{"DAY", "MODEL", "VERDICT", "REQUESTS", "INPUT", "OUTPUT", "AMOUNT", "WHY"}, rows); err != nil {
		return err
	}
	if !r.Clean {
		return errBillDiffers
	}
	return nil
}

// openedBooks are all books of a stack, opened.
type openedBooks struct {
	sources reconcile.Sources
	closers []func()
}

func (b *openedBooks) close() {
	for _, f := range b.closers {
		f()
	}
}

// openBooks opens the books of the stack.
func openBooks(ctx context.Context, c *cli) (*openedBooks, error) {
	l, err := openLocal(c)
	if err != nil {
		return nil, err
	}
	b := &openedBooks{}
	join, err := b.open(ctx, c, l)
	if err != nil {
		b.close()
		return nil, err
	}
	if b.sources, err = join.Sources(l.cfg); err != nil {
		b.close()
		return nil, err
	}
	return b, nil
}

func (b *openedBooks) open(ctx context.Context, c *cli, l local) (join serve.Books, err error) {
	join.Most = mostReconciled
	store, err := openEvents(ctx, c)
	if err != nil {
		return join, err
	}
	b.closers = append(b.closers, func() { _ = store.Close() })
	join.Store = store
	if join.Prices, err = openPrices(c); err != nil {
		return join, err
	}
	url, err := l.storeURL(topology.NATS)
	if err != nil {
		return join, err
	}
	nc, err := natsconn.Connect(natsconn.Config{URL: url, Name: "reconcile", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return join, err
	}
	b.closers = append(b.closers, nc.Close)
	join.NATS = nc
	var conn *grpc.ClientConn
	if conn, err = l.peers().DialLimiter(l.cfg.Services.RateLimit.GRPC); err != nil {
		return join, err
	}
	b.closers = append(b.closers, func() { _ = conn.Close() })
	join.Limiter = conn
	return join, nil
}
