// Package throttle makes guessing expensive: who fails too often has to wait, longer
// each time. Failures are counted per account and per address in Redis, so that all
// replicas see them; while Redis is down each replica counts for itself.
//
// What it promises those who are right: nobody is refused for others' guesses by more than
// one wait. tally.go has the rules; docs/design/identity.md tells why.
package throttle

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/leaky-tokens/leaky-tokens/identity/clientinfo"
	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/retry"
)

const (
	// patience is how long Redis may take; a login waits for it.
	patience = 300 * time.Millisecond
	// trusted is how long an address with a good login is told from others.
	trusted = 30 * 24 * time.Hour
	// longestLine is how long an attempt stands in line behind those that are being checked,
	// and lineStep how often it looks whether it may go.
	longestLine = 10 * time.Second
	lineStep    = 25 * time.Millisecond
	// maxInLine bounds who stand in line in one process.
	maxInLine = 1024
)

// Config is what New needs.
type Config struct {
	Redis    redis.UniversalClient // nil: this process counts for itself
	Prefix   string                // of keys
	Settings config.Throttle
	Log      *slog.Logger
}

// Throttle counts failures. It is safe for concurrent use.
type Throttle struct {
	cfg    Config
	shared counter // nil without Redis
	local  *memory
	said   *retry.Troubles
	inLine atomic.Int64

	patience time.Duration // with Redis
}

// counter is where failures are counted: in Redis, or in this process.
type counter interface {
	// take admits an attempt against all subjects, which is pending until it is settled, or says how
	// long to wait.
	take(ctx context.Context, subjects []subject) (verdict, error)
	// fail settles an attempt that was wrong.
	fail(ctx context.Context, subjects []subject) error
	// release settles an attempt that leaves no trace: it was right, or nothing was checked.
	release(ctx context.Context, subjects []subject) error
	// forget settles an attempt that was right and clears what was counted.
	forget(ctx context.Context, s subject) error
	known(ctx context.Context, account, network string) (bool, error)
	trust(ctx context.Context, account, network string) error
}

// New starts nothing.
func New(cfg Config) *Throttle {
	r := rules{Longest: cfg.Settings.Longest, Window: cfg.Settings.Window}
	t := &Throttle{cfg: cfg, said: retry.NewTroubles(cfg.Log), local: newMemory(r, time.Now), patience: patience}
	if cfg.Redis != nil {
		t.shared = &shared{client: cfg.Redis, prefix: cfg.Prefix, rules: r}
	}
	return t
}

// Attempt is one try to prove who one is. Exactly one of Succeed, Fail and Abandon ends it.
type Attempt struct {
	t        *Throttle
	counter  counter
	account  string
	network  string
	subjects []subject
}

// Enter begins an attempt on an account from where ctx says (see clientinfo.With). account is
// any text, such as "user:<id>". It stands in line for a while behind attempts whose outcome is
// not known yet, and through a first short wait. A wait above zero means: answer 429 with
// Retry-After, and check nothing; the Attempt is nil then.
func (t *Throttle) Enter(ctx context.Context, account string) (a *Attempt, wait time.Duration) {
	a = &Attempt{t: t, account: digest(strings.ToLower(account)), network: clientinfo.From(ctx).Network()}
	for ends := time.Now().Add(longestLine); ; {
		v := t.counted(ctx, a.take)
		switch {
		case v.wait == 0:
			return a, 0
		case v.line:
			v.wait = lineStep
		case v.fresh && v.wait <= first:
			// Whoever has failed nothing here is let through by one short wait, not sent away.
		default:
			return nil, v.wait
		}
		if time.Now().Add(v.wait).After(ends) || !t.pause(ctx, v.wait) {
			return nil, max(v.wait, time.Second)
		}
	}
}

// pause stands in line for d; false when the line is too long or the caller has gone.
func (t *Throttle) pause(ctx context.Context, d time.Duration) bool {
	defer t.inLine.Add(-1)
	if t.inLine.Add(1) > maxInLine {
		return false
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// take asks a counter. An address from which the account's owner has logged in before is no
// stranger: it has a counter of its own for this account, and guesses at other accounts from the
// same address do not concern it.
func (a *Attempt) take(ctx context.Context, c counter) (verdict, error) {
	own, err := c.known(ctx, a.account, a.network)
	if err != nil {
		return verdict{}, err
	}
	most := a.t.cfg.Settings
	a.counter, a.subjects = c, []subject{{key: "account:" + a.account, who: a.network, most: most.Failures},
		{key: "address:" + a.network, who: a.account, most: most.Addresses}}
	if own {
		a.subjects = []subject{{key: "account:" + a.account + ":" + a.network, who: a.network, most: most.Failures}}
	}
	return c.take(ctx, a.subjects)
}

// Register counts a registration from where ctx says; above zero it has to wait.
func (t *Throttle) Register(ctx context.Context) time.Duration {
	network := clientinfo.From(ctx).Network()
	one := []subject{{key: "register:" + network, who: network, most: t.cfg.Settings.Registers + 1}}
	v := t.counted(ctx, func(ctx context.Context, c counter) (verdict, error) {
		v, err := c.take(ctx, one)
		if err != nil || v.wait != 0 {
			return v, err
		}
		return v, c.fail(ctx, one)
	})
	if v.line {
		return time.Second
	}
	return v.wait
}

// alone is said while the counter that all share does not answer.
const alone = "Redis does not answer: guesses are counted by this process alone"

// counted runs f with the shared counter, and with our own when that does not answer.
func (t *Throttle) counted(ctx context.Context, f func(context.Context, counter) (verdict, error)) verdict {
	if t.shared != nil {
		bounded, cancel := context.WithTimeout(ctx, t.patience)
		defer cancel()
		v, err := f(bounded, t.shared)
		if err == nil {
			t.said.Over(ctx, alone, "guesses are counted in Redis again")
			return v
		}
		if ctx.Err() == nil {
			t.said.Warn(ctx, alone, err)
		}
	}
	v, _ := f(ctx, t.local) // memory never fails
	return v
}

// Succeed clears the account's failures and remembers the address as one of its owner's. The
// address's own count stays as it was, with its wait and its end.
func (a *Attempt) Succeed(ctx context.Context) {
	a.settle(ctx, func(ctx context.Context) error {
		if err := a.counter.forget(ctx, a.subjects[0]); err != nil {
			return err
		}
		if err := a.counter.release(ctx, a.subjects[1:]); err != nil {
			return err
		}
		return a.counter.trust(ctx, a.account, a.network)
	})
}

// Fail counts the attempt as a guess that was wrong.
func (a *Attempt) Fail(ctx context.Context) {
	a.settle(ctx, func(ctx context.Context) error { return a.counter.fail(ctx, a.subjects) })
}

// Abandon takes the attempt back: it was neither right nor wrong, as nothing was checked.
func (a *Attempt) Abandon(ctx context.Context) {
	a.settle(ctx, func(ctx context.Context) error { return a.counter.release(ctx, a.subjects) })
}

// settle must happen even when the caller has hung up. What is lost stays pending until its
// time is over, and keeps others in line meanwhile.
func (a *Attempt) settle(ctx context.Context, f func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), a.t.patience)
	defer cancel()
	if err := f(ctx); err != nil {
		a.t.cfg.Log.Debug("attempt not settled", slog.Any("error", err))
	}
}

// digest keeps what people type by mistake, such as a password, out of Redis.
func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:16])
}
