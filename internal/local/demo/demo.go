package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/local/demo/judge"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
)

// Config is what a demo needs.
type Config struct {
	Gateway    string // URL without a path
	Targets    []judge.Target
	Limiter    limitpb.LimiterClient
	Admin      Credentials
	Tiers      []string      // one account each, in this order
	For        time.Duration // how long the clients ask
	Clients    int           // at once, shared by the accounts
	Seed       uint64
	MaxBody    int                                                  // bytes the gateway takes, default 4 MiB; a prompt has half of it at most
	Drain      time.Duration                                        // longest wait for the books after the load, default 30 s
	ChunkDelay time.Duration                                        // between the chunks of a stub's stream
	Rude       bool                                                 // clients and providers misbehave
	FirstByte  time.Duration                                        // how long the gateway waits for a provider, for Rude
	Breaks     []Break                                              // what is killed meanwhile
	Control    Control                                              // of the supervisor, for Breaks
	Limiters   []string                                             // URL of every process of ratelimit, for its metrics
	Parts      func(context.Context) (map[string]judge.Part, error) // what the supervisor runs; nil: nobody knows
	Price      func(provider string) int64                          // of a million tokens in minor units, for Purchases
	Payments   string                                               // URL of the payment stub; empty: real money, which is not looked at
	Progress   io.Writer                                            // the live table
	Width      func() int                                           // of the terminal Progress is; nil: it is none
}

// Demo is one run against a running stack.
type Demo struct{ cfg Config }

// New checks the configuration.
func New(cfg Config) (*Demo, error) {
	switch {
	case len(cfg.Targets) == 0:
		return nil, errors.New("make demo: no provider is served by a stub, and the demo would spend real money elsewhere")
	case cfg.Limiter == nil || cfg.Gateway == "" || len(cfg.Tiers) == 0:
		return nil, errors.New("make demo: Gateway, Limiter and Tiers are needed")
	case cfg.For <= 0:
		return nil, fmt.Errorf("make demo: a demo of %s is too short", cfg.For)
	case len(cfg.Breaks) > 0 && cfg.Control == nil:
		return nil, errors.New("make demo: Control is needed to kill parts")
	case cfg.Clients < len(cfg.Tiers) || cfg.Clients > 4096:
		return nil, fmt.Errorf("make demo: %d clients; %d to 4096 are possible", cfg.Clients, len(cfg.Tiers))
	}
	for _, b := range cfg.Breaks {
		if b.At+b.Down >= cfg.For {
			return nil, fmt.Errorf("make demo: %s would be down from %s to %s, and the clients stop at %s", b.Part, b.At, b.At+b.Down, cfg.For)
		}
	}
	if cfg.MaxBody <= 0 {
		cfg.MaxBody = 4 << 20
	}
	if cfg.Drain <= 0 {
		cfg.Drain = 30 * time.Second
	}
	if cfg.Progress == nil {
		cfg.Progress = io.Discard
	}
	return &Demo{cfg: cfg}, nil
}

// Run sets up accounts, lets the clients loose, drains, and judges. An error says that
// the demo could not be carried out; a verdict that is not OK is none.
func (d *Demo) Run(ctx context.Context) (v judge.Verdict, err error) {
	over := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: d.cfg.Clients + 8, DisableCompression: true}}
	defer over.CloseIdleConnections()
	gateway, err := speak(over, d.cfg.Gateway)
	if err != nil {
		return judge.Verdict{}, err
	}
	accounts, err := openAccounts(ctx, gateway, d.cfg.Admin, d.cfg.Tiers)
	if err != nil {
		return judge.Verdict{}, err
	}
	stubs, restore, err := d.openStubs(ctx, over)
	defer func() {
		failed := restore(context.WithoutCancel(ctx))
		if err != nil {
			err = errors.Join(err, failed)
		} else if failed != nil { // no reason to lose the verdict
			v.Notes = append(v.Notes, failed.Error())
		}
	}()
	if err != nil {
		return judge.Verdict{}, err
	}
	book := newBook(len(accounts))
	events := &eventBook{gateway: gateway, accounts: accounts, targets: d.cfg.Targets, since: time.Now().Add(-time.Second)}
	w := newWatcher(book, stubs, &limiterBook{client: d.cfg.Limiter, accounts: accounts}, events)
	if err := w.look(ctx); status.Code(err) == codes.Unavailable {
		return judge.Verdict{}, fmt.Errorf("%w; %w", err, errDown)
	} else if err != nil {
		return judge.Verdict{}, err
	}
	before := d.parts(ctx)
	if err := d.known(before); err != nil {
		return judge.Verdict{}, err
	}
	replicas := &limiters{http: over, urls: d.cfg.Limiters}
	adopted, unread := replicas.adopted(ctx)
	outages, err := d.load(ctx, over, accounts, book, w, replicas)
	if err != nil {
		return judge.Verdict{}, err
	}
	if ctx.Err() != nil {
		return judge.Verdict{}, errors.New("demo interrupted before its end")
	}
	calls := book.all()
	say := newTeller(d.cfg.Progress)
	w.strays = d.cfg.Rude
	w.drain(ctx, calls, d.cfg.Drain, say)
	e := judge.Evidence{Seed: d.cfg.Seed, Rude: d.cfg.Rude, Elapsed: elapsed(calls), Accounts: accounts, Targets: d.cfg.Targets, Calls: calls,
		Outages: outages}
	w.gather(ctx, &e)
	if len(outages) > 0 && unread == nil {
		e.Adopted = grown(ctx, replicas, adopted)
	}
	e.Restarts = restarts(before, d.parts(ctx))
	if ctx.Err() != nil {
		return judge.Verdict{}, errors.New("demo interrupted before its verdict")
	}
	return judge.Judge(e), nil
}

// openStubs paces the stubs; restore undoes it and is never nil.
func (d *Demo) openStubs(ctx context.Context, over *http.Client) (stubs []*stubBook, restore func(context.Context) error, err error) {
	restore = func(ctx context.Context) error {
		var errs []error
		for _, s := range stubs {
			errs = append(errs, s.restore(ctx))
		}
		return errors.Join(errs...)
	}
	for _, t := range d.cfg.Targets {
		stub, err := speak(over, t.Stub)
		if err != nil {
			return stubs, restore, err
		}
		s := &stubBook{api: stub, provider: t.Provider, served: map[string]judge.Served{}}
		stubs = append(stubs, s)
		if err := s.pace(ctx, int(d.cfg.ChunkDelay.Milliseconds())); err != nil {
			return stubs, restore, err
		}
		if err := s.skip(ctx); err != nil {
			return stubs, restore, err
		}
	}
	return stubs, restore, nil
}

// grown is how many more calls were written down than before; nil when nobody can tell.
func grown(ctx context.Context, replicas *limiters, before map[string]int) map[string]int {
	after, err := replicas.adopted(ctx)
	if err != nil {
		return nil
	}
	for how, n := range before {
		if after[how] -= n; after[how] < 0 {
			return nil // a limiter started anew and counts from zero
		}
	}
	return after
}

// load runs the clients for the time given, kills what is to be killed, and shows the
// live table meanwhile.
func (d *Demo) load(ctx context.Context, client *http.Client, accounts []judge.Account, b *book, w *watcher,
	replicas *limiters) ([]judge.Outage, error) {
	text := filling(d.cfg.Seed)
	var rude []judge.Protocol
	for _, t := range d.cfg.Targets {
		if d.cfg.Rude {
			rude = append(rude, t.Protocol)
		}
	}
	start := time.Now()
	asking, stop := context.WithTimeout(ctx, d.cfg.For)
	defer stop()
	var clients sync.WaitGroup
	share := (d.cfg.Clients + len(accounts) - 1) / len(accounts)
	for i := range d.cfg.Clients {
		account := i % len(accounts)
		limit := w.limits[judge.Pair{Account: account, Provider: d.cfg.Targets[0].Provider}]
		scale := promptScale(limit, d.cfg.For, share, len(d.cfg.Targets), d.cfg.MaxBody)
		c := &caller{http: client, gateway: d.cfg.Gateway, account: account, key: accounts[account].Key, text: text, start: start,
			targets: d.cfg.Targets, plan: newPlanner(d.cfg.Seed, i, d.cfg.Targets, w.tooLarge(account), scale), book: b}
		c.plan.rude, c.plan.firstByte = rude, d.cfg.FirstByte
		clients.Go(func() { c.run(asking, ctx) })
	}
	breaks := &breaker{control: d.cfg.Control, breaks: d.cfg.Breaks, leased: replicas.leased, start: start}
	var failed error
	clients.Go(func() { failed = breaks.run(ctx) })
	done := make(chan struct{})
	go func() { clients.Wait(); close(done) }()
	d.show(ctx, done, start, accounts, b, w, breaks.missing)
	return breaks.outages, failed
}

// tooLarge is a max_tokens that none of the account's buckets can hold; 0 when an integer
// of 31 bits cannot say it.
func (w *watcher) tooLarge(account int) int {
	largest := 0.0
	for p, l := range w.limits {
		if p.Account == account {
			largest = max(largest, l.Capacity)
		}
	}
	if largest <= 0 || largest >= math.MaxInt32-1 {
		return 0
	}
	return int(largest) + 1
}

// known refuses to kill what is not there before anybody waits for it.
func (d *Demo) known(parts map[string]judge.Part) error {
	for _, b := range d.cfg.Breaks {
		if _, ok := parts[b.Part]; !ok {
			return fmt.Errorf("no part is named %q (parts: %s)", b.Part, strings.Join(slices.Sorted(maps.Keys(parts)), ", "))
		}
	}
	return nil
}

// parts asks the supervisor; nil when it cannot be asked.
func (d *Demo) parts(ctx context.Context) map[string]judge.Part {
	if d.cfg.Parts == nil {
		return nil
	}
	parts, err := d.cfg.Parts(ctx)
	if err != nil {
		return nil // the stack runs without our supervisor: restarts go unseen
	}
	return parts
}

func restarts(before, after map[string]judge.Part) map[string]int {
	counts := map[string]int{}
	for _, name := range slices.Sorted(maps.Keys(after)) {
		old, known := before[name]
		n := after[name].Restarts - old.Restarts
		if known && old.PID != after[name].PID {
			n = max(n, 1)
		}
		if known && n > 0 {
			counts[name] = n
		}
	}
	return counts
}

func elapsed(calls []judge.Call) time.Duration {
	if len(calls) == 0 {
		return 0
	}
	first, last := calls[0].Sent, calls[0].Ended
	for i := range calls {
		first, last = min(first, calls[i].Sent), max(last, calls[i].Ended)
	}
	return last - first
}
