package demo

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/local/demo/judge"
	"github.com/leaky-tokens/leaky-tokens/internal/retry"

	"github.com/leaky-tokens/leaky-tokens/client"
	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
)

const (
	entriesPage = 200
	settleEvery = 500 * time.Millisecond // between two looks at all books
)

// purchaseBooks reads every book that knows of the account.
type purchaseBooks struct {
	shopper  *shopper
	stub     *stubBook
	events   *eventBook
	admin    Credentials
	payments *client.Client // nil when no stub takes the money
}

// settle reads the books until they agree, at most limit, and judges what they say then.
func (b *purchaseBooks) settle(ctx context.Context, e judge.PurchaseEvidence, limit time.Duration) judge.PurchaseVerdict {
	lasting, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	b.shopper.say("the books: Redis, ledger, ClickHouse, stub, payments")
	for {
		b.read(ctx, &e)
		if v := judge.JudgePurchases(e); v.OK || lasting.Err() != nil {
			return v
		}
		retry.Pause(lasting, settleEvery)
	}
}

// read fills the evidence anew.
func (b *purchaseBooks) read(ctx context.Context, e *judge.PurchaseEvidence) {
	e.Unread = nil
	attempt := func(err error) {
		if err != nil {
			e.Unread = append(e.Unread, err.Error())
		}
	}
	var ids []string
	for i := range e.Calls {
		if c := &e.Calls[i]; c.Admitted() {
			ids = append(ids, c.ID)
		}
	}
	var err error
	attempt(b.stub.read(ctx))
	e.Served = b.stub.served
	e.Charges, err = b.shopper.limiter.charges(ctx, 0, ids)
	attempt(err)
	e.Balance, err = b.shopper.limiter.balance(ctx, e.Provider)
	attempt(err)
	attempt(b.ledger(ctx, e))
	e.Events, err = b.events.read(ctx)
	attempt(err)
	totals, err := b.events.totals(ctx)
	attempt(err)
	e.Total = totals[judge.Pair{Account: 0, Provider: e.Provider}]
	if b.payments != nil {
		attempt(b.paid(ctx, e))
	}
}

// ledger reads the account's pool and entries, and asks whether the whole ledger balances.
func (b *purchaseBooks) ledger(ctx context.Context, e *judge.PurchaseEvidence) error {
	gateway, key := b.shopper.gateway, b.shopper.account.Key
	if err := gateway.As(client.Bearer(key)).Call(ctx, http.MethodGet, "/api/v1/tokens/quota?provider="+url.QueryEscape(e.Provider), nil,
		&e.Quota); err != nil {
		return fmt.Errorf("read the pool: %w", err)
	}
	e.Entries = nil
	for cursor := ""; ; {
		query := url.Values{"provider": {e.Provider}, "limit": {fmt.Sprint(entriesPage)}}
		if cursor != "" {
			query.Set("cursor", cursor)
		}
		var page struct {
			Items      []judge.Entry
			NextCursor string
		}
		if err := gateway.As(client.Bearer(key)).Call(ctx, http.MethodGet, "/api/v1/tokens/ledger?"+query.Encode(), nil, &page); err != nil {
			return fmt.Errorf("read the ledger: %w", err)
		}
		e.Entries = append(e.Entries, page.Items...)
		if cursor = page.NextCursor; cursor == "" {
			break
		}
	}
	e.Ledger = judge.LedgerProof{}
	if err := gateway.As(client.Login(b.admin.Username, b.admin.Password)).Call(ctx, http.MethodGet, "/api/v1/admin/ledger/verify", nil,
		&e.Ledger); err != nil {
		return fmt.Errorf("verify the ledger: %w", err)
	}
	return nil
}

// paid asks the payment stub what it took of the account.
func (b *purchaseBooks) paid(ctx context.Context, e *judge.PurchaseEvidence) error {
	var book struct{ Captured map[string]int64 }
	account := "user:" + b.shopper.account.User
	if err := b.payments.Call(ctx, http.MethodGet, "/__stub/payments?account="+url.QueryEscape(account), nil, &book); err != nil {
		return fmt.Errorf("ask the payment stub: %w", err)
	}
	captured := book.Captured[account]
	e.Captured = &captured
	return nil
}

// balance looks at the pool of the first account.
func (b *limiterBook) balance(ctx context.Context, provider string) (judge.Balance, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	a := b.accounts[0]
	resp, err := b.client.GetAccountState(ctx, &limitpb.GetAccountStateRequest{Account: "user:" + a.User, Tier: a.Tier,
		Providers: []string{provider}})
	if err != nil {
		return judge.Balance{}, fmt.Errorf("look at the balance of %s at %s: %w", a.Name, provider, err)
	}
	if len(resp.GetBalances()) != 1 {
		return judge.Balance{}, nil
	}
	p := resp.GetBalances()[0]
	return judge.Balance{Present: p.GetPresent(), Credits: p.GetCredits(), Spent: p.GetSpent(), Held: p.GetHeld()}, nil
}
