package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

	"github.com/google/uuid"
)

type sagasCommand struct {
	List   sagasList   `cmd:"" help:"List purchases, newest first."`
	Show   sagasShow   `cmd:"" help:"Show one purchase with its steps."`
	Retry  sagasRetry  `cmd:"" help:"Go on with a purchase now, parked or not."`
	Cancel sagasCancel `cmd:"" help:"Undo a purchase that is not finished."`
}

// purchase is what the token service reports of one (GET /api/v1/admin/sagas/{id}).
type purchase struct {
	ID         string     `json:"id"`
	Account    string     `json:"account"`
	Provider   string     `json:"provider"`
	Tokens     int64      `json:"tokens"`
	Amount     int64      `json:"amount"`
	Currency   string     `json:"currency"`
	Status     string     `json:"status"`
	Backward   bool       `json:"backward"`
	Recovered  bool       `json:"recovered"`
	Reason     string     `json:"reason,omitzero"`
	PaymentID  string     `json:"paymentId,omitzero"`
	Attempts   int        `json:"attempts"`
	LastError  string     `json:"lastError,omitzero"`
	ParkedAt   *time.Time `json:"parkedAt"`
	ParkReason string     `json:"parkReason,omitzero"`
	NextAction string     `json:"nextAction,omitzero"`
	NextAt     *time.Time `json:"nextAt"`
	LeaseOwner string     `json:"leaseOwner,omitzero"`
	CreatedAt  time.Time  `json:"createdAt"`
	UpdatedAt  time.Time  `json:"updatedAt"`
	AgeSeconds float64    `json:"ageSeconds"`
	Steps      []struct {
		Status   string    `json:"status"`
		Action   string    `json:"action"`
		Detail   string    `json:"detail,omitzero"`
		Attempts int       `json:"attempts"`
		At       time.Time `json:"at"`
	} `json:"steps,omitempty"`
}

// state is the status with what a person has to know about it.
func (p purchase) state() string {
	switch {
	case p.ParkedAt != nil:
		return p.Status + ", parked"
	case p.Backward && p.NextAction != "":
		return p.Status + ", going back"
	}
	return p.Status
}

type sagasList struct {
	output
	Parked bool   `help:"Only those that wait for a person."`
	Open   bool   `help:"Only those that are not finished."`
	Status string `help:"Only those in this state, such as FAILED."`
	Limit  int    `default:"50" help:"At most so many, 1 to 500."`
}

// Help shows how it is used.
func (sagasList) Help() string {
	return "Examples:\n\n    leaky sagas list --parked\n    leaky sagas list --open -o json"
}

// Run prints the purchases.
func (l sagasList) Run(ctx context.Context, c *cli) error {
	a, err := openAdmin(ctx, c)
	if err != nil {
		return err
	}
	query := url.Values{"limit": {strconv.Itoa(l.Limit)}, "parked": {strconv.FormatBool(l.Parked)}, "open": {strconv.FormatBool(l.Open)},
		"status": {l.Status}}
	var page struct {
		Items []purchase `json:"items"`
	}
	if err := a.call(ctx, http.MethodGet, "/api/v1/admin/sagas?"+query.Encode(), nil, &page); err != nil {
		return err
	}
	var rows [][]string
	for _, p := range page.Items {
		why := p.ParkReason
		if why == "" {
			why = p.Reason
		}
		if why == "" {
			why = p.LastError
		}
		rows = append(rows, []string{p.ID, p.state(), p.Account, p.Provider, strconv.FormatInt(p.Tokens, 10), fmt.Sprintf("%d %s", p.Amount,
			p.Currency),
			age(time.Duration(p.AgeSeconds * float64(time.Second))), strconv.Itoa(p.Attempts), why})
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
	return onSaga(ctx, c, s.output, s.ID, http.MethodGet, "")
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
	return onSaga(ctx, c, s.output, s.ID, http.MethodPost, "/retry")
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
	return onSaga(ctx, c, s.output, s.ID, http.MethodPost, "/cancel")
}

// onSaga does one operation and prints the purchase as it is then, with the time between steps.
func onSaga(ctx context.Context, c *cli, o output, id, method, operation string) error {
	if _, err := uuid.Parse(id); err != nil {
		return fmt.Errorf("%q is no purchase's id; leaky sagas list shows them", id)
	}
	a, err := openAdmin(ctx, c)
	if err != nil {
		return err
	}
	path := "/api/v1/admin/sagas/" + id
	var p purchase
	if operation != "" {
		if err := a.call(ctx, method, path+operation, nil, nil); err != nil {
			return err
		}
	}
	if err := a.call(ctx, http.MethodGet, path, nil, &p); err != nil {
		return err
	}
	if o.Output != "json" {
		p.describe()
	}
	rows := [][]string{{p.CreatedAt.Format(time.RFC3339Nano), "-", "order", "STARTED", "1", ""}}
	before := p.CreatedAt
	for _, s := range p.Steps {
		rows = append(rows, []string{s.At.Format(time.RFC3339Nano), s.At.Sub(before).Round(10 * time.Microsecond).String(), s.Action, s.Status,
			strconv.Itoa(s.Attempts), s.Detail})
		before = s.At
	}
	return o.print(os.Stdout, p, []string{"AT", "AFTER", "STEP", "STATUS", "TRIES", "DETAIL"}, rows)
}

// describe prints what stands above the steps.
func (p purchase) describe() {
	fmt.Printf("%s: %s\n%d tokens of %s for %s, %d minor units of %s", p.ID, p.state(), p.Tokens, p.Provider, p.Account, p.Amount, p.Currency)
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
