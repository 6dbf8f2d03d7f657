// Package ledgerbook is how whoever compares the books reads the token service's ledger: over NATS, a
// span of time and some pools at once, so that nobody else needs Postgres' password.
package ledgerbook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	Subjects       = "leaky.rpc.v1.ledger.*" // all that is asked
	subjectEntries = "leaky.rpc.v1.ledger.entries"
	subjectPools   = "leaky.rpc.v1.ledger.pools"
	queue          = "tokensvc"

	// Most is how many entries, or pools, one answer has: half of the megabyte that a message may hold.
	Most = 2000
	// askWait bounds one question; reading a span may take a while.
	askWait = 20 * time.Second
	// leastSpan is the shortest span that is asked for by itself.
	leastSpan = time.Millisecond
)

// ErrUnavailable says that the token service does not tell; the ledger is not known.
var ErrUnavailable = errors.New("the ledger cannot be read")

// Entry is what a pool paid for a call.
type Entry struct {
	RequestID string `json:"requestId"`
	Account   string `json:"account"`
	Provider  string `json:"provider"`
	Tokens    int64  `json:"tokens"`

	// What the call cost, as its event has it.
	CostMicros   int64  `json:"costMicros"`
	Currency     string `json:"currency,omitzero"`
	PriceVersion string `json:"priceVersion,omitzero"`
	Costed       bool   `json:"costed"` // false: booked before the ledger had costs
}

// Key names a pool.
type Key struct {
	Account  string `json:"account"`
	Provider string `json:"provider"`
}

// Pool is what a pool has left now.
type Pool struct {
	Key
	Remaining int64 `json:"remaining"`
}

// Span is half-open, and of the times at which calls began.
type Span struct {
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
}

type entriesAnswer struct {
	Entries []Entry `json:"entries"`
	More    bool    `json:"more"` // there are more than Most: ask for shorter spans
	Error   string  `json:"error,omitzero"`
}

type poolsAnswer struct {
	Pools []Pool `json:"pools"`
	Error string `json:"error,omitzero"`
}

// Book is the ledger, where it is.
type Book interface {
	// Entries are at most so many of a span, in any order.
	Entries(ctx context.Context, span Span, most int) ([]Entry, error)
	// Pools are those of the keys that there are.
	Pools(ctx context.Context, keys []Key) ([]Pool, error)
}

// Serve answers questions with a book until ctx ends. A failed look is answered as an error, whose
// text stays here.
func Serve(ctx context.Context, conn *nats.Conn, book Book) error {
	entries, err := conn.QueueSubscribe(subjectEntries, queue, func(m *nats.Msg) {
		var span Span
		answer := entriesAnswer{Error: "malformed question"}
		if json.Unmarshal(m.Data, &span) == nil {
			answer = entriesOf(ctx, book, span)
		}
		respond(m, answer)
	})
	if err != nil {
		return fmt.Errorf("subscribe %s: %w", subjectEntries, err)
	}
	pools, err := conn.QueueSubscribe(subjectPools, queue, func(m *nats.Msg) {
		var keys []Key
		answer := poolsAnswer{Error: "malformed question"}
		if json.Unmarshal(m.Data, &keys) == nil && len(keys) <= Most {
			answer = poolsOf(ctx, book, keys)
		}
		respond(m, answer)
	})
	if err != nil {
		return fmt.Errorf("subscribe %s: %w", subjectPools, err)
	}
	<-ctx.Done()
	return errors.Join(entries.Unsubscribe(), pools.Unsubscribe())
}

func respond(m *nats.Msg, answer any) {
	if text, err := json.Marshal(answer); err == nil {
		_ = m.Respond(text) // nobody waits any more: nothing is lost
	}
}

func entriesOf(ctx context.Context, book Book, span Span) entriesAnswer {
	ctx, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	found, err := book.Entries(ctx, span, Most+1)
	switch {
	case err != nil:
		return entriesAnswer{Error: "the token service cannot read it"}
	case len(found) > Most:
		return entriesAnswer{More: true}
	}
	return entriesAnswer{Entries: found}
}

func poolsOf(ctx context.Context, book Book, keys []Key) poolsAnswer {
	ctx, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	found, err := book.Pools(ctx, keys)
	if err != nil {
		return poolsAnswer{Error: "the token service cannot read it"}
	}
	return poolsAnswer{Pools: found}
}

// Client reads the ledger over NATS.
type Client struct{ conn *nats.Conn }

// NewClient asks over conn, which stays the caller's to close.
func NewClient(conn *nats.Conn) *Client { return &Client{conn} }

// Entries gives what pools paid for calls that began in [from, to).
func (c *Client) Entries(ctx context.Context, from, to time.Time) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		spans := []Span{{from, to}}
		for len(spans) > 0 {
			span := spans[len(spans)-1]
			spans = spans[:len(spans)-1]
			var answer entriesAnswer
			err := c.ask(ctx, subjectEntries, span, &answer)
			switch {
			case err == nil && answer.Error != "":
				err = fmt.Errorf("%w: %s", ErrUnavailable, answer.Error)
			case err == nil && answer.More && span.To.Sub(span.From) < 2*leastSpan:
				err = fmt.Errorf("%w: more than %d entries at %s", ErrUnavailable, Most, span.From.Format(time.RFC3339Nano))
			}
			if err != nil {
				yield(Entry{}, err)
				return
			}
			if answer.More {
				middle := span.From.Add(span.To.Sub(span.From) / 2)
				spans = append(spans, Span{middle, span.To}, Span{span.From, middle})
				continue
			}
			for _, e := range answer.Entries {
				if !yield(e, nil) {
					return
				}
			}
		}
	}
}

// Pools gives those of the keys that there are.
func (c *Client) Pools(ctx context.Context, keys []Key) ([]Pool, error) {
	var all []Pool
	for batch := range slices.Chunk(keys, Most) {
		var answer poolsAnswer
		if err := c.ask(ctx, subjectPools, batch, &answer); err != nil {
			return nil, err
		}
		if answer.Error != "" {
			return nil, fmt.Errorf("%w: %s", ErrUnavailable, answer.Error)
		}
		all = append(all, answer.Pools...)
	}
	return all, nil
}

func (c *Client) ask(ctx context.Context, subject string, question, answer any) error {
	text, err := json.Marshal(question)
	if err != nil {
		return fmt.Errorf("encode question: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	reply, err := c.conn.RequestWithContext(ctx, subject, text)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if err := json.Unmarshal(reply.Data, answer); err != nil {
		return fmt.Errorf("%w: malformed answer: %w", ErrUnavailable, err)
	}
	return nil
}
