package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/client"
	"github.com/leaky-tokens/leaky-tokens/client/api"
)

// chargesCommand is `leaky charges`: what somebody who asks about their bill is to be told.
type chargesCommand struct {
	output
	User  string `arg:"" help:"Name, e-mail address or id of the user."`
	Since string `help:"What began since: a time of RFC 3339, a day, or so long ago (36h)." default:"24h" placeholder:"TIME"`
	Limit int64  `help:"Newest calls of each provider, and purchases, 1 to 200." default:"100"`
}

// Help shows how it is used.
func (chargesCommand) Help() string {
	return `Lists the calls and purchases of a user, the newest first, with what each cost. The last column says how a call ended where it did not end well, and names the one before it that was alike (same model, same input) and began less than a minute earlier: whether the two came by one key or by two.

Examples:

    leaky charges ann
    leaky charges ann@example.org --since 7d
    leaky charges ann -o json | jq '.[] | select(.like)'`
}

// mostCharges is the largest page of calls.
const mostCharges = 200

// alikeWithin is how soon after another a call counts as a second try of it.
const alikeWithin = time.Minute

// charge is one call or purchase.
type charge struct {
	At       time.Time `json:"at"`
	What     string    `json:"what"` // call or purchase
	ID       string    `json:"id"`
	Key      string    `json:"keyId,omitzero"`
	Account  string    `json:"account,omitzero"`
	Provider string    `json:"provider"`
	Model    string    `json:"model,omitzero"`
	Status   string    `json:"status"` // of HTTP, or the purchase's
	Input    int64     `json:"inputTokens"`
	Tokens   int64     `json:"tokens"`
	Cost     string    `json:"cost,omitzero"`
	Source   string    `json:"source,omitzero"`
	Reason   string    `json:"reason,omitzero"`
	Latency  int64     `json:"latencyMs,omitzero"`
	First    int64     `json:"firstByteMs,omitzero"`
	Like     string    `json:"like,omitzero"`    // id of the one that this is like
	After    float64   `json:"seconds,omitzero"` // since that one began
	OtherKey bool      `json:"otherKey,omitzero"`
}

// Run lists them.
func (k chargesCommand) Run(ctx context.Context, root *cli) error {
	if k.Limit < 1 || k.Limit > mostCharges {
		return fmt.Errorf("--limit %d: it must be 1 to %d", k.Limit, mostCharges)
	}
	from, err := moment(k.Since, time.Now().UTC())
	if err != nil {
		return fmt.Errorf("--since: %w", err)
	}
	l, err := openLocal(root)
	if err != nil {
		return err
	}
	admin, err := openAdmin(root)
	if err != nil {
		return err
	}
	user, err := userNamed(ctx, admin, k.User)
	if err != nil {
		return err
	}
	all := []charge{}
	for _, provider := range slices.Sorted(maps.Keys(l.cfg.Providers)) {
		got, err := admin.ListUsageWithResponse(ctx, &api.ListUsageParams{Provider: provider, UserID: &user.ID, From: &from,
			Limit: &k.Limit})
		if err != nil {
			return told(err)
		}
		page, err := client.Answer(got.JSON200)
		if err != nil {
			return err
		}
		for _, u := range page.Items {
			all = append(all, ofCall(u))
		}
	}
	got, err := admin.ListPurchasesMadeWithResponse(ctx, &api.ListPurchasesMadeParams{UserID: &user.ID, From: &from, Limit: &k.Limit})
	if err != nil {
		return told(err)
	}
	made, err := client.Answer(got.JSON200)
	if err != nil {
		return err
	}
	for _, p := range made.Items {
		all = append(all, charge{At: p.CreatedAt, What: "purchase", ID: p.SagaID.String(), Provider: p.Provider, Status: p.Status,
			Tokens: p.Tokens, Cost: money(p.Amount, p.Currency), Reason: p.Reason})
	}
	alike(all)
	slices.Reverse(all)
	rows := make([][]string, len(all))
	for i, c := range all {
		rows[i] = []string{c.At.UTC().Format("2006-01-02T15:04:05.000Z"), c.What, c.ID, orDash(c.Key), c.Provider, orDash(c.Model), c.Status,
			strconv.FormatInt(c.Tokens, 10), orDash(c.Cost), c.note()}
	}
	return k.print(os.Stdout, all, []string{"BEGAN", "WHAT", "ID", "KEY", "PROVIDER", "MODEL", "STATUS", "TOKENS", "COST", "NOTE"}, rows)
}

func ofCall(u api.UsageItem) charge {
	c := charge{At: u.Key.Timestamp, What: "call", ID: u.RequestID, Key: u.KeyID, Account: u.Account, Provider: u.Provider, Model: u.Model,
		Status: strconv.Itoa(int(u.Status)), Input: u.InputTokens, Tokens: u.Tokens, Source: u.Source, Reason: u.Reason,
		Latency: u.LatencyMs, First: u.FirstByteMs}
	if !u.Allowed {
		c.Tokens = 0 // what was asked for
	}
	if u.CostMicros != nil {
		c.Cost = spent(map[string]int64{u.Currency: *u.CostMicros})
	}
	return c
}

// alike sorts charges by time and marks each that is like the one before of its kind.
func alike(all []charge) {
	slices.SortStableFunc(all, func(a, b charge) int { return a.At.Compare(b.At) })
	type kind struct {
		what, provider, model string
		tokens                int64 // of a call the input, which does not depend on the answer
	}
	last := map[kind]int{}
	for i := range all {
		c := &all[i]
		if c.Tokens == 0 {
			continue // nobody paid for it
		}
		of := kind{c.What, c.Provider, c.Model, c.Input}
		if c.What == "purchase" || c.Input == 0 { // consume says its tokens itself
			of.tokens = c.Tokens
		}
		if j, found := last[of]; found && c.At.Sub(all[j].At) < alikeWithin {
			c.Like, c.After, c.OtherKey = all[j].ID, c.At.Sub(all[j].At).Seconds(), c.Key != all[j].Key
		}
		last[of] = i
	}
}

// note is the last column.
func (c charge) note() string {
	text := c.Reason
	if c.Source == "estimated" || c.Source == "held" || c.Source == "expired" {
		text = c.Source + ": " + cmp.Or(c.Reason, "the provider told no count")
	}
	if c.Like == "" {
		return text
	}
	by := "the same key"
	switch {
	case c.What == "purchase":
		by = "another purchase"
	case c.OtherKey:
		by = "another key"
	}
	if text != "" {
		text += "; "
	}
	return fmt.Sprintf("%sAGAIN: like %s, %.1f s later, by %s", text, c.Like, c.After, by)
}

// userNamed finds one user by name, e-mail address or id; only an id has to be looked for among all.
func userNamed(ctx context.Context, admin *client.Client, text string) (api.User, error) {
	query := text
	if _, err := uuid.Parse(text); err == nil {
		query = ""
	}
	users, err := usersLike(ctx, admin, query)
	if err != nil {
		return api.User{}, err
	}
	for _, u := range users {
		if u.Username == text || u.Email == text || u.ID.String() == text {
			return u, nil
		}
	}
	return api.User{}, fmt.Errorf("no user is called %q; `leaky users list` lists them", text)
}
