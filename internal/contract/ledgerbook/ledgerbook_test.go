package ledgerbook_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/ledgerbook"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// shelf has an entry for each moment of at, and no pool of whoever is called nobody.
type shelf struct {
	at    []time.Time
	fails error
}

func (s shelf) Entries(_ context.Context, span ledgerbook.Span, most int) (found []ledgerbook.Entry, err error) {
	for i, at := range s.at {
		if !at.Before(span.From) && at.Before(span.To) && len(found) < most {
			found = append(found, ledgerbook.Entry{RequestID: fmt.Sprint(i), Account: "user:ann", Provider: "openai", Tokens: int64(i)})
		}
	}
	return found, s.fails
}

func (s shelf) Pools(_ context.Context, keys []ledgerbook.Key) (found []ledgerbook.Pool, err error) {
	for _, k := range keys {
		if k.Account != "user:nobody" {
			found = append(found, ledgerbook.Pool{Key: k, Remaining: 7})
		}
	}
	return found, s.fails
}

// reading serves a book, once it answers.
func reading(t *testing.T, book ledgerbook.Book) *ledgerbook.Client {
	t.Helper()
	conn, err := nats.Connect(testenv.NATS(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- ledgerbook.Serve(ctx, conn, book) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	c := ledgerbook.NewClient(conn)
	testenv.Eventually(t, "the book is served", func() bool {
		_, err := c.Pools(t.Context(), []ledgerbook.Key{{}})
		return !errors.Is(err, nats.ErrNoResponders)
	})
	return c
}

func TestEntriesComeEachOnceHoweverManyThereAre(t *testing.T) {
	t.Parallel()
	begin := time.Date(2026, 11, 29, 0, 0, 0, 0, time.UTC)
	var at []time.Time
	for i := range 3*ledgerbook.Most + 17 {
		at = append(at, begin.Add(time.Duration(i*i%86_400_000)*time.Millisecond))
	}
	c, seen := reading(t, shelf{at: at}), map[string]int{}
	for e, err := range c.Entries(t.Context(), begin, begin.Add(24*time.Hour)) {
		if err != nil {
			t.Fatal(err)
		}
		seen[e.RequestID]++
	}
	for id, times := range seen {
		if times != 1 {
			t.Errorf("entry %s came %d times", id, times)
		}
	}
	if len(seen) != len(at) {
		t.Errorf("want %d entries, got %d", len(at), len(seen))
	}
	pools, err := c.Pools(t.Context(), []ledgerbook.Key{{Account: "user:ann", Provider: "openai"}, {Account: "user:nobody", Provider: "openai"}})
	if err != nil || len(pools) != 1 || pools[0].Remaining != 7 {
		t.Errorf("want the one pool that there is, got %+v, %v", pools, err)
	}
}

func TestALedgerThatIsNotReadIsNoEmptyOne(t *testing.T) {
	t.Parallel()
	begin := time.Date(2026, 11, 29, 0, 0, 0, 0, time.UTC)
	var crowd []time.Time
	for range ledgerbook.Most + 1 {
		crowd = append(crowd, begin)
	}
	for name, book := range map[string]shelf{"a book that fails": {fails: errors.New("secret of postgres")}, "a crowd in one moment": {at: crowd}} {
		var failed error
		for _, err := range reading(t, book).Entries(t.Context(), begin, begin.Add(time.Hour)) {
			failed = err
		}
		if !errors.Is(failed, ledgerbook.ErrUnavailable) {
			t.Errorf("%s: want %v, got %v", name, ledgerbook.ErrUnavailable, failed)
		}
	}
}
