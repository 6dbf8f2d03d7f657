package payment

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
	"github.com/leaky-tokens/leaky-tokens/internal/wording"
)

// Faults is how the stub misbehaves: PUT /__stub/config replaces all of it. A request
// overrides it by headers for a call of one's own: x-stub-decline: 1, x-stub-other-amount: 1,
// x-stub-refuse: 1, x-stub-lose: 1, x-stub-delay-ms: 50, x-stub-status: 503.
//
// Shares are of calls, 0 to 1, and drawn from Seed, so that a run can be repeated.
type Faults struct {
	Seed           uint64  `json:"seed"`
	Decline        float64 `json:"decline"`        // of authorisations
	DeclineCapture float64 `json:"declineCapture"` // of captures: the authorisation is gone
	OtherAmount    float64 `json:"otherAmount"`    // authorises one unit more than asked
	OtherCapture   float64 `json:"otherCapture"`   // takes one unit more than authorised
	Refuse         float64 `json:"refuse"`         // cut the connection, having done nothing
	Lose           float64 `json:"lose"`           // do it, then cut the connection
	Late           float64 `json:"late"`           // do it, then answer after LateMS
	LateMS         int     `json:"lateMs"`         // 0 to 600000
	DelayMS        int     `json:"delayMs"`        // before every answer, 0 to 600000
	Status         int     `json:"status"`         // 400 to 599: every call answers so and does nothing; 0: none does
	AmountRules    bool    `json:"amountRules"`    // amounts ending in 402, 403, 408, 409, 503: see byAmount
}

func (f *Faults) check() error {
	for name, share := range map[string]float64{"decline": f.Decline, "declineCapture": f.DeclineCapture, "otherAmount": f.OtherAmount,
		"otherCapture": f.OtherCapture,
		"refuse":       f.Refuse, "lose": f.Lose, "late": f.Late} {
		if !(share >= 0 && share <= 1) {
			return fmt.Errorf("%s must be 0 to 1", name)
		}
	}
	for name, ms := range map[string]int{"lateMs": f.LateMS, "delayMs": f.DelayMS} {
		if ms < 0 || ms > 600_000 {
			return fmt.Errorf("%s must be 0 to 600000", name)
		}
	}
	if f.Status != 0 && (f.Status < 400 || f.Status > 599) {
		return fmt.Errorf("status must be 400 to 599")
	}
	return nil
}

// ParseFaults decodes the body of PUT /__stub/config; an unknown member, a wrong type or a
// value out of range is an error that names it.
func ParseFaults(body []byte) (Faults, error) {
	var f Faults
	if !bytes.HasPrefix(bytes.TrimLeft(body, " \t\r\n"), []byte("{")) {
		return f, fmt.Errorf("a JSON object is expected")
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&f); err != nil {
		if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			return f, errors.New(wording.Member(wrong))
		}
		return f, fmt.Errorf("%s", strings.TrimPrefix(err.Error(), "json: "))
	}
	return f, f.check()
}

// SetFaults replaces the faults and begins Seed's row of chances anew.
func (s *Server) SetFaults(f Faults) error {
	if err := f.check(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults, s.luck = f, rand.New(rand.NewPCG(f.Seed, 7))
	return nil
}

// fault is what happens to one call.
type fault struct {
	decline, otherAmount, refuse, lose bool
	wait                               time.Duration
	status                             int
}

// draw decides what happens to a call. The caller holds the lock.
func (s *Server) draw(op operation, amount int64, h http.Header) fault {
	f, lucky := s.faults, func(share float64) bool { return share > 0 && s.luck.Float64() < share }
	out := fault{refuse: lucky(f.Refuse), lose: lucky(f.Lose), status: f.Status, wait: time.Duration(f.DelayMS) * time.Millisecond}
	if lucky(f.Late) {
		out.wait += time.Duration(f.LateMS) * time.Millisecond
	}
	switch op {
	case opAuthorize:
		out.decline, out.otherAmount = lucky(f.Decline), lucky(f.OtherAmount)
	case opCapture:
		out.decline, out.otherAmount = lucky(f.DeclineCapture), lucky(f.OtherCapture)
	case opVoid, opRefund, opFind, opSearch:
	}
	if f.AmountRules {
		out.byAmount(op, amount)
	}
	out.byHeader(h)
	return out
}

// byAmount is for those who can choose only what they buy, by the last three digits of
// the amount: 402 is declined, 403 is declined at the capture, 408 is done but never
// answered, 409 reserves another amount, 503 does nothing.
func (f *fault) byAmount(op operation, amount int64) {
	switch amount % 1000 {
	case 402:
		f.decline = f.decline || op == opAuthorize
	case 403:
		f.decline = f.decline || op == opCapture
	case 408:
		f.lose = f.lose || op == opAuthorize || op == opCapture
	case 409:
		f.otherAmount = f.otherAmount || op == opAuthorize
	case 503:
		f.status = http.StatusServiceUnavailable
	}
}

func (f *fault) byHeader(h http.Header) {
	for name, flag := range map[string]*bool{"X-Stub-Decline": &f.decline, "X-Stub-Other-Amount": &f.otherAmount, "X-Stub-Refuse": &f.refuse,
		"X-Stub-Lose": &f.lose} {
		if on, err := strconv.ParseBool(h.Get(name)); err == nil {
			*flag = on
		}
	}
	if ms, err := strconv.Atoi(h.Get("X-Stub-Delay-Ms")); err == nil && ms >= 0 && ms <= 600_000 {
		f.wait = time.Duration(ms) * time.Millisecond
	}
	if status, err := strconv.Atoi(h.Get("X-Stub-Status")); err == nil && status >= 400 && status <= 599 {
		f.status = status
	}
}

// before cuts a call that is to have no effect; after delays or loses the answer of one
// that had.
func (f fault) before() {
	if f.refuse {
		panic(http.ErrAbortHandler) // net/http's own way to drop a connection
	}
}

func (s *Server) after(f fault, r *http.Request) {
	if f.wait > 0 {
		timer := time.NewTimer(f.wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-r.Context().Done():
		case <-s.cfg.Done:
		}
	}
	if f.lose {
		panic(http.ErrAbortHandler)
	}
}

func (s *Server) putConfig(w http.ResponseWriter, r *http.Request) error {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, httpapi.MaxBody))
	if err != nil {
		return httpapi.Fail(http.StatusRequestEntityTooLarge, "body is larger than %d bytes", httpapi.MaxBody)
	}
	f, err := ParseFaults(body)
	if err != nil {
		return httpapi.Fail(http.StatusBadRequest, "stub configuration: %v", err)
	}
	if err := s.SetFaults(f); err != nil {
		return err
	}
	httpapi.WriteJSON(w, http.StatusOK, f)
	return nil
}

func (s *Server) getConfig(w http.ResponseWriter, _ *http.Request) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	httpapi.WriteJSON(w, http.StatusOK, s.faults)
	return nil
}

// Book is the answer of GET /__stub/payments.
type Book struct {
	Counts   map[Status]int   `json:"counts"`
	Captured map[string]int64 `json:"captured"` // minor units by account
	Payments []Payment        `json:"payments"` // of ?account=, else all
}

func (s *Server) list(w http.ResponseWriter, r *http.Request) error {
	b := Book{Counts: map[Status]int{}, Captured: map[string]int64{}, Payments: []Payment{}}
	for _, p := range s.Payments() {
		if account := r.URL.Query().Get("account"); account != "" && account != p.Account {
			continue
		}
		b.Counts[p.Status]++
		b.Captured[p.Account] += p.Captured
		b.Payments = append(b.Payments, p)
	}
	httpapi.WriteJSON(w, http.StatusOK, b)
	return nil
}

func (s *Server) forget(w http.ResponseWriter, _ *http.Request) error {
	s.Reset()
	w.WriteHeader(http.StatusNoContent)
	return nil
}
