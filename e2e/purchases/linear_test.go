package purchases

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/ledger"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/migrations"
)

// operation is one on the account, with what came of it.
type operation struct {
	kind   string // purchase, consume, balance
	tokens int64
}

type outcome struct {
	done    bool // a consume that found enough
	balance int64
}

// account is what a single-threaded ledger of one account does.
func account() porcupine.Model {
	return porcupine.Model{
		Init: func() any { return int64(0) },
		Step: func(state, input, output any) (bool, any) {
			has, in, out := state.(int64), input.(operation), output.(outcome)
			switch in.kind {
			case "purchase":
				return true, has + in.tokens
			case "consume":
				if enough := has >= in.tokens; enough != out.done {
					return false, has
				} else if !enough {
					return true, has
				}
				return true, has - in.tokens
			}
			return out.balance == has, has
		},
		DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v -> %+v", input, output) },
	}
}

// TestOneAccountIsLinearizable: purchases, consumption and reads of one account by many at
// once have an order in which one after the other would have given the same answers.
func TestOneAccountIsLinearizable(t *testing.T) {
	t.Parallel()
	pool := testenv.Postgres(t)
	if err := migrations.Up(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	owner := uuid.New()
	var mu sync.Mutex
	var history []porcupine.Operation
	var clients sync.WaitGroup
	began := time.Now()
	for client := range 8 {
		clients.Go(func() {
			luck := rand.New(rand.NewPCG(7, uint64(client)))
			for range 40 {
				in := operation{kind: []string{"purchase", "consume", "consume", "balance"}[luck.IntN(4)], tokens: 1 + luck.Int64N(50)}
				call := time.Since(began)
				out, err := do(pool, owner, in)
				if err != nil {
					t.Errorf("%+v: %v", in, err)
					return
				}
				mu.Lock()
				history = append(history, porcupine.Operation{ClientId: client, Input: in, Call: call.Nanoseconds(), Output: out,
					Return: time.Since(began).Nanoseconds()})
				mu.Unlock()
			}
		})
	}
	clients.Wait()
	if got := porcupine.CheckOperationsTimeout(account(), history, patience); got != porcupine.Ok {
		t.Errorf("want %d operations to have an order, got %s", len(history), got)
	}
}

// do carries an operation out at the ledger.
func do(pool *pgxpool.Pool, owner uuid.UUID, in operation) (out outcome, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		switch in.kind {
		case "purchase":
			return ledger.Credit(ctx, tx, ledger.Purchase{UserID: owner, Provider: "openai", Tokens: in.tokens, Reference: uuid.NewString(),
				Policy: ledger.Policy{Prepaid: true}})
		case "consume":
			return ledger.Withdraw(ctx, tx, ledger.Withdrawal{Account: ledger.Account(owner, uuid.Nil), Provider: "openai", Tokens: in.tokens,
				Reference: uuid.NewString(), Reason: "consume"})
		}
		return tx.QueryRow(ctx, `SELECT COALESCE(sum(remaining_tokens), 0)::bigint FROM token_pools WHERE user_id = $1`, owner).Scan(&out.balance)
	})
	if out.done = err == nil; errors.Is(err, ledger.ErrShort) || errors.Is(err, ledger.ErrNoPool) {
		err = nil
	}
	return out, err
}
