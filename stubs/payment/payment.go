// Package payment is the far end of a purchase: it stands in for a payment provider, in our
// plain protocol (/v1/payments) and in the shape of Stripe's payment intents
// (/v1/payment_intents) over the same book, counts what it really took, and misbehaves on
// demand.
package payment

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
)

// Status is what a payment is.
type Status string

// States of a payment.
const (
	Authorized Status = "authorized"
	Captured   Status = "captured"
	Voided     Status = "voided"
	Declined   Status = "declined"
)

// Payment is one in the book. Amounts are minor units.
type Payment struct {
	ID        string    `json:"id"`
	Reference string    `json:"reference"` // the purchase's id
	Account   string    `json:"account"`
	Status    Status    `json:"status"`
	Amount    int64     `json:"amount"`   // authorised
	Captured  int64     `json:"captured"` // taken
	Currency  string    `json:"currency"`
	Reason    string    `json:"reason"`   // of a decline
	Captures  int       `json:"captures"` // how often money moved; never above 1
	Voids     int       `json:"voids"`    // how often money was given back; never above 1
	Created   time.Time `json:"created"`
}

// Config is what a stub needs.
type Config struct {
	Log     *slog.Logger
	Metrics prometheus.Registerer // may be nil
	APIKey  string                // when set, a call without it is refused with 401
	Done    <-chan struct{}       // closed when the stub stops: slow answers end; may be nil
}

// Server is the stub.
type Server struct {
	cfg   Config
	mux   *http.ServeMux
	calls *prometheus.CounterVec

	mu      sync.Mutex
	book    map[string]*Payment // by reference
	byID    map[string]*Payment
	replies map[string]reply // by idempotency key, Stripe's shape only
	faults  Faults
	luck    *rand.Rand
	next    int
}

// New makes a stub; serve its Handler.
func New(cfg Config) (*Server, error) {
	if cfg.Log == nil {
		return nil, errors.New("make payment stub: Log is needed")
	}
	s := &Server{cfg: cfg, mux: http.NewServeMux(), calls: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "leaky_stub_payment_calls_total",
		Help: "Calls that took effect, by operation and what the payment was afterwards."}, []string{"operation", "status"})}
	if cfg.Metrics != nil {
		if err := cfg.Metrics.Register(s.calls); err != nil {
			return nil, fmt.Errorf("register stub metrics: %w", err)
		}
	}
	s.Reset()
	s.routes()
	return s, nil
}

// Handler serves both protocols and the /__stub/ paths.
func (s *Server) Handler() http.Handler { return s.mux }

func (s *Server) routes() {
	handle := func(pattern string, h httpapi.HandlerFunc) { s.mux.Handle(pattern, httpapi.Handle(s.cfg.Log, h)) }
	handle("POST /v1/payments", s.plain(opAuthorize))
	handle("POST /v1/payments/{reference}/capture", s.plain(opCapture))
	handle("POST /v1/payments/{reference}/void", s.plain(opVoid))
	handle("POST /v1/payments/{reference}/refund", s.plain(opRefund))
	handle("GET /v1/payments/{reference}", s.plain(opFind))
	s.mux.HandleFunc("POST /v1/payment_intents", s.stripe(opAuthorize))
	s.mux.HandleFunc("POST /v1/payment_intents/{id}/capture", s.stripe(opCapture))
	s.mux.HandleFunc("POST /v1/payment_intents/{id}/cancel", s.stripe(opVoid))
	s.mux.HandleFunc("GET /v1/payment_intents/{id}", s.stripe(opFind))
	s.mux.HandleFunc("GET /v1/payment_intents/search", s.stripe(opSearch))
	handle("PUT /__stub/config", s.putConfig)
	handle("GET /__stub/config", s.getConfig)
	handle("GET /__stub/payments", s.list)
	handle("DELETE /__stub/payments", s.forget)
}

// Reset forgets every payment and fault.
func (s *Server) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.book, s.byID, s.replies, s.faults = map[string]*Payment{}, map[string]*Payment{}, map[string]reply{}, Faults{}
	s.luck = rand.New(rand.NewPCG(1, 1))
}

// Payments is the whole book.
func (s *Server) Payments() []Payment {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]Payment, 0, len(s.book))
	for _, p := range s.book {
		all = append(all, *p)
	}
	return all
}

// operation is what a call wants.
type operation string

const (
	opAuthorize operation = "authorize"
	opCapture   operation = "capture"
	opVoid      operation = "void"
	opRefund    operation = "refund" // by a person
	opFind      operation = "find"
	opSearch    operation = "search"
)

// wish is a call's content, whatever the protocol.
type wish struct {
	reference, account, currency string
	amount                       int64
}

// do carries out a call on the book; fits is false when the payment is in another state
// than the call needs. A payment is made once, taken once and given back once, however often
// a call is repeated. Nil: there is none.
func (s *Server) do(op operation, w wish, f fault) (found *Payment, fits bool) {
	p := s.book[w.reference]
	switch {
	case op == opAuthorize && p == nil:
		return s.authorize(w, f), true
	case op == opAuthorize || p == nil:
		return p, true
	}
	switch op {
	case opCapture:
		if p.Status == Authorized && f.decline {
			p.Status, p.Reason = Declined, "insufficient_funds"
		} else if p.Status == Authorized {
			p.Status, p.Captured, p.Captures = Captured, p.Amount, p.Captures+1
			if f.otherAmount {
				p.Captured++
			}
			s.calls.WithLabelValues(string(op), string(p.Status)).Inc()
		}
		return p, p.Status == Captured
	case opVoid:
		if p.Status == Authorized {
			p.Status, p.Voids = Voided, p.Voids+1
			s.calls.WithLabelValues(string(op), string(p.Status)).Inc()
		}
		return p, p.Status == Voided || p.Status == Declined
	case opRefund:
		if p.Status == Captured {
			p.Status, p.Captured, p.Voids, p.Reason = Voided, 0, p.Voids+1, "refunded"
			s.calls.WithLabelValues(string(op), string(p.Status)).Inc()
		}
		return p, p.Status == Voided
	case opAuthorize, opFind, opSearch:
	}
	return p, true
}

func (s *Server) authorize(w wish, f fault) *Payment {
	s.next++
	p := &Payment{ID: fmt.Sprintf("pi_%06d%08x", s.next, s.luck.Uint32()), Reference: w.reference, Account: w.account, Status: Authorized,
		Amount:   w.amount,
		Currency: w.currency, Created: time.Now().UTC()}
	if f.decline {
		p.Status, p.Reason = Declined, "card_declined"
	}
	if f.otherAmount {
		p.Amount++
	}
	s.book[w.reference], s.byID[p.ID] = p, p
	s.calls.WithLabelValues(string(opAuthorize), string(p.Status)).Inc()
	return p
}
