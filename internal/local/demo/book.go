package demo

import (
	"sync"

	"github.com/leaky-tokens/leaky-tokens/internal/local/demo/judge"
)

// tally is the running count of one account.
type tally struct {
	Admitted, Refused, Aborted, Failed int
	Settled                            int64 // tokens
}

// book is where the clients write their calls down.
type book struct {
	mu      sync.Mutex
	calls   []judge.Call
	tallies []tally
	fresh   []int // calls the watcher has not looked at
}

func newBook(accounts int) *book { return &book{tallies: make([]tally, accounts)} }

// add takes down a call that has ended.
func (b *book) add(c judge.Call) {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := &b.tallies[c.Account]
	switch c.Outcome {
	case judge.Completed:
		t.Admitted++
	case judge.Aborted:
		if c.Admitted() {
			t.Admitted++
		}
		t.Aborted++
	case judge.Broken:
		t.Admitted++
		t.Failed++
	case judge.Refused:
		t.Refused++
	case judge.Failed, judge.Unexpected:
		t.Failed++
	}
	if c.ID != "" && c.Outcome != judge.Refused {
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
func (b *book) takeFresh() []judge.Call {
	b.mu.Lock()
	defer b.mu.Unlock()
	taken := make([]judge.Call, len(b.fresh))
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
func (b *book) all() []judge.Call {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]judge.Call(nil), b.calls...)
}
