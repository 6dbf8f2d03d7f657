package payment

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
)

// Plain speaks our own protocol, which the payment stub and an adapter to any provider can
// serve:
//
//	POST /v1/payments                  {reference, account, amount, currency}: authorise
//	POST /v1/payments/{reference}/capture  {amount}
//	POST /v1/payments/{reference}/void
//	GET  /v1/payments/{reference}
//
// The reference is the purchase's id. An answer is the payment, {id, reference, status,
// amount, captured, currency, reason}, with 200 or 201; 402 when it is declined; 409 when the
// call does not fit its state; 404 when there is none.
type Plain struct{ caller *caller }

// NewPlain makes a client of the plain protocol.
func NewPlain(cfg Config) (*Plain, error) {
	c, err := newCaller(cfg)
	if err != nil {
		return nil, err
	}
	return &Plain{caller: c}, nil
}

type plainPayment struct {
	ID        string `json:"id"`
	Reference string `json:"reference"`
	Status    string `json:"status"`
	Amount    int64  `json:"amount"`
	Captured  int64  `json:"captured"`
	Currency  string `json:"currency"`
	Reason    string `json:"reason"`
}

// Authorize reserves the amount.
func (p *Plain) Authorize(ctx context.Context, o Order) (State, error) {
	return p.post(ctx, o, "", "authorize", map[string]any{"reference": o.Purchase, "account": o.Account, "amount": o.Amount,
		"currency": o.Currency})
}

// Capture takes the reserved amount.
func (p *Plain) Capture(ctx context.Context, o Order) (State, error) {
	return p.post(ctx, o, "/"+o.Purchase.String()+"/capture", "capture", map[string]any{"amount": o.Amount})
}

// Void gives the reserved amount back.
func (p *Plain) Void(ctx context.Context, o Order) (State, error) {
	return p.post(ctx, o, "/"+o.Purchase.String()+"/void", "void", struct{}{})
}

// Find tells what there is.
func (p *Plain) Find(ctx context.Context, o Order) (State, error) {
	return p.send(ctx, o, request{method: http.MethodGet, path: "/v1/payments/" + o.Purchase.String()})
}

func (p *Plain) post(ctx context.Context, o Order, path, step string, body any) (State, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return State{}, fmt.Errorf("write payment request: %w", err)
	}
	return p.send(ctx, o, request{method: http.MethodPost, path: "/v1/payments" + path, key: stepKey(o, step),
		contentType: "application/json", body: string(text)})
}

// stepKey names one step of one purchase for the provider.
func stepKey(o Order, step string) string { return o.Purchase.String() + ":" + step }

func (p *Plain) send(ctx context.Context, o Order, r request) (State, error) {
	var got plainPayment
	status, _, err := p.caller.send(ctx, r, &got)
	if err != nil {
		return State{}, err
	}
	switch status {
	case http.StatusOK, http.StatusCreated, http.StatusPaymentRequired, http.StatusConflict:
	case http.StatusNotFound:
		return State{Status: Absent}, nil
	default:
		return State{}, fmt.Errorf("%w: status %d", ErrRefused, status)
	}
	if got.Reference != o.Purchase.String() {
		return State{}, fmt.Errorf("%w: the answer is about another payment", ErrUndecided)
	}
	state := State{ID: got.ID, Status: Status(got.Status), Amount: got.Amount, Captured: got.Captured, Currency: got.Currency,
		Reason: got.Reason}
	switch state.Status {
	case Authorized, Captured, Voided, Declined:
		return state, nil
	case Absent:
	}
	return State{}, fmt.Errorf("%w: status %.20q of a payment is not known", ErrUndecided, got.Status)
}
