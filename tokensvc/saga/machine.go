package saga

import (
	"fmt"

	"github.com/leaky-tokens/leaky-tokens/tokensvc/payment"
)

// Status is how far a purchase is.
type Status string

// States of a purchase. COMPLETED and FAILED are final.
const (
	Started         Status = "STARTED"
	PaymentReserved Status = "PAYMENT_RESERVED"
	TokensAllocated Status = "TOKENS_ALLOCATED"
	Completed       Status = "COMPLETED"
	Failed          Status = "FAILED"
)

// Final reports whether nothing comes after it.
func (s Status) Final() bool { return s == Completed || s == Failed }

// Action is what has to be done next.
type Action string

// Actions. All but allocate and fail ask the payment.
const (
	Authorize Action = "authorize" // reserve the money, or learn what was reserved
	Allocate  Action = "allocate"  // credit the tokens
	Capture   Action = "capture"   // take the money
	Void      Action = "void"      // give the reserved money back
	Abandon   Action = "abandon"   // nothing was asked for, nothing is to be given back
	None      Action = ""          // finished
)

// Position is where a purchase stands: how far it is, and whether it is being undone.
type Position struct {
	Status   Status
	Backward bool
	Asked    bool // the payment may know of it
}

// Next is the action of a position. Going back never takes tokens away before the payment
// has said for good that it will not be captured; the tokens go in the same transaction as
// FAILED.
func (p Position) Next() Action {
	switch {
	case p.Status == Started && p.Backward && !p.Asked:
		return Abandon
	case p.Status == Started:
		// Also on the way back: an authorisation that is still on its way must be known
		// before it can be voided. The call is idempotent, so it reserves at most once.
		return Authorize
	case p.Status.Final():
		return None
	case p.Backward:
		return Void
	case p.Status == PaymentReserved:
		return Allocate
	case p.Status == TokensAllocated:
		return Capture
	}
	return None
}

// Decision is what follows from an answer: a new position, another try later, or a person.
type Decision struct {
	To       Status
	Backward bool
	Reason   string // why it turns back or is parked
	Retry    bool   // nothing is known yet: ask again later
	Park     bool   // nothing more can be done without a person
}

// undo decides that the purchase goes back from where it is.
func undo(at Status, format string, args ...any) Decision {
	return Decision{To: at, Backward: true, Reason: fmt.Sprintf(format, args...)}
}

func park(p Position, format string, args ...any) Decision {
	return Decision{To: p.Status, Backward: p.Backward, Park: true, Reason: fmt.Sprintf(format, args...)}
}

func askAgain(p Position, reason string) Decision {
	return Decision{To: p.Status, Backward: p.Backward, Retry: true, Reason: reason}
}

// Decide is the whole table: what the payment's answer to an action means. It guesses
// nothing: what does not fit is for a person.
func Decide(p Position, action Action, order payment.Order, got payment.State) Decision {
	if got.Status == payment.Captured && !got.Matches(order) {
		return park(p, "the payment captured %d %s instead of %d %s", got.Captured, got.Currency, order.Amount, order.Currency)
	}
	switch action {
	case Authorize:
		return authorized(p, order, got)
	case Capture:
		return captured(p, order, got)
	case Void:
		return voided(p, got)
	case Allocate, Abandon, None:
	}
	return park(p, "action %q has no answer of a payment", action)
}

func authorized(p Position, order payment.Order, got payment.State) Decision {
	switch got.Status {
	case payment.Authorized:
		if !got.Matches(order) {
			return undo(PaymentReserved, "the payment reserved %d %s instead of %d %s", got.Amount, got.Currency, order.Amount, order.Currency)
		}
		return Decision{To: PaymentReserved, Backward: p.Backward}
	case payment.Declined:
		return Decision{To: Failed, Backward: true, Reason: because("payment declined", got.Reason)}
	case payment.Voided:
		return Decision{To: Failed, Backward: true, Reason: because("payment voided", got.Reason)}
	case payment.Captured:
		return park(p, "the payment is captured although nobody asked for that")
	case payment.Absent:
		return askAgain(p, "the payment does not know of it yet")
	}
	return askAgain(p, "no answer")
}

func captured(p Position, order payment.Order, got payment.State) Decision {
	switch got.Status {
	case payment.Captured:
		return Decision{To: Completed}
	case payment.Declined:
		return undo(TokensAllocated, "%s", because("capture declined", got.Reason))
	case payment.Voided:
		return undo(TokensAllocated, "%s", because("payment voided", got.Reason))
	case payment.Authorized:
		if !got.Matches(order) {
			return undo(TokensAllocated, "the payment reserved %d %s instead of %d %s", got.Amount, got.Currency, order.Amount, order.Currency)
		}
		return askAgain(p, "the payment is not captured yet")
	case payment.Absent:
		return park(p, "the payment does not know of what it reserved")
	}
	return askAgain(p, "no answer")
}

func voided(p Position, got payment.State) Decision {
	switch got.Status {
	case payment.Voided, payment.Declined:
		return Decision{To: Failed, Backward: true}
	case payment.Authorized:
		return askAgain(p, "the payment is not voided yet")
	case payment.Captured:
		if p.Status == TokensAllocated {
			return Decision{To: Completed} // the capture was faster; the tokens are paid
		}
		return park(p, "the payment is captured although nobody asked for that")
	case payment.Absent:
		return park(p, "the payment does not know of what it reserved")
	}
	return askAgain(p, "no answer")
}

func because(what, reason string) string {
	if reason == "" {
		return what
	}
	return what + ": " + reason
}
