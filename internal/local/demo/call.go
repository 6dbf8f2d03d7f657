package demo

import (
	"sync"
	"time"
)

// Outcome is how a call ended for the client.
type Outcome string

const (
	Completed  Outcome = "completed"  // 200, and the answer ended as its protocol says
	Aborted    Outcome = "aborted"    // 200, and the client hung up in the middle
	Broken     Outcome = "broken"     // 200, and the answer stopped before its end
	Refused    Outcome = "refused"    // 429: a limit said no
	Failed     Outcome = "failed"     // no answer, or 5xx
	Declined   Outcome = "declined"   // the provider refused or failed, as it was told to
	Unexpected Outcome = "unexpected" // an answer that the demo never asks for, such as 401
)

// Call is what one client knows of one request. Times are since the demo began.
type Call struct {
	Account    int           // index of the account
	Provider   string        // whose route was called
	Stream     bool          // SSE was asked for
	ID         string        // x-request-id of the answer, empty when none came
	Outcome    Outcome       //
	Status     int           // HTTP status, 0 when no answer came
	Blind      string        // x-leaky-outage: the mode in which it was admitted without Redis, else empty
	Held       int64         // x-leaky-hold: tokens held, 0 when the answer had none
	Input      int64         // tokens as the answer told, -1 when it told none
	Output     int64         // tokens as the answer told, -1 when it told none
	RetryAfter time.Duration // of a refusal; below zero when a retry never fits
	Type, Code string        // of a refusal in OpenAI's shape
	Manner     string        // of a call in a rude demo
	Untold     bool          // the stub was told to leave the usage out
	Problem    string        // what was wrong, for all but Completed and Aborted
	Sent       time.Duration // just before the request left
	Answered   time.Duration // when the head of the answer was there
	Ended      time.Duration // when the last byte was there, or the client hung up
}

// admitted tells whether the limiter let the call pass.
func (c *Call) admitted() bool { return c.Status == 200 }

// tally is the running count of one account.
type tally struct {
	Admitted, Refused, Aborted, Failed int
	Settled                            int64 // tokens
}

// book is where the clients write their calls down.
type book struct {
	mu      sync.Mutex
	calls   []Call
	tallies []tally
	fresh   []int // calls the watcher has not looked at
}

func newBook(accounts int) *book { return &book{tallies: make([]tally, accounts)} }

// add takes down a call that has ended.
func (b *book) add(c Call) {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := &b.tallies[c.Account]
	switch c.Outcome {
	case Completed:
		t.Admitted++
	case Aborted:
		if c.admitted() {
			t.Admitted++
		}
		t.Aborted++
	case Broken:
		t.Admitted++
		t.Failed++
	case Refused:
		t.Refused++
	case Failed, Unexpected:
		t.Failed++
	}
	if c.ID != "" && c.Outcome != Refused {
		b.fresh = append(b.fresh, len(b.calls))
	}
	b.calls = append(b.calls, c)
}

// settle adds to an account's settled tokens.
func (b *book) settle(account int, tokens int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tallies[account].Settled += tokens
}

// takeFresh gives the calls that ended since it was last asked, refusals left out.
func (b *book) takeFresh() []Call {
	b.mu.Lock()
	defer b.mu.Unlock()
	taken := make([]Call, len(b.fresh))
	for i, at := range b.fresh {
		taken[i] = b.calls[at]
	}
	b.fresh = b.fresh[:0]
	return taken
}

// snapshot copies the running counts.
func (b *book) snapshot() []tally {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]tally(nil), b.tallies...)
}

// all copies every call.
func (b *book) all() []Call {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]Call(nil), b.calls...)
}
