package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"golang.org/x/text/currency"

	"github.com/leaky-tokens/leaky-tokens/client"
	"github.com/leaky-tokens/leaky-tokens/client/api"
)

type sagasCommand struct {
	List   sagasList   `cmd:"" help:"List purchases, newest first."`
	Show   sagasShow   `cmd:"" help:"Show one purchase with its steps."`
	Retry  sagasRetry  `cmd:"" help:"Go on with a purchase now, parked or not."`
	Cancel sagasCancel `cmd:"" help:"Undo a purchase that is not finished."`
}

// state is the status with what a person has to know about it.
func state(p api.Saga) string {
	switch status := string(p.Status); {
	case p.ParkedAt != nil:
		return status + ", parked"
	case p.Backward && p.NextAction != "":
		return status + ", going back"
	default:
		return status
	}
}

// money writes an amount of minor units, as prices are kept, in the currency's own unit: 3 of usd are
// 0.03 USD, 3 of jpy are 3 JPY. ISO 4217 says how many make one.
func money(minor int64, code string) string {
	unit, err := currency.ParseISO(code)
	if err != nil {
		return fmt.Sprintf("%d minor units of %q", minor, code)
	}
	digits, _ := currency.Standard.Rounding(unit)
	if digits == 0 {
		return fmt.Sprintf("%d %s", minor, unit)
	}
	sign, text := "", strconv.FormatInt(minor, 10)
	if minor < 0 {
		sign, text = "-", text[1:]
	}
	if missing := digits + 1 - len(text); missing > 0 {
		text = strings.Repeat("0", missing) + text
	}
	return fmt.Sprintf("%s%s.%s %s", sign, text[:len(text)-digits], text[len(text)-digits:], unit)
}

type sagasList struct {
	output
	Parked bool   `help:"Only those that wait for a person."`
	Open   bool   `help:"Only those that are not finished."`
	Status string `help:"Only those in this state, such as FAILED."`
	Limit  int32  `default:"50" help:"At most so many, 1 to 500."`
}

// Help shows how it is used.
func (sagasList) Help() string {
	return "Examples:\n\n    leaky sagas list --parked\n    leaky sagas list --open -o json"
}

// Run prints the purchases.
func (l sagasList) Run(ctx context.Context, c *cli) error {
	a, err := openAdmin(c)
	if err != nil {
		return err
	}
	got, err := a.ListSagasWithResponse(ctx, &api.ListSagasParams{Limit: new(l.Limit), Parked: &l.Parked, Open: &l.Open, Status: &l.Status})
	if err != nil {
		return told(err)
	}
	page, err := client.Answer(got.JSON200)
	if err != nil {
		return err
	}
	var rows [][]string
	for _, p := range page.Items {
		rows = append(rows, []string{p.ID.String(), state(p), p.Account, p.Provider, strconv.FormatInt(p.Tokens, 10),
			money(p.Amount, p.Currency), age(time.Duration(p.AgeSeconds * float64(time.Second))), strconv.Itoa(int(p.Attempts)),
			cmp.Or(p.ParkReason, p.Reason, p.LastError)})
	}
	return l.print(os.Stdout, page.Items, []string{"ID", "STATE", "ACCOUNT", "PROVIDER", "TOKENS", "AMOUNT", "AGE", "FAILED TRIES", "WHY"},
		rows)
}

type sagasShow struct {
	output
	ID string `arg:"" help:"Of the purchase."`
}

// Help shows how it is used.
func (sagasShow) Help() string {
	return "Examples:\n\n    leaky sagas show 6d2c7c1e-6a3b-4b5e-9f0a-0d7f2b7d8c11"
}

// Run prints the purchase.
func (s sagasShow) Run(ctx context.Context, c *cli) error {
	return onSaga(ctx, c, s.output, s.ID, nil)
}

type sagasRetry struct {
	output
	ID string `arg:"" help:"Of the purchase."`
}

// Help shows how it is used.
func (sagasRetry) Help() string {
	return "The present step is tried again at once, with its tries counted from nought.\n\nExamples:\n\n    leaky sagas retry 6d2c7c1e-6a3b-4b5e-9f0a-0d7f2b7d8c11"
}

// Run unparks the purchase.
func (s sagasRetry) Run(ctx context.Context, c *cli) error {
	return onSaga(ctx, c, s.output, s.ID, func(a *client.Client, id uuid.UUID) error {
		_, err := a.RetrySagaWithResponse(ctx, id)
		return err
	})
}

type sagasCancel struct {
	output
	ID string `arg:"" help:"Of the purchase."`
}

// Help shows how it is used.
func (sagasCancel) Help() string {
	return "The payment is voided and the tokens are taken back. If it turns out to be captured, the purchase is completed instead.\n\nExamples:\n\n    leaky sagas cancel 6d2c7c1e-6a3b-4b5e-9f0a-0d7f2b7d8c11"
}

// Run turns the purchase back.
func (s sagasCancel) Run(ctx context.Context, c *cli) error {
	return onSaga(ctx, c, s.output, s.ID, func(a *client.Client, id uuid.UUID) error {
		_, err := a.CancelSagaWithResponse(ctx, id)
		return err
	})
}

// onSaga does one operation (nil: none) and prints the purchase as it is then, with the time between
// steps.
func onSaga(ctx context.Context, c *cli, o output, name string, operation func(*client.Client, uuid.UUID) error) error {
	id, err := uuid.Parse(name)
	if err != nil {
		return fmt.Errorf("%q is no purchase's id; leaky sagas list shows them", name)
	}
	a, err := openAdmin(c)
	if err != nil {
		return err
	}
	if operation != nil {
		if err := operation(a, id); err != nil {
			return told(err)
		}
	}
	got, err := a.GetSagaWithResponse(ctx, id)
	if err != nil {
		return told(err)
	}
	p, err := client.Answer(got.JSON200)
	if err != nil {
		return err
	}
	if o.Output != "json" {
		describePurchase(p)
	}
	rows := [][]string{{p.CreatedAt.Format(time.RFC3339Nano), "-", "order", "STARTED", "1", ""}}
	before := p.CreatedAt
	for _, s := range p.Steps {
		rows = append(rows, []string{s.At.Format(time.RFC3339Nano), s.At.Sub(before).Round(10 * time.Microsecond).String(), s.Action,
			string(s.Status),
			strconv.Itoa(int(s.Attempts)), s.Detail})
		before = s.At
	}
	return o.print(os.Stdout, p, []string{"AT", "AFTER", "STEP", "STATUS", "TRIES", "DETAIL"}, rows)
}

// describe prints what stands above the steps.
func describePurchase(p api.Saga) {
	fmt.Printf("%s: %s\n%d tokens of %s for %s, %s", p.ID, state(p), p.Tokens, p.Provider, p.Account, money(p.Amount, p.Currency))
	if p.PaymentID != "" {
		fmt.Printf(", payment %s", p.PaymentID)
	}
	fmt.Println()
	for _, line := range [][2]string{{"parked", p.ParkReason}, {"undone", p.Reason}, {"last error", p.LastError}} {
		if line[1] != "" {
			fmt.Printf("%s: %s\n", line[0], line[1])
		}
	}
	if p.NextAt != nil {
		fmt.Printf("next: %s at %s (failed tries: %d)\n", p.NextAction, p.NextAt.Format(time.RFC3339), p.Attempts)
	}
	fmt.Println()
}
