package payment

import (
	"crypto/subtle"
	"net/http"
	"strings"

	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
)

// plain serves one operation of our own protocol.
func (s *Server) plain(op operation) httpapi.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		if !s.authorized(r) {
			return httpapi.Fail(http.StatusUnauthorized, "wrong API key")
		}
		wish, err := readWish(op, w, r)
		if err != nil {
			return err
		}
		p, fits, f := s.call(op, wish, r)
		if f.status != 0 {
			return httpapi.Fail(f.status, "the stub was told to fail")
		}
		s.after(f, r)
		status := http.StatusOK
		switch {
		case p == nil:
			return httpapi.Fail(http.StatusNotFound, "no such payment")
		case p.Status == Declined && op != opFind && op != opVoid:
			status = http.StatusPaymentRequired
		case !fits:
			status = http.StatusConflict
		case op == opAuthorize:
			status = http.StatusCreated
		}
		httpapi.WriteJSON(w, status, p)
		return nil
	}
}

// call does an operation with the fault that the call has drawn. The payment is a copy.
func (s *Server) call(op operation, w wish, r *http.Request) (*Payment, bool, fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	amount := w.amount
	if p := s.book[w.reference]; p != nil {
		amount = p.Amount
	}
	f := s.draw(op, amount, r.Header)
	f.before()
	if f.status != 0 {
		return nil, false, f
	}
	p, fits := s.do(op, w, f)
	if p == nil {
		return nil, fits, f
	}
	c := *p
	return &c, fits, f
}

func (s *Server) authorized(r *http.Request) bool {
	got := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	return s.cfg.APIKey == "" || subtle.ConstantTimeCompare([]byte(got), []byte(s.cfg.APIKey)) == 1
}

func readWish(op operation, w http.ResponseWriter, r *http.Request) (wish, error) {
	out := wish{reference: r.PathValue("reference")}
	if op == opFind {
		return out, nil
	}
	var body struct {
		Reference string `json:"reference"`
		Account   string `json:"account"`
		Amount    int64  `json:"amount"`
		Currency  string `json:"currency"`
	}
	if err := httpapi.ReadJSON(w, r, &body); err != nil {
		return out, err
	}
	if op != opAuthorize {
		return out, nil
	}
	if body.Reference == "" || body.Amount < 1 || len(body.Currency) != 3 {
		return out, httpapi.Fail(http.StatusBadRequest, "reference, amount and currency are needed")
	}
	return wish{reference: body.Reference, account: body.Account, amount: body.Amount, currency: body.Currency}, nil
}
