package pools

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/balance"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/ledger"
)

const (
	// queue is the group of replicas of which one answers.
	queue = "tokensvc"
	// askBatch is how many questions are answered together, askPending how many may wait.
	askBatch, askPending = 500, 8192
	// catchUpWait and readWait bound the two parts of an answer; ratelimit waits for
	// balance.AskTimeout.
	catchUpWait, readWait = 180 * time.Millisecond, 100 * time.Millisecond
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
	Log    *slog.Logger
}

// Balances answers ratelimit's questions for the state of a pool. It asks because its
// Redis does not know the account, maybe no longer: the answer therefore waits until the
// ledger has booked every charge that was published.
type Balances struct{ cfg BalanceConfig }

// NewBalances makes it; Run starts it.
func NewBalances(cfg BalanceConfig) (*Balances, error) {
	if cfg.DB == nil || cfg.NATS == nil || cfg.Ledger == nil || cfg.Log == nil {
		return nil, errors.New("make balances: DB, NATS, Ledger and Log are needed")
	}
	return &Balances{cfg: cfg}, nil
}

// Run answers until ctx ends.
func (b *Balances) Run(ctx context.Context) error {
	questions := make(chan *nats.Msg, askPending)
	sub, err := b.cfg.NATS.ChanQueueSubscribe(balance.SubjectAsk, queue, questions)
	if err != nil {
		return err
	}
	defer func() { _ = sub.Unsubscribe() }()
	for {
		select {
		case <-ctx.Done():
			return nil
		case first := <-questions:
			b.answer(ctx, gather(first, questions))
		}
	}
}

// gather takes what has come meanwhile, since one look at the ledger serves all.
func gather(first *nats.Msg, questions <-chan *nats.Msg) []*nats.Msg {
	batch := []*nats.Msg{first}
	for len(batch) < askBatch {
		select {
		case next := <-questions:
			batch = append(batch, next)
		default:
			return batch
		}
	}
	return batch
}

// answer answers a batch, each with a state or an error.
func (b *Balances) answer(ctx context.Context, batch []*nats.Msg) {
	var keys []ledger.Key
	asked := make([]ledger.Key, len(batch))
	for i, msg := range batch {
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
		asked[i] = k
		keys = append(keys, k)
	}
	if len(keys) == 0 {
		return
	}
	found, at, err := b.read(ctx, keys)
	for i, msg := range batch {
		k := asked[i]
		pool, present := found[k]
		switch {
		case k == ledger.Key{}:
		case err != nil:
			b.reply(msg, balance.Answer{Error: "the ledger cannot tell now"})
		case present:
			b.reply(msg, balance.Answer{State: pool.State(at)})
		default:
			b.reply(msg, balance.Answer{State: balance.State{Account: k.Account, Provider: k.Provider, At: at}})
		}
	}
	if err != nil && ctx.Err() == nil {
		b.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "balances cannot be told", slog.Int("asked", len(keys)), slog.Any("error", err))
	}
}

func (b *Balances) read(ctx context.Context, keys []ledger.Key) (map[ledger.Key]ledger.Pool, time.Time, error) {
	catching, cancel := context.WithTimeout(ctx, catchUpWait)
	err := b.cfg.Ledger.CatchUp(catching)
	cancel()
	if err != nil {
		return nil, time.Time{}, err
	}
	reading, cancel := context.WithTimeout(ctx, readWait)
	defer cancel()
	return ledger.Read(reading, b.cfg.DB, keys)
}

func (b *Balances) reply(msg *nats.Msg, a balance.Answer) {
	data, err := json.Marshal(a)
	if err == nil {
		err = msg.Respond(data)
	}
	if err != nil {
		b.cfg.Log.LogAttrs(context.Background(), slog.LevelWarn, "answer balance failed", slog.Any("error", err))
	}
}
