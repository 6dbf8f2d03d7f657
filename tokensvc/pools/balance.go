package pools

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/balance"
	"github.com/leaky-tokens/leaky-tokens/internal/retry"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/ledger"
)

const (
	// queue is the group of replicas of which one answers.
	queue = "tokensvc"
	// askBatch is how many questions are answered together, askPending how many may wait.
	askBatch, askPending = 500, 8192
	// catchUpPart and readPart are the shares of the parts of an answer in the time that ratelimit
	// waits for it.
	catchUpPart, readPart = 2, 5
)

// CatchUp waits until the ledger has booked what was published before the call.
type CatchUp interface {
	CatchUp(ctx context.Context) error
}

// BalanceConfig is what NewBalances needs.
type BalanceConfig struct {
	DB     *pgxpool.Pool
	NATS   *nats.Conn
	Ledger CatchUp
	Wait   time.Duration // how long ratelimit waits for an answer; 0: balance.AskTimeout
	Log    *slog.Logger
}

// Balances answers ratelimit's questions for the state of a pool. It asks because its
// Redis does not know the account, maybe no longer:
//
//	questions -> is there a pool? -- no ---------------------------------> "none", at once
//	                               \- yes -> the ledger catches up -> read -> the state
//
// The state of a pool waits until the ledger has booked every charge that was published.
// That there is none needs no ledger: an account without a pool never waits for one that
// lags, nor for a row that somebody has locked.
type Balances struct {
	cfg  BalanceConfig
	said *retry.Troubles
}

// NewBalances makes it; Run starts it.
func NewBalances(cfg BalanceConfig) (*Balances, error) {
	if cfg.DB == nil || cfg.NATS == nil || cfg.Ledger == nil || cfg.Log == nil {
		return nil, errors.New("make balances: DB, NATS, Ledger and Log are needed")
	}
	cfg.Wait = cmp.Or(cfg.Wait, balance.AskTimeout)
	return &Balances{cfg: cfg, said: retry.NewTroubles(cfg.Log)}, nil
}

// question is one that makes sense.
type question struct {
	msg *nats.Msg
	key ledger.Key
}

// Run answers until ctx ends.
func (b *Balances) Run(ctx context.Context) error {
	questions, owners := make(chan *nats.Msg, askPending), make(chan question, askPending)
	sub, err := b.cfg.NATS.ChanQueueSubscribe(balance.SubjectAsk, queue, questions)
	if err != nil {
		return err
	}
	defer func() { _ = sub.Unsubscribe() }()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return each(ctx, questions, func(batch []*nats.Msg) { b.sort(ctx, batch, owners) }) })
	g.Go(func() error { return each(ctx, owners, func(batch []question) { b.tell(ctx, batch) }) })
	return g.Wait()
}

// each gives f what has come, in batches, since one look at the books serves all.
func each[T any](ctx context.Context, from <-chan T, f func([]T)) error {
	for {
		var batch []T
		select {
		case <-ctx.Done():
			return nil
		case first := <-from:
			batch = append(batch, first)
		}
		for more := true; more && len(batch) < askBatch; {
			select {
			case next := <-from:
				batch = append(batch, next)
			default:
				more = false
			}
		}
		f(batch)
	}
}

// sort answers those without a pool and hands the others on.
func (b *Balances) sort(ctx context.Context, batch []*nats.Msg, owners chan<- question) {
	keys, asked := make([]ledger.Key, 0, len(batch)), make([]question, 0, len(batch))
	for _, msg := range batch {
		var ask balance.Ask
		err := json.Unmarshal(msg.Data, &ask)
		if err == nil {
			err = balance.State{Account: ask.Account, Provider: ask.Provider}.Check()
		}
		k := ledger.Key{Account: ask.Account, Provider: ask.Provider}
		if err != nil || !k.Valid() {
			b.reply(msg, balance.Answer{Error: "malformed question"})
			continue
		}
		keys, asked = append(keys, k), append(asked, question{msg, k})
	}
	if len(keys) == 0 {
		return
	}
	looking, cancel := context.WithTimeout(ctx, b.cfg.Wait/readPart)
	defer cancel()
	there, at, err := ledger.Exists(looking, b.cfg.DB, keys)
	if err != nil {
		b.cannotTell(ctx, asked, err)
		return
	}
	for _, q := range asked {
		if !there[q.key] {
			b.reply(q.msg, balance.Answer{State: balance.State{Account: q.key.Account, Provider: q.key.Provider, At: at}})
			continue
		}
		select {
		case owners <- q:
		default: // so many wait that this one would be answered too late
			b.reply(q.msg, balance.Answer{Error: busyAnswer})
		}
	}
}

// busyAnswer is all that ratelimit is told of a trouble here.
const busyAnswer = "the ledger cannot tell now"

// tell answers owners of pools, each with a state or an error.
func (b *Balances) tell(ctx context.Context, batch []question) {
	got, err := b.read(ctx, batch)
	if err != nil {
		b.cannotTell(ctx, batch, err)
		return
	}
	var busy []question
	for _, q := range batch {
		pool, present := got.Pools[q.key]
		_, locked := got.Busy[q.key]
		switch {
		case locked:
			busy, err = append(busy, q), got.Busy[q.key]
		case present:
			b.reply(q.msg, balance.Answer{State: pool.State(got.At)})
		default: // it went since it was looked for
			b.reply(q.msg, balance.Answer{State: balance.State{Account: q.key.Account, Provider: q.key.Provider, At: got.At}})
		}
	}
	b.cannotTell(ctx, busy, err)
}

func (b *Balances) cannotTell(ctx context.Context, asked []question, err error) {
	for _, q := range asked {
		b.reply(q.msg, balance.Answer{Error: busyAnswer})
	}
	if len(asked) > 0 && ctx.Err() == nil {
		b.said.Warn(ctx, "balances cannot be told", err, slog.Int("asked", len(asked)))
	}
}

func (b *Balances) read(ctx context.Context, batch []question) (ledger.Reading, error) {
	catching, cancel := context.WithTimeout(ctx, b.cfg.Wait/catchUpPart)
	err := b.cfg.Ledger.CatchUp(catching)
	cancel()
	if err != nil {
		return ledger.Reading{}, err
	}
	keys := make([]ledger.Key, len(batch))
	for i, q := range batch {
		keys[i] = q.key
	}
	reading, cancel := context.WithTimeout(ctx, b.cfg.Wait/readPart)
	defer cancel()
	return ledger.Read(reading, b.cfg.DB, keys)
}

func (b *Balances) reply(msg *nats.Msg, a balance.Answer) {
	data, err := json.Marshal(a)
	if err == nil {
		err = msg.Respond(data)
	}
	if err != nil {
		b.said.Warn(context.Background(), "answer balance failed", err)
	}
}
