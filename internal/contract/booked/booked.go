// Package booked is how ratelimit learns, before it decides, what the books know of a limit whose
// count Redis has lost: it asks analytics over NATS, which has every call with all that a limit can
// name.
package booked

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// Subject is where analytics is asked, plain NATS.
	Subject = "leaky.rpc.v1.booked"
	queue   = "analytics"
	// Most is how many limits one question names: more than a call falls under.
	Most = 64
	// atOnce is how many questions one process reads the books for at once, pending how many more wait;
	// others are told to come again.
	atOnce, pending = 4, 256
)

// ErrUnavailable says that the books do not tell; what was used is not known.
var ErrUnavailable = errors.New("the books cannot tell what was used")

// Keys are what calls are told apart by in the books, in the words of limits.
func Keys() []string {
	return []string{"user", "org", "team", "key", "tier", "model", "provider", "route"}
}

// Limit is a limit, and whose calls fall under it.
type Limit struct {
	Account  string            `json:"account,omitzero"` // empty: of all accounts
	Of       map[string]string `json:"of"`               // by Keys
	Tokens   bool              `json:"tokens,omitzero"`  // it counts tokens, else calls
	From     time.Time         `json:"from"`             // when its window began; of a bucket that drains, when a full one had begun to
	Rate     float64           `json:"rate,omitzero"`    // drained per second; 0: a window
	Capacity float64           `json:"capacity"`         // of a bucket that drains
}

// Ask is a question. Without limits it asks whether anything is booked at all.
type Ask struct {
	Limits []Limit `json:"limits"`
	// After is a time: what was published before it must be in the answer.
	After time.Time `json:"after"`
}

// Answer is the reply to an Ask.
type Answer struct {
	Used  []float64 `json:"used"`  // tokens or calls of each limit now
	Empty bool      `json:"empty"` // there is no call in the books
	Error string    `json:"error,omitzero"`
}

// Check reports what of a question makes no sense.
func (a Ask) Check() error {
	if len(a.Limits) > Most {
		return fmt.Errorf("%d limits, at most %d at once", len(a.Limits), Most)
	}
	for _, l := range a.Limits {
		if l.From.IsZero() || l.Rate < 0 || l.Capacity < 0 {
			return errors.New("a limit has no begin, or drains or holds less than nothing")
		}
		for key := range l.Of {
			if !slices.Contains(Keys(), key) {
				return fmt.Errorf("the books do not tell calls apart by %q", key)
			}
		}
	}
	return nil
}

// Book is the books, where they are.
type Book interface {
	Tell(ctx context.Context, ask Ask) (Answer, error)
}

// Serve answers questions with a book until ctx ends. failed hears why a look failed, which the asker
// is not told.
func Serve(ctx context.Context, conn *nats.Conn, book Book, wait time.Duration, failed func(error)) error {
	questions := make(chan *nats.Msg, pending)
	sub, err := conn.ChanQueueSubscribe(Subject, queue, questions)
	if err != nil {
		return fmt.Errorf("subscribe %s: %w", Subject, err)
	}
	var group sync.WaitGroup
	for range atOnce {
		group.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case m := <-questions:
					answer(ctx, m, book, wait, failed)
				}
			}
		})
	}
	group.Wait()
	return sub.Unsubscribe()
}

func answer(ctx context.Context, m *nats.Msg, book Book, wait time.Duration, failed func(error)) {
	var ask Ask
	told := Answer{Error: "malformed question"}
	if json.Unmarshal(m.Data, &ask) == nil && ask.Check() == nil {
		ctx, cancel := context.WithTimeout(ctx, wait)
		defer cancel()
		var err error
		if told, err = book.Tell(ctx, ask); err != nil {
			failed(err)
			told = Answer{Error: "analytics cannot read them now"}
		}
	}
	if text, err := json.Marshal(told); err == nil {
		_ = m.Respond(text) // nobody waits any more: nothing is lost
	}
}

// Client asks over NATS.
type Client struct {
	conn *nats.Conn
	wait time.Duration
}

// NewClient asks over conn, which stays the caller's to close, and waits so long for an answer.
func NewClient(conn *nats.Conn, wait time.Duration) *Client { return &Client{conn, wait} }

// Tell asks. An error wraps ErrUnavailable.
func (c *Client) Tell(ctx context.Context, ask Ask) (Answer, error) {
	text, err := json.Marshal(ask)
	if err != nil {
		return Answer{}, fmt.Errorf("%w: encode question: %w", ErrUnavailable, err)
	}
	ctx, cancel := context.WithTimeout(ctx, c.wait)
	defer cancel()
	reply, err := c.conn.RequestWithContext(ctx, Subject, text)
	if err != nil {
		return Answer{}, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	var told Answer
	if err := json.Unmarshal(reply.Data, &told); err != nil {
		return Answer{}, fmt.Errorf("%w: malformed answer: %w", ErrUnavailable, err)
	}
	switch {
	case told.Error != "":
		return Answer{}, fmt.Errorf("%w: %.200s", ErrUnavailable, told.Error)
	case len(told.Used) != len(ask.Limits):
		return Answer{}, fmt.Errorf("%w: told of %d limits, asked for %d", ErrUnavailable, len(told.Used), len(ask.Limits))
	}
	return told, nil
}
