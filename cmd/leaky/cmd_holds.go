package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
)

type holdsCommand struct {
	output
	Account string `help:"Only those of this account, such as user:0b8f... or org:77ab...; else of all." placeholder:"ACCOUNT"`
	Limit   int64  `default:"100" help:"At most so many, 1 to 10000."`
}

// Help shows how it is used.
func (holdsCommand) Help() string {
	return `A hold is what a call may still use at most; it ends when the call is settled. One that nobody settles is charged or given back when it is due (holds.expiry). All keys of Redis are read, slowly: it is for people.

Examples:

    leaky holds
    leaky holds --account user:1c9d4a0e-6f6b-4f0a-9a57-1f4f8c0d2e11
    leaky holds --limit 1000 -o json`
}

// heldLine is a hold as it is printed.
type heldLine struct {
	RequestID string `json:"requestId"`
	Account   string `json:"account"`
	User      string `json:"userId,omitzero"`
	Key       string `json:"keyId,omitzero"`
	Provider  string `json:"provider,omitzero"`
	Model     string `json:"model,omitzero"`
	Route     string `json:"route,omitzero"`
	Held      int64  `json:"heldTokens"`
	AgeMS     int64  `json:"ageMs"`
	DueMS     int64  `json:"dueMs"` // until it is settled by policy; negative: now
}

func newHeldLine(h *limitpb.Held) heldLine {
	f := h.GetFacts()
	return heldLine{RequestID: f.GetRequestId(), Account: h.GetAccount(), User: f.GetUser(), Key: f.GetKey(), Provider: f.GetProvider(),
		Model: f.GetModel(),
		Route: f.GetRoute(), Held: h.GetHeld(), AgeMS: h.GetAgeUs() / 1000, DueMS: h.GetExpiresUs() / 1000}
}

// Run prints the holds.
func (k holdsCommand) Run(ctx context.Context, c *cli) error {
	l, err := openLocal(c)
	if err != nil {
		return err
	}
	answer, err := holdsOf(ctx, l, k.Account, k.Limit)
	if err != nil {
		return err
	}
	lines, rows := []heldLine{}, [][]string{}
	for _, h := range answer.GetHolds() {
		line := newHeldLine(h)
		lines = append(lines, line)
		due := "due"
		if line.DueMS > 0 {
			due = "in " + age(time.Duration(line.DueMS)*time.Millisecond)
		}
		rows = append(rows, []string{line.RequestID, line.Account, line.Provider, line.Model, strconv.FormatInt(line.Held, 10),
			age(time.Duration(line.AgeMS) * time.Millisecond), due})
	}
	page := struct {
		Holds []heldLine `json:"holds"`
		More  bool       `json:"more"`
	}{lines, answer.GetMore()}
	if err := k.print(os.Stdout, page, []string{"REQUEST", "ACCOUNT", "PROVIDER", "MODEL", "TOKENS", "AGE", "EXPIRES"}, rows); err != nil {
		return err
	}
	if page.More && k.Output != "json" {
		fmt.Fprintf(os.Stderr, "There are more; these are the oldest %d (--limit).\n", len(lines))
	}
	return nil
}

// holdsOf asks the first process of ratelimit that answers: all of them see the same.
func holdsOf(ctx context.Context, l local, account string, limit int64) (answer *limitpb.ListHoldsResponse, err error) {
	ctx, cancel := context.WithTimeout(ctx, limitersTimeout)
	defer cancel()
	err = l.someLimiter(ctx, func(ctx context.Context, limiter limitpb.LimiterClient) error {
		answer, err = limiter.ListHolds(ctx, &limitpb.ListHoldsRequest{Account: account, Limit: limit})
		return err
	})
	return answer, err
}
