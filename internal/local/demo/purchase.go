package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/local/demo/judge"
	"github.com/leaky-tokens/leaky-tokens/internal/retry"

	"github.com/leaky-tokens/leaky-tokens/client"
	"github.com/leaky-tokens/leaky-tokens/client/api"
)

const (
	// dryClients spend the pool at once, and dryAnswer and dryMaximum are their calls.
	dryClients                  = 8
	dryAnswer, dryMaximum       = 60, 100 // tokens
	dryPrompt                   = 64      // bytes
	afterTopUp                  = 4       // calls of each client when there are tokens again
	purchaseWait, dryWait       = 30 * time.Second, 60 * time.Second
	askEvery                    = 5 * time.Millisecond  // whether a call is admitted again
	purchaseEvery               = 20 * time.Millisecond // how a purchase stands; grows to purchaseSeldom
	purchaseSeldom              = 500 * time.Millisecond
	statusCompleted             = "COMPLETED"
	statusFailed                = "FAILED"
	leastPurchase, mostPurchase = 1_000, 100_000 // tokens; more takes long to spend
)

// shopper is one account that buys tokens and spends them.
type shopper struct {
	caller   caller // with the account's key; copied for each client
	account  judge.Account
	gateway  *client.Client
	target   *judge.Target
	limiter  *limiterBook
	progress io.Writer
}

// Purchases lets an account buy a small pool, spend it until it is refused, buy again, and
// spend on; then it compares what Redis, ledger, ClickHouse, stub, payment and the clients
// know of it. tokens is what is bought each time.
func (d *Demo) Purchases(ctx context.Context, tokens int64) (v judge.PurchaseVerdict, err error) {
	if tokens < leastPurchase || tokens > mostPurchase {
		return v, fmt.Errorf("buy %d tokens: %d to %d are possible", tokens, leastPurchase, mostPurchase)
	}
	at := slices.IndexFunc(d.cfg.Targets, func(t judge.Target) bool { return t.Protocol == judge.ProtocolOpenAI })
	if at < 0 {
		return v, errors.New("no stub speaks OpenAI's protocol, and the demo would spend real money elsewhere")
	}
	over := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 2 * dryClients, DisableCompression: true}}
	defer over.CloseIdleConnections()
	target := &d.cfg.Targets[at]
	gateway, err := speak(over, d.cfg.Gateway)
	if err != nil {
		return v, err
	}
	stubClient, err := speak(over, target.Stub)
	if err != nil {
		return v, err
	}
	var payments *client.Client
	if d.cfg.Payments != "" {
		if payments, err = speak(over, d.cfg.Payments); err != nil {
			return v, err
		}
	}
	accounts, err := openAccounts(ctx, gateway, d.cfg.Admin, d.cfg.Tiers[:1])
	if err != nil {
		return v, err
	}
	stub := &stubBook{api: stubClient, provider: target.Provider, served: map[string]judge.Served{}}
	if err := stub.skip(ctx); err != nil {
		return v, err
	}
	b := newBook(1)
	s := &shopper{account: accounts[0], gateway: gateway, target: target, limiter: &limiterBook{client: d.cfg.Limiter, accounts: accounts},
		progress: d.cfg.Progress,
		caller: caller{http: over, gateway: d.cfg.Gateway, key: accounts[0].Key, text: filling(d.cfg.Seed), start: time.Now(),
			targets: []judge.Target{*target}, book: b}}
	e := judge.PurchaseEvidence{Seed: d.cfg.Seed, Account: s.account, Provider: target.Provider, Price: d.cfg.Price(target.Provider)}
	if err := s.live(ctx, tokens, &e); err != nil {
		return v, err
	}
	e.Calls = b.all()
	books := &purchaseBooks{shopper: s, stub: stub, admin: d.cfg.Admin, payments: payments,
		events: &eventBook{gateway: gateway, accounts: accounts, targets: []judge.Target{*target}, since: s.caller.start.Add(-time.Second)}}
	return books.settle(ctx, e, d.cfg.Drain), ctx.Err()
}

// live is what the account does.
func (s *shopper) live(ctx context.Context, tokens int64, e *judge.PurchaseEvidence) error {
	s.say("%s (%s) buys %s tokens for %s", s.account.Name, s.account.Tier, judge.Thousands(tokens), s.target.Provider)
	first, err := s.buy(ctx, tokens)
	if err != nil {
		return err
	}
	e.Purchases = append(e.Purchases, first)
	s.say("%s clients spend them", judge.Thousands(dryClients))
	if e.Dry, err = s.spend(ctx); err != nil {
		return err
	}
	s.say("run dry: %d %s / %s, x-should-retry %t", e.Dry.Status, e.Dry.Type, e.Dry.Code, e.Dry.MayRetry)
	s.say("  %s", e.Dry.Message)
	if err := s.topUp(ctx, tokens, e); err != nil {
		return err
	}
	return s.each(ctx, func(ctx context.Context, c *caller, i int) error {
		for n := range afterTopUp {
			if call := s.ask(ctx, c, i+n); call.Outcome != judge.Completed && !call.Dry() {
				return fmt.Errorf("a call after the top-up: %s", call.Told())
			}
		}
		return nil
	})
}

// buy posts a purchase and asks how it stands until it is over.
func (s *shopper) buy(ctx context.Context, tokens int64) (judge.Bought, error) {
	ctx, cancel := context.WithTimeout(ctx, purchaseWait)
	defer cancel()
	key := "demo-" + s.account.Name + "-" + fmt.Sprint(time.Now().UnixNano())
	own := s.gateway.As(client.Bearer(s.account.Key))
	got := judge.Bought{Posted: time.Now()}
	order, err := own.PurchaseTokensWithResponse(ctx, &api.PurchaseTokensParams{IdempotencyKey: &key},
		api.PurchaseRequest{Provider: s.target.Provider, Tokens: tokens})
	if err != nil {
		return got, fmt.Errorf("buy tokens: %w", err)
	}
	accepted, err := client.Answer(order.JSON202)
	if err != nil {
		return got, fmt.Errorf("buy tokens: %w", err)
	}
	got.ID = accepted.SagaID.String()
	taken := time.Now()
	got.Accepted = judge.Millis(taken.Sub(got.Posted))
	for pause := purchaseEvery; ; pause = min(pause*3/2, purchaseSeldom) {
		if err := own.Call(ctx, http.MethodGet, "/api/v1/tokens/purchase/"+got.ID, nil, &got); err != nil {
			return got, fmt.Errorf("ask how purchase %s stands: %w", got.ID, err)
		}
		switch got.Status {
		case statusCompleted:
			got.Completed = judge.Millis(time.Since(taken))
			s.say("  202 after %.1f ms, COMPLETED %.1f ms later, %d.%02d %s", got.Accepted, got.Completed, got.Amount/100, got.Amount%100,
				got.Currency)
			return got, nil
		case statusFailed:
			return got, fmt.Errorf("purchase %s failed; leaky sagas show %s", got.ID, got.ID)
		}
		if retry.Pause(ctx, pause); ctx.Err() != nil {
			return got, fmt.Errorf("purchase %s is still %s; leaky sagas show %s", got.ID, got.Status, got.ID)
		}
	}
}

// spend calls until the pool is too small for another call and nothing is held of it.
func (s *shopper) spend(ctx context.Context) (judge.Dry, error) {
	ctx, cancel := context.WithTimeout(ctx, dryWait)
	defer cancel()
	for turn := 0; ; turn++ {
		err := s.each(ctx, func(ctx context.Context, c *caller, i int) error {
			for n := i; ctx.Err() == nil; n++ {
				switch call := s.ask(ctx, c, n); {
				case call.Dry():
					return nil // another call's hold may be what it lacked
				case call.Outcome == judge.Refused && call.RetryAfter >= 0:
					retry.Pause(ctx, call.RetryAfter)
				case call.Outcome != judge.Completed:
					return fmt.Errorf("a call on the pool: %s", call.Told())
				}
			}
			return nil
		})
		if err == nil {
			err = s.released(ctx)
		}
		if ctx.Err() != nil {
			err = fmt.Errorf("the pool is not spent after %s", dryWait)
		}
		if err != nil {
			return judge.Dry{}, err
		}
		c := s.caller
		if call := s.ask(ctx, &c, turn); call.Dry() {
			return judge.Dry{Status: call.Status, Type: call.Type, Code: call.Code, Message: call.Problem, MayRetry: call.RetryAfter >= 0}, nil
		}
	}
}

// released waits until nothing is held of the pool.
func (s *shopper) released(ctx context.Context) error {
	for {
		balance, err := s.limiter.balance(ctx, s.target.Provider)
		if err != nil || balance.Held == 0 || ctx.Err() != nil {
			return err
		}
		retry.Pause(ctx, purchaseEvery)
	}
}

// topUp buys while one client asks all the time, and notes when it was admitted again.
func (s *shopper) topUp(ctx context.Context, tokens int64, e *judge.PurchaseEvidence) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var (
		asking   sync.WaitGroup
		admitted time.Time
		failed   error
	)
	s.say("one client goes on asking, and %s tokens are bought", judge.Thousands(tokens))
	asking.Go(func() {
		c := s.caller
		for n := 0; ctx.Err() == nil; n++ {
			call := s.ask(ctx, &c, 0)
			switch {
			case call.Admitted():
				admitted = c.start.Add(call.Answered)
				return
			case call.Outcome != judge.Refused:
				failed = fmt.Errorf("a call during the top-up: %s", call.Told())
				return
			}
			e.RefusedMeanwhile++
			retry.Pause(ctx, askEvery)
		}
	})
	second, err := s.buy(ctx, tokens)
	if err == nil {
		patience := time.AfterFunc(purchaseWait, stop)
		defer patience.Stop()
	} else {
		stop()
	}
	asking.Wait()
	switch {
	case err != nil:
		return err
	case failed != nil:
		return failed
	case admitted.IsZero():
		return fmt.Errorf("no call was admitted within %s of the top-up", purchaseWait)
	}
	e.Purchases = append(e.Purchases, second)
	e.Admitted = admitted
	s.say("  admitted again %.1f ms after the order, %s were refused meanwhile", judge.Millis(admitted.Sub(second.Posted)),
		judge.Count(e.RefusedMeanwhile, "call"))
	return nil
}

// each runs f for every client and gives the first error.
func (s *shopper) each(ctx context.Context, f func(ctx context.Context, c *caller, i int) error) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var clients sync.WaitGroup
	for i := range dryClients {
		clients.Go(func() {
			c := s.caller
			if err := f(ctx, &c, i); err != nil {
				stop(err)
			}
		})
	}
	clients.Wait()
	return context.Cause(ctx)
}

// ask makes one small call and writes it down; every other one is a stream.
func (s *shopper) ask(ctx context.Context, c *caller, n int) judge.Call {
	call := c.call(ctx, ask{stream: n%2 == 1, prompt: dryPrompt, offset: n % fillingLength, answer: dryAnswer, maxTokens: dryMaximum,
		model: n % len(s.target.Models)})
	c.book.add(call)
	return call
}

func (s *shopper) say(format string, args ...any) { fmt.Fprintf(s.progress, format+"\n", args...) }
