package pools_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/balance"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/ledger"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/migrations"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/pools"
)

// lagging is a ledger that catches up only when it is told to.
type lagging struct{ caughtUp chan struct{} }

func (l lagging) CatchUp(ctx context.Context) error {
	select {
	case <-l.caughtUp:
		return nil
	case <-ctx.Done():
		return usage.ErrBehind
	}
}

// answering runs Balances over a ledger and nothing else.
func answering(t *testing.T, books pools.CatchUp, wait time.Duration) *live {
	t.Helper()
	l := &live{tb: t, db: testenv.Postgres(t)}
	must(t, migrations.Up(t.Context(), l.db))
	var err error
	l.nc, err = nats.Connect(testenv.NATS(t))
	must(t, err)
	t.Cleanup(l.nc.Close)
	balances, err := pools.NewBalances(pools.BalanceConfig{DB: l.db, NATS: l.nc, Ledger: books, Wait: wait, Log: slog.New(slog.DiscardHandler)})
	must(t, err)
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	var running sync.WaitGroup
	running.Go(func() { must(t, balances.Run(ctx)) })
	t.Cleanup(func() { stop(); running.Wait() })
	return l
}

// askAll sends all questions at once and gives the answers in their order.
func (l *live) askAll(accounts ...string) []balance.Answer {
	l.tb.Helper()
	answers := make([]balance.Answer, len(accounts))
	var asking sync.WaitGroup
	for i, account := range accounts {
		asking.Go(func() {
			question, err := json.Marshal(balance.Ask{Account: account, Provider: "openai"})
			must(l.tb, err)
			for end := time.Now().Add(time.Minute); ; {
				reply, err := l.nc.Request(balance.SubjectAsk, question, 10*time.Second)
				if err == nil {
					must(l.tb, json.Unmarshal(reply.Data, &answers[i]))
					return
				}
				if time.Now().After(end) { // until then nobody has subscribed yet
					l.tb.Errorf("no answer: %v", err)
					return
				}
			}
		})
	}
	asking.Wait()
	return answers
}

// TestLaggingLedgerClosesNoDoor: who has no pool is told so, however far behind the ledger is;
// who has one is told that it is not known.
func TestLaggingLedgerClosesNoDoor(t *testing.T) {
	t.Parallel()
	books := lagging{make(chan struct{})}
	l := answering(t, books, 2*time.Second)
	owner, stranger := uuid.New(), ledger.Account(uuid.New(), uuid.Nil)
	l.credit(ledger.Purchase{UserID: owner, Provider: "openai", Tokens: 100, Reference: "r"})
	for told := 0; told < 5; {
		got := l.askAll(ledger.Account(owner, uuid.Nil), stranger)
		if got[0].Error == "" {
			t.Fatalf("want the owner put off, got %+v", got[0])
		}
		if got[1].Error == "" { // else the machine was too busy to read in time
			told++
			if got[1].State.Present || got[1].State.Account != stranger {
				t.Errorf("want the stranger told, got %+v", got[1])
			}
		}
	}
	close(books.caughtUp)
	if got := l.ask(ledger.Account(owner, uuid.Nil)); !got.Present || got.Credits != 100 {
		t.Errorf("caught up: want 100, got %+v", got)
	}
}

// TestLockedPoolClosesNoOtherDoor: a pool that has to be written down and whose row somebody
// has locked is not known now; everybody who asks with it is answered.
func TestLockedPoolClosesNoOtherDoor(t *testing.T) {
	t.Parallel()
	books := lagging{make(chan struct{})}
	close(books.caughtUp)
	l := answering(t, books, 2*time.Second)
	locked, healthy, stranger := uuid.New(), uuid.New(), ledger.Account(uuid.New(), uuid.Nil)
	over := time.Now().Add(-time.Minute) // its time takes something that the version does not tell
	l.credit(ledger.Purchase{UserID: locked, Provider: "openai", Tokens: 100, Reference: "a", ExpiresAt: &over, At: over.Add(-time.Hour)})
	l.credit(ledger.Purchase{UserID: healthy, Provider: "openai", Tokens: 70, Reference: "b"})
	tx, err := l.db.Begin(t.Context())
	must(t, err)
	defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }()
	var held int
	must(t, tx.QueryRow(t.Context(), `SELECT 1 FROM token_pools WHERE user_id = $1 FOR UPDATE`, locked).Scan(&held))
	for told := 0; told < 3; {
		got := l.askAll(ledger.Account(locked, uuid.Nil), ledger.Account(healthy, uuid.Nil), stranger)
		if got[0].Error == "" {
			t.Fatalf("locked: want it not known, got %+v", got[0])
		}
		if got[1].Error == "" && got[2].Error == "" { // else the machine was too busy to read in time
			told++
			if got[1].State.Credits != 70 || got[2].State.Present {
				t.Errorf("want 70 and none, got %+v", got[1:])
			}
		}
	}
	must(t, tx.Rollback(t.Context()))
	if got := l.ask(ledger.Account(locked, uuid.Nil)); got.Credits != 0 {
		t.Errorf("released: want it expired, got %+v", got)
	}
}

// leisurely is a ledger that has caught up for whoever waits longer than ratelimit does at least.
type leisurely struct{}

func (leisurely) CatchUp(ctx context.Context) error {
	if end, bounded := ctx.Deadline(); bounded && time.Until(end) < balance.AskTimeout {
		return usage.ErrBehind
	}
	return nil
}

// TestAnswersTakeAsLongAsRatelimitWaits: where decisions may take long, so may what they wait for.
func TestAnswersTakeAsLongAsRatelimitWaits(t *testing.T) {
	t.Parallel()
	for decision, told := range map[time.Duration]bool{1500 * time.Millisecond: false, time.Minute: true} {
		t.Run(decision.String(), func(t *testing.T) {
			l, owner := answering(t, leisurely{}, balance.AskWithin(decision)), uuid.New()
			l.credit(ledger.Purchase{UserID: owner, Provider: "openai", Tokens: 100, Reference: "r"})
			if got := l.askAll(ledger.Account(owner, uuid.Nil))[0]; (got.Error == "") != told {
				t.Errorf("got %+v", got)
			}
		})
	}
}
