package saga

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/leaky-tokens/leaky-tokens/tokensvc/payment"
)

func TestNextAction(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		at   Position
		want Action
	}{
		{Position{Status: Started}, Authorize},
		{Position{Status: Started, Asked: true}, Authorize},
		{Position{Status: Started, Backward: true}, Abandon},
		{Position{Status: Started, Backward: true, Asked: true}, Authorize}, // to know what there is to void
		{Position{Status: PaymentReserved, Asked: true}, Allocate},
		{Position{Status: PaymentReserved, Asked: true, Backward: true}, Void},
		{Position{Status: TokensAllocated, Asked: true}, Capture},
		{Position{Status: TokensAllocated, Asked: true, Backward: true}, Void},
		{Position{Status: Completed, Asked: true}, None},
		{Position{Status: Failed, Asked: true, Backward: true}, None},
		{Position{Status: "OTHER"}, None},
	} {
		if got := tc.at.Next(); got != tc.want {
			t.Errorf("%+v: want %q, got %q", tc.at, tc.want, got)
		}
	}
}

// answers in the words of the table below.
func answer(name string) payment.State {
	s := payment.State{ID: "pi", Amount: 500, Currency: "usd"}
	switch name {
	case "authorized":
		s.Status = payment.Authorized
	case "authorized more":
		s.Status, s.Amount = payment.Authorized, 501
	case "other currency":
		s.Status, s.Currency = payment.Authorized, "eur"
	case "captured":
		s.Status, s.Captured = payment.Captured, 500
	case "captured less":
		s.Status, s.Captured = payment.Captured, 499
	case "voided":
		s.Status = payment.Voided
	case "declined":
		s.Status, s.Reason = payment.Declined, "no funds"
	case "absent":
		s = payment.State{Status: payment.Absent}
	}
	return s
}

func TestDecisions(t *testing.T) {
	t.Parallel()
	order := payment.Order{Amount: 500, Currency: "usd"}
	for _, tc := range []struct {
		status   Status
		backward bool
		answer   string
		want     string // the new status, with < when it goes backward; or retry, or park
	}{
		{Started, false, "authorized", "PAYMENT_RESERVED"},
		{Started, true, "authorized", "PAYMENT_RESERVED<"},
		{Started, false, "authorized more", "PAYMENT_RESERVED<"},
		{Started, false, "other currency", "PAYMENT_RESERVED<"},
		{Started, false, "declined", "FAILED<"},
		{Started, true, "declined", "FAILED<"},
		{Started, false, "voided", "FAILED<"},
		{Started, false, "absent", "retry"},
		{Started, false, "captured", "park"},
		{Started, false, "captured less", "park"},
		{PaymentReserved, true, "voided", "FAILED<"},
		{PaymentReserved, true, "declined", "FAILED<"},
		{PaymentReserved, true, "authorized", "retry"},
		{PaymentReserved, true, "authorized more", "retry"},
		{PaymentReserved, true, "captured", "park"},
		{PaymentReserved, true, "absent", "park"},
		{TokensAllocated, false, "captured", "COMPLETED"},
		{TokensAllocated, false, "captured less", "park"},
		{TokensAllocated, false, "declined", "TOKENS_ALLOCATED<"},
		{TokensAllocated, false, "voided", "TOKENS_ALLOCATED<"},
		{TokensAllocated, false, "authorized", "retry"},
		{TokensAllocated, false, "authorized more", "TOKENS_ALLOCATED<"},
		{TokensAllocated, false, "absent", "park"},
		{TokensAllocated, true, "voided", "FAILED<"},
		{TokensAllocated, true, "declined", "FAILED<"},
		{TokensAllocated, true, "captured", "COMPLETED"}, // the capture was faster than the cancellation
		{TokensAllocated, true, "captured less", "park"},
		{TokensAllocated, true, "authorized", "retry"},
		{TokensAllocated, true, "absent", "park"},
	} {
		at := Position{Status: tc.status, Backward: tc.backward, Asked: true}
		d := Decide(at, at.Next(), order, answer(tc.answer))
		got := string(d.To)
		switch {
		case d.Retry:
			got = "retry"
		case d.Park:
			got = "park"
		case d.Backward:
			got += "<"
		}
		if got != tc.want {
			t.Errorf("%s backward %t, %s: want %s, got %s (%s)", tc.status, tc.backward, tc.answer, tc.want, got, d.Reason)
		}
		if (d.Retry || d.Park) && (d.To != tc.status || d.Backward != tc.backward || d.Reason == "") {
			t.Errorf("%s, %s: what is not decided must stay and say why, got %+v", tc.status, tc.answer, d)
		}
	}
}

// The money and the tokens of every walk through the table agree at its end, whatever the
// payment answers, as long as it is honest about its own state.
func TestEveryWalkEndsInAgreement(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		order := payment.Order{Amount: 500, Currency: "usd"}
		at, book, credited := Position{Status: Started, Asked: true}, payment.State{Status: payment.Absent}, false
		for range 40 {
			action := at.Next()
			if action == None {
				break
			}
			if rapid.IntRange(0, 9).Draw(t, "cancel") == 0 {
				at.Backward = true
				continue
			}
			if action == Allocate {
				at.Status, credited = TokensAllocated, true
				continue
			}
			book = act(t, action, book)
			d := Decide(at, action, order, book)
			if d.Park {
				t.Skip("a person decides")
			}
			if d.Retry {
				continue
			}
			if at.Status == TokensAllocated && d.To == Failed {
				credited = false
			}
			at.Status, at.Backward = d.To, d.Backward
		}
		switch at.Status {
		case Completed:
			if !credited || book.Status != payment.Captured {
				t.Fatalf("completed with credit %t and payment %s", credited, book.Status)
			}
		case Failed:
			if credited || book.Status == payment.Captured || book.Status == payment.Authorized {
				t.Fatalf("failed with credit %t and payment %s", credited, book.Status)
			}
		default:
		}
	})
}

// act is an honest payment that may decline, reserve too much or not come round to it.
func act(t *rapid.T, action Action, book payment.State) payment.State {
	if rapid.IntRange(0, 4).Draw(t, "nothing happens") == 0 {
		return book
	}
	decline := rapid.IntRange(0, 3).Draw(t, "decline") == 0
	switch {
	case action == Authorize && book.Status == payment.Absent && decline:
		return answer("declined")
	case action == Authorize && book.Status == payment.Absent:
		return answer(rapid.SampledFrom([]string{"authorized", "authorized", "authorized more"}).Draw(t, "amount"))
	case action == Capture && book.Status == payment.Authorized && decline:
		book.Status = payment.Declined
	case action == Capture && book.Status == payment.Authorized:
		book.Status, book.Captured = payment.Captured, book.Amount
	case action == Void && book.Status == payment.Authorized:
		book.Status = payment.Voided
	}
	return book
}

func TestPricesAreRoundedUp(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ tokens, price, want int64 }{{1, 1, 1}, {1_000_000, 1000, 1000}, {1_000, 1000, 1}, {1_001, 1000, 2},
		{999, 1000, 1}, {1_000_000, 922_337_203_685, 922_337_203_685}} {
		if got := amount(tc.tokens, tc.price); got != tc.want {
			t.Errorf("%d tokens at %d: want %d, got %d", tc.tokens, tc.price, tc.want, got)
		}
	}
}

func TestEventsOfSteps(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		from, to Status
		want     string
	}{{Started, PaymentReserved, "TOKEN_PAYMENT_RESERVED"}, {PaymentReserved, TokensAllocated, "TOKEN_ALLOCATED"},
		{TokensAllocated, Completed, "TOKEN_PURCHASE_COMPLETED"},
		{Started, Failed, "TOKEN_PURCHASE_FAILED"}, {PaymentReserved, Failed, "TOKEN_PURCHASE_FAILED PAYMENT_RELEASE_REQUESTED"},
		{TokensAllocated, Failed, "TOKEN_PURCHASE_FAILED PAYMENT_RELEASE_REQUESTED"}, {TokensAllocated, TokensAllocated, ""},
		{PaymentReserved, PaymentReserved, ""}} {
		if got := strings.Join(eventsOf(tc.from, tc.to), " "); got != tc.want {
			t.Errorf("%s to %s: want %q, got %q", tc.from, tc.to, tc.want, got)
		}
	}
	for recovered, want := range map[bool][2]string{false: {"TokenPurchaseSaga", "TokenPurchaseSagaCompensation"},
		true: {"TokenPurchaseSagaRecovery", "TokenPurchaseSagaRecoveryCompensation"}} {
		got := [2]string{aggregate(Saga{Recovered: recovered}, eventFailed), aggregate(Saga{Recovered: recovered}, eventRelease)}
		if got != want {
			t.Errorf("aggregates: want %v, got %v", want, got)
		}
	}
}
