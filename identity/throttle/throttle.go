// Package throttle makes guessing expensive: who fails too often has to wait, longer
// each time. Failures are counted per account and per address in Redis, so that all
// replicas see them; while Redis is down each replica counts for itself.
//
// An account cannot be locked for its owner by others: the wait has a ceiling, and an
// address from which she logged in before is counted apart from the rest of the world.
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
)

const (
	// patience is how long Redis may take; a login waits for it.
	patience = 300 * time.Millisecond
	// trusted is how long an address with a good login is told from others.
	trusted = 30 * 24 * time.Hour
	// first is the first wait; each further failure doubles it.
	first = time.Second
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
	cfg     Config
	shared  counter // nil without Redis
	local   *memory
	failing atomic.Bool
}

// counter is where failures are counted: in Redis, or in this process.
type counter interface {
	// take counts an attempt against each subject, unless one of them has to wait, and then
	// says how long. An attempt counts as a failure until it is settled.
	take(ctx context.Context, subjects []subject, longest, window time.Duration) (time.Duration, error)
	// forgive takes one attempt back from each subject.
	forgive(ctx context.Context, subjects []subject) error
	// forget clears a subject.
	forget(ctx context.Context, s subject) error
	known(ctx context.Context, account, network string) (bool, error)
	trust(ctx context.Context, account, network string) error
}

// subject is what is counted, and how many failures it may have without a wait.
type subject struct {
	key  string
	most int
}

// New starts nothing.
func New(cfg Config) *Throttle {
	t := &Throttle{cfg: cfg, local: newMemory(time.Now)}
	if cfg.Redis != nil {
		t.shared = &shared{client: cfg.Redis, prefix: cfg.Prefix}
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
// any text, such as a user name or "client:<id>". A wait above zero means: answer 429
// with Retry-After, and check nothing; the Attempt is nil then.
func (t *Throttle) Enter(ctx context.Context, account string) (a *Attempt, wait time.Duration) {
	a = &Attempt{t: t, account: digest(strings.ToLower(account)), network: clientinfo.From(ctx).Network()}
	wait = t.counted(ctx, func(ctx context.Context, c counter) (time.Duration, error) {
		own, err := c.known(ctx, a.account, a.network)
		if err != nil {
			return 0, err
		}
		key := "account:" + a.account
		if own {
			key += ":" + a.network
		}
		a.counter, a.subjects = c, []subject{{key, t.cfg.Settings.Failures}, {"address:" + a.network, t.cfg.Settings.Addresses}}
		return c.take(ctx, a.subjects, t.cfg.Settings.Longest, t.cfg.Settings.Window)
	})
	if wait > 0 {
		return nil, wait
	}
	return a, 0
}

// Register counts a registration from where ctx says; above zero it has to wait.
func (t *Throttle) Register(ctx context.Context) time.Duration {
	return t.counted(ctx, func(ctx context.Context, c counter) (time.Duration, error) {
		return c.take(ctx, []subject{{"register:" + clientinfo.From(ctx).Network(), t.cfg.Settings.Registers + 1}}, t.cfg.Settings.Longest,
			t.cfg.Settings.Window)
	})
}

// counted runs f with the shared counter, and with our own when that does not answer.
func (t *Throttle) counted(ctx context.Context, f func(context.Context, counter) (time.Duration, error)) time.Duration {
	if t.shared != nil {
		bounded, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		wait, err := f(bounded, t.shared)
		if err == nil {
			if t.failing.Swap(false) {
				t.cfg.Log.Info("guesses are counted in Redis again")
			}
			return wait
		}
		if ctx.Err() == nil && !t.failing.Swap(true) {
			t.cfg.Log.Warn("Redis does not answer: guesses are counted by this process alone", slog.Any("error", err))
		}
	}
	wait, _ := f(ctx, t.local) // memory never fails
	return wait
}

// Succeed clears the account's failures and remembers the address as one of hers.
func (a *Attempt) Succeed(ctx context.Context) {
	a.settle(ctx, func(ctx context.Context) error {
		if err := a.counter.forget(ctx, a.subjects[0]); err != nil {
			return err
		}
		if err := a.counter.forgive(ctx, a.subjects[1:]); err != nil {
			return err
		}
		return a.counter.trust(ctx, a.account, a.network)
	})
}

// Fail leaves the attempt counted.
func (a *Attempt) Fail() {}

// Abandon takes the attempt back: it was neither right nor wrong, as nothing was checked.
func (a *Attempt) Abandon(ctx context.Context) {
	a.settle(ctx, func(ctx context.Context) error { return a.counter.forgive(ctx, a.subjects) })
}

// settle must happen even when the caller has hung up. What is lost counts as a failure.
func (a *Attempt) settle(ctx context.Context, f func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
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

// pause is the wait after so many failures of which most are free.
func pause(failures, most int, longest time.Duration) time.Duration {
	over := failures - most
	if over < 0 {
		return 0
	}
	return min(first<<min(over, 20), longest)
}
