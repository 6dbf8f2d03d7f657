package payment

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
)

// Stripe speaks the payment intents API with manual capture
// (https://docs.stripe.com/api/payment_intents): bodies are forms, amounts are minor units, and the
// purchase's id is in the metadata.
//
// A repeated create answers what the first one did, even if the intent has changed since,
// so a replayed answer is followed by a GET. The search by metadata lags behind
// writes; Absent from Find is therefore a hint, and the caller repeats the create with its
// idempotency key, which Stripe keeps for at least 24 hours.
type Stripe struct{ caller *caller }

// NewStripe makes a client of Stripe's payment intents.
func NewStripe(cfg Config) (*Stripe, error) {
	c, err := newCaller(cfg)
	if err != nil {
		return nil, err
	}
	return &Stripe{caller: c}, nil
}

type stripeIntent struct {
	ID       string            `json:"id"`
	Object   string            `json:"object"`
	Status   string            `json:"status"`
	Amount   int64             `json:"amount"`
	Received int64             `json:"amount_received"`
	Currency string            `json:"currency"`
	Metadata map[string]string `json:"metadata"`
	Reason   string            `json:"cancellation_reason"`
	Charge   json.RawMessage   `json:"latest_charge"` // expanded, an object; else its id
	Error    *struct {
		Type    string        `json:"type"`
		Code    string        `json:"code"`
		Decline string        `json:"decline_code"`
		Intent  *stripeIntent `json:"payment_intent"`
	} `json:"error"`
	Data *[]stripeIntent `json:"data"` // of a search
}

// metadataPurchase is the member of an intent's metadata with the purchase's id.
const metadataPurchase = "purchase_id"

// Authorize creates and confirms an intent that is captured by hand.
func (s *Stripe) Authorize(ctx context.Context, o Order) (State, error) {
	form := url.Values{"amount": {strconv.FormatInt(o.Amount, 10)}, "currency": {o.Currency}, "capture_method": {"manual"},
		"confirm": {"true"}, "expand[]": {"latest_charge"},
		"metadata[" + metadataPurchase + "]": {o.Purchase.String()}, "metadata[account]": {o.Account}}
	return s.post(ctx, o, "/v1/payment_intents", "authorize", form)
}

// Capture takes the whole amount.
func (s *Stripe) Capture(ctx context.Context, o Order) (State, error) {
	if o.ID == "" {
		return s.Find(ctx, o)
	}
	return s.post(ctx, o, "/v1/payment_intents/"+url.PathEscape(o.ID)+"/capture", "capture",
		url.Values{"amount_to_capture": {strconv.FormatInt(o.Amount, 10)}, "expand[]": {"latest_charge"}})
}

// Void cancels the intent.
func (s *Stripe) Void(ctx context.Context, o Order) (State, error) {
	if o.ID == "" {
		return s.Find(ctx, o)
	}
	return s.post(ctx, o, "/v1/payment_intents/"+url.PathEscape(o.ID)+"/cancel", "void", url.Values{"expand[]": {"latest_charge"}})
}

// Find reads the intent, by its id if that is known, else by the purchase's.
func (s *Stripe) Find(ctx context.Context, o Order) (State, error) {
	path := "/v1/payment_intents/" + url.PathEscape(o.ID) + "?expand[]=latest_charge"
	if o.ID == "" {
		query := fmt.Sprintf("metadata['%s']:'%s'", metadataPurchase, o.Purchase)
		path = "/v1/payment_intents/search?expand[]=data.latest_charge&query=" + url.QueryEscape(query)
	}
	state, _, err := s.send(ctx, o, request{method: http.MethodGet, path: path})
	return state, err
}

// post carries out one step. An answer that is a replay may be old, so the truth is asked for.
func (s *Stripe) post(ctx context.Context, o Order, path, step string, form url.Values) (State, error) {
	state, replayed, err := s.send(ctx, o, request{method: http.MethodPost, path: path, key: stepKey(o, step),
		contentType: "application/x-www-form-urlencoded", body: form.Encode()})
	if err != nil || !replayed || state.ID == "" {
		return state, err
	}
	o.ID = state.ID
	return s.Find(ctx, o)
}

func (s *Stripe) send(ctx context.Context, o Order, r request) (State, bool, error) {
	var got stripeIntent
	status, replayed, err := s.caller.send(ctx, r, &got)
	if err != nil {
		return State{}, false, err
	}
	intent := &got
	switch {
	case status == http.StatusNotFound:
		return State{Status: Absent}, replayed, nil
	case got.Error != nil && got.Error.Intent != nil:
		intent = got.Error.Intent // a card error, or a call that does not fit the intent's state
	case got.Error != nil && got.Error.Type == "card_error":
		return State{Status: Declined, Amount: o.Amount, Currency: o.Currency, Reason: got.Error.Decline}, replayed, nil
	case got.Error != nil && got.Error.Type == "idempotency_error":
		return State{}, false, fmt.Errorf("%w: the idempotency key is in use", ErrUndecided)
	case status/100 != 2:
		return State{}, false, fmt.Errorf("%w: status %d", ErrRefused, status)
	case got.Data != nil && len(*got.Data) == 0:
		return State{Status: Absent}, replayed, nil
	case got.Data != nil:
		intent = &(*got.Data)[0]
	}
	if intent.ID == "" || intent.Metadata[metadataPurchase] != o.Purchase.String() {
		return State{}, false, fmt.Errorf("%w: the answer is about another payment", ErrUndecided)
	}
	state, err := intent.state()
	if err == nil && got.Error != nil && state.Status == Declined {
		state.Reason = got.Error.Decline
	}
	return state, replayed, err
}

// state maps an intent's lifecycle (https://docs.stripe.com/payments/paymentintents/lifecycle).
func (i *stripeIntent) state() (State, error) {
	state := State{ID: i.ID, Amount: i.Amount, Captured: i.Received, Currency: i.Currency, Reason: i.Reason}
	switch i.Status {
	case "requires_capture":
		state.Status = Authorized
	case "succeeded":
		state.Status = Captured
		if i.refunded() {
			state.Status, state.Captured, state.Reason = Voided, 0, "refunded"
		}
	case "canceled":
		state.Status = Voided
	case "requires_payment_method":
		state.Status = Declined
	default: // processing, requires_action, requires_confirmation
		return State{}, fmt.Errorf("%w: the intent is %.30q", ErrUndecided, i.Status)
	}
	return state, nil
}

// refunded reports whether all that was taken was given back; the intent's own status
// does not tell.
func (i *stripeIntent) refunded() bool {
	var charge struct {
		Refunded bool  `json:"refunded"`
		Amount   int64 `json:"amount_refunded"`
	}
	return json.Unmarshal(i.Charge, &charge) == nil && charge.Refunded && charge.Amount >= i.Received
}
