package payment

import (
	"encoding/json"
	"net/http"
	"regexp"
	"strconv"

	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
)

// reply is an answer kept under its idempotency key, with the call it was given to.
type reply struct {
	status     int
	body       []byte
	call, form string
}

// intent is Stripe's PaymentIntent, as far as we use it.
type intent struct {
	ID            string            `json:"id"`
	Object        string            `json:"object"`
	Amount        int64             `json:"amount"`
	Capturable    int64             `json:"amount_capturable"`
	Received      int64             `json:"amount_received"`
	CaptureMethod string            `json:"capture_method"`
	Currency      string            `json:"currency"`
	Created       int64             `json:"created"`
	Livemode      bool              `json:"livemode"`
	Metadata      map[string]string `json:"metadata"`
	Status        string            `json:"status"`
}

// stripeError is the body of a refusal (https://docs.stripe.com/api/errors).
type stripeError struct {
	Type    string  `json:"type"`
	Code    string  `json:"code,omitzero"`
	Decline string  `json:"decline_code,omitzero"`
	Message string  `json:"message"`
	Intent  *intent `json:"payment_intent,omitempty"`
}

var metadataQuery = regexp.MustCompile(`^metadata\['purchase_id'\]:'([^']+)'$`)

// stripe serves one operation in Stripe's shape. As there, the first answer to an
// idempotency key is given again, even when the intent has changed since, and marked
// Idempotent-Replayed.
func (s *Server) stripe(op operation) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, httpapi.MaxBody)
		if err := r.ParseForm(); err != nil {
			writeStripe(w, http.StatusBadRequest, refusal("invalid_request_error", "", "the form cannot be read"))
			return
		}
		if !s.authorized(r) {
			writeStripe(w, http.StatusUnauthorized, refusal("invalid_request_error", "", "Invalid API Key provided"))
			return
		}
		key := r.Header.Get("Idempotency-Key")
		if key != "" && s.replayed(w, r, key) {
			return
		}
		wish, known := s.stripeWish(op, r)
		if !known {
			writeStripe(w, http.StatusBadRequest, refusal("invalid_request_error", "parameter_missing",
				"amount, currency, capture_method=manual and metadata[purchase_id] are needed"))
			return
		}
		p, fits, f := s.call(op, wish, r)
		if f.status != 0 {
			writeStripe(w, f.status, refusal("api_error", "", "the stub was told to fail"))
			return
		}
		status, body := stripeAnswer(op, p, fits)
		if key != "" {
			s.remember(key, r, status, body)
		}
		s.after(f, r)
		writeStripe(w, status, body)
	}
}

func (s *Server) replayed(w http.ResponseWriter, r *http.Request, key string) bool {
	s.mu.Lock()
	old, ok := s.replies[key]
	s.mu.Unlock()
	if !ok {
		return false
	}
	if old.call != r.URL.Path || old.form != r.PostForm.Encode() {
		writeStripe(w, http.StatusBadRequest, refusal("idempotency_error", "",
			"Keys for idempotent requests can only be used with the same parameters they were first used with."))
		return true
	}
	w.Header().Set("Idempotent-Replayed", "true")
	writeStripe(w, old.status, json.RawMessage(old.body))
	return true
}

func (s *Server) remember(key string, r *http.Request, status int, body any) {
	text, err := json.Marshal(body)
	if err != nil {
		return // our own structs always encode
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, there := s.replies[key]; !there {
		s.replies[key] = reply{status: status, body: text, call: r.URL.Path, form: r.PostForm.Encode()}
	}
}

// stripeWish reads a call; false: something is missing.
func (s *Server) stripeWish(op operation, r *http.Request) (wish, bool) {
	switch op {
	case opAuthorize:
		amount, err := strconv.ParseInt(r.PostForm.Get("amount"), 10, 64)
		out := wish{reference: r.PostForm.Get("metadata[purchase_id]"), account: r.PostForm.Get("metadata[account]"),
			currency: r.PostForm.Get("currency"), amount: amount}
		return out, err == nil && amount > 0 && out.reference != "" && len(out.currency) == 3 && r.PostForm.Get("capture_method") == "manual"
	case opSearch:
		found := metadataQuery.FindStringSubmatch(r.URL.Query().Get("query"))
		if found == nil {
			return wish{}, false
		}
		return wish{reference: found[1]}, true
	case opCapture, opVoid, opRefund, opFind:
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.byID[r.PathValue("id")]; p != nil {
		return wish{reference: p.Reference}, true
	}
	return wish{}, true
}

func stripeAnswer(op operation, p *Payment, fits bool) (int, any) {
	if op == opSearch {
		found := []intent{}
		if p != nil {
			found = append(found, intentOf(p))
		}
		return http.StatusOK, map[string]any{"object": "search_result", "data": found, "has_more": false}
	}
	if p == nil {
		return http.StatusNotFound, refusal("invalid_request_error", "resource_missing", "No such payment_intent")
	}
	i := intentOf(p)
	switch {
	case p.Status == Declined && (op == opAuthorize || op == opCapture):
		e := refusal("card_error", "card_declined", "Your card was declined.")
		e["error"].Decline, e["error"].Intent = p.Reason, &i
		return http.StatusPaymentRequired, e
	case !fits:
		e := refusal("invalid_request_error", "payment_intent_unexpected_state", "This PaymentIntent's status does not allow that.")
		e["error"].Intent = &i
		return http.StatusBadRequest, e
	}
	return http.StatusOK, i
}

func refusal(kind, code, message string) map[string]*stripeError {
	return map[string]*stripeError{"error": {Type: kind, Code: code, Message: message}}
}

func intentOf(p *Payment) intent {
	i := intent{ID: p.ID, Object: "payment_intent", Amount: p.Amount, Received: p.Captured, CaptureMethod: "manual", Currency: p.Currency,
		Created:  p.Created.Unix(),
		Metadata: map[string]string{"purchase_id": p.Reference, "account": p.Account}}
	switch p.Status {
	case Authorized:
		i.Status, i.Capturable = "requires_capture", p.Amount
	case Captured:
		i.Status = "succeeded"
	case Voided:
		i.Status = "canceled"
	case Declined:
		i.Status = "requires_payment_method"
	}
	return i
}

func writeStripe(w http.ResponseWriter, status int, body any) { httpapi.WriteJSON(w, status, body) }
